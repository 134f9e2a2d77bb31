"""The report in a real browser: on a phone and a desktop, in light and dark, with a keyboard, and rows that attack."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.label_errors import LabelErrors, Suspect
from pipeline.report_rows import FoundSuspects
from tests.report_world import EVIL, ReportWorld

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.slow
PHONE, DESKTOP = (360, 740), (1280, 800)
QUIET = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
QUIET += ("--disable-component-update", "--disable-sync")

# Of every element with a text of its own: its colour against what lies behind it, as WCAG 2 computes it.
CONTRAST = """
() => {
  const parse = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(at).backgroundColor);
      if (a === 1) return [r, g, b];
      if (a > 0) throw new Error('half transparent');
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own) continue;
    const style = getComputedStyle(element);
    const [r, g, b] = parse(element.closest('svg') ? style.fill : style.color);
    const levels = [light([r, g, b]), light(behind(element))].sort((x, y) => y - x);
    const ratio = (levels[0] + 0.05) / (levels[1] + 0.05);
    const name = element.className.baseVal ?? element.className;
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${element.tagName} ${name}`);
  }
  return [...new Set(found)];
}
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report of each task, with everything on it."""
    found = {}
    for task in ("single_label_classification", "multi_label_classification", "regression"):
        world = ReportWorld.make(tmp_path_factory.mktemp(task), task)
        report = world.report(attributions=3)
        if task != "regression":
            suspect = Suspect(row=0, label="tech", suggested="体育", chance=0.01)
            row = {
                "text": EVIL,
                "text_pair": "x" * 400,
                "label": '["tech"]',
                "source": "a",
                "line": 3,
                "split": "train",
            }
            errors = LabelErrors(judged=9, accuracy=0.9, suspects=(suspect,))
            report = replace(report, suspects=FoundSuspects(encoder="an/encoder", errors=errors, rows=[row]))
        found[task] = world.folder / "index.html"
        found[task].write_text(report.html(), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium found")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=list(QUIET))
        yield opened
        opened.close()


class Visit:
    """A page that is open, and what went wrong on it."""

    def __init__(self, browser: playwright.Browser, file: Path, size: tuple[int, int], scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append("a dialog"), dialog.dismiss()))
        self.page.goto(file.as_uri())

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def open_all(self) -> None:
        self.page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")


TASKS = ("single_label_classification", "multi_label_classification", "regression")


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("task", TASKS)
def test_it_fits_and_asks_for_nothing(
    browser: playwright.Browser, pages: dict[str, Path], task: str, size: tuple[int, int]
) -> None:
    with Visit(browser, pages[task], size) as visit:
        for opened in (False, True):
            if opened:
                visit.open_all()
            wide = visit.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
            assert wide[0] <= wide[1]
        # Each text stays in the box that it belongs to.
        outside = visit.page.evaluate(
            "[...document.querySelectorAll('main > section *')].filter((each) => !each.closest('.scroll') && "
            "!each.closest('svg') && each.getBoundingClientRect().right > window.innerWidth)"
            ".map((each) => each.className)"
        )
        assert outside == []
        assert visit.requests == [pages[task].as_uri()]
        assert visit.complaints == []
        assert visit.page.evaluate("document.scripts.length + document.images.length") == 0
        assert EVIL in visit.page.locator("body").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("task", TASKS)
def test_every_text_stands_out(browser: playwright.Browser, pages: dict[str, Path], task: str, scheme: str) -> None:
    with Visit(browser, pages[task], DESKTOP, scheme) as visit:
        visit.open_all()
        assert visit.page.evaluate(CONTRAST) == []
        ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(15, 19, 24)") == (scheme == "dark")
        visit.page.evaluate("document.querySelector('h1').style.color = '#808080'")
        assert len(visit.page.evaluate(CONTRAST)) == (scheme == "light")  # 3.65 to 1 on the light ground


def test_a_keyboard_reaches_everything(browser: playwright.Browser, pages: dict[str, Path]) -> None:
    with Visit(browser, pages[TASKS[0]], PHONE) as visit:
        page = visit.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        box = page.locator(".skip").bounding_box()
        assert box is not None
        assert box["y"] >= 0  # it shows itself when it has the focus
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.tagName") == "SUMMARY":
                break
        assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert not page.evaluate("document.activeElement.parentElement.open")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.parentElement.open")


def test_texts_keep_their_direction(browser: playwright.Browser, pages: dict[str, Path]) -> None:
    with Visit(browser, pages[TASKS[0]], DESKTOP) as visit:
        visit.page.evaluate("document.querySelector('.passage').textContent = 'مرحبا بالعالم'")
        assert visit.page.evaluate("getComputedStyle(document.querySelector('.passage')).direction") == "rtl"
        assert visit.page.evaluate("getComputedStyle(document.body).direction") == "ltr"
