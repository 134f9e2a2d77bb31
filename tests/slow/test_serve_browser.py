"""The page of `make serve` in a browser without a screen: what is typed, what is shown, what never happens."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.code import HOME
from pipeline.columns import Columns, write_columns
from tests.process import ROOT
from tests.tiny import save_tiny_classifier

pytestmark = pytest.mark.slow
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
SCRIPT = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
NAMES = ("bad", "good <i>or so</i>", *(f"other {number}" for number in range(10)))
TEXTS = ["awful red film", "great green film", SCRIPT]
CONTRAST = """(element) => {
  const rgb = (color) => { const c = document.createElement('canvas').getContext('2d'); c.fillStyle = color;
    c.fillRect(0, 0, 1, 1); return [...c.getImageData(0, 0, 1, 1).data]; };
  let ground = element; while (rgb(getComputedStyle(ground).backgroundColor)[3] < 255) ground = ground.parentElement;
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const [a, b] = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor].map((c) => light(rgb(c)));
  return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
}"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses: of a model of single texts with many classes, and of a model of pairs."""
    found, processes = {}, []
    for name, pair in (("single", None), ("pairs", "text_pair")):
        folder = tmp_path_factory.mktemp(name)
        (folder / "params.yaml").write_bytes((HOME / "params.yaml").read_bytes())
        save_tiny_classifier(folder / "model", [*TEXTS, " ".join(TEXTS)], NAMES)
        write_columns(
            folder / "model" / "columns.json", Columns(text="text", text_pair=pair, label="label", split=None)
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "stages.serve", "--model", "model", "--port", "0"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        address = re.search(r"http://\S+", process.stdout.readline())
        assert address
        found[name] = address[0]
        processes.append(process)
    yield found
    for process in processes:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=600) == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.is_file():
        pytest.skip(f"no browser at {CHROMIUM}")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield opened
        opened.close()


class Visit:
    """A page that is open, and what happened on it."""

    def __init__(self, browser: Any, address: str, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.asked: list[str] = []
        self.trouble: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("console", lambda said: self.trouble.append(said.text) if said.type == "error" else None)
        self.page.on("dialog", lambda dialog: self.trouble.append(dialog.message))
        self.page.goto(address)
        self.page.locator("#facts", has_text="it reads the first").wait_for()

    def settled(self) -> None:
        """Wait until all that was asked for is shown."""
        # By what is there: the page's policy allows no predicates in JavaScript.
        self.page.locator("#explained[aria-busy='false']").wait_for()

    def fits(self) -> bool:
        wide: bool = self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        return wide


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_sentence_gets_its_label_its_bars_and_its_words(
    browser: Any, served: dict[str, str], width: int, scheme: str
) -> None:
    visit = Visit(browser, served["single"], viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = visit.page
    assert visit.fits()
    page.locator("#text").fill("great green film " + "unbroken" * 40)
    page.get_by_role("button", name="Classify").click()
    visit.settled()
    best = page.locator("#bars button").first
    assert best.locator(".name").inner_text() == page.locator("#said").inner_text()
    assert best.get_attribute("aria-pressed") == "true"
    assert re.fullmatch(r"\d+\.\d%", best.locator(".number").inner_text())
    assert page.locator("#words").text_content().startswith("great green film unbroken")
    assert page.locator("#words mark").count() >= 3
    assert page.locator("#words mark").first.get_attribute("title")
    assert page.locator("#bars button:visible").count() == 8
    page.get_by_role("button", name="Show all 12 labels").click()
    assert page.locator("#bars button:visible").count() == 12
    assert visit.fits()
    for place in ("h1", "#facts", "#said", "#go", "label", ".legend", "#strongest", "#bars .number >> nth=1"):
        assert page.locator(place).first.evaluate(CONTRAST) >= 4.5, place
    # Nothing from elsewhere, nothing against the page's own policy.
    assert {url.startswith(served["single"]) or url.startswith("data:") for url in visit.asked} == {True}
    assert visit.trouble == []
    visit.context.close()


def test_scripts_in_texts_and_labels_are_text(browser: Any, served: dict[str, str]) -> None:
    visit = Visit(browser, served["single"])
    page = visit.page
    page.locator("#text").fill(SCRIPT)
    page.locator("#go").click()
    visit.settled()
    assert page.locator("#words").text_content() == SCRIPT
    assert page.locator("#result script, #result img, #result i").count() == 0
    assert page.locator("#bars .name", has_text="good <i>or so</i>").count() == 1
    assert page.title() == "Try the model"
    assert visit.trouble == []
    visit.context.close()


def test_it_is_used_with_a_keyboard(browser: Any, served: dict[str, str]) -> None:
    visit = Visit(browser, served["single"])
    page = visit.page
    page.keyboard.type("awful red film")  # the text has the focus at first
    page.keyboard.press("Control+Enter")
    visit.settled()
    first = page.locator("#why-name").inner_text()
    for _ in range(3):  # the button, the first label, the second one
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    second = page.locator("#bars button").nth(1)
    page.locator("#bars li:nth-child(2) button[aria-pressed='true']").wait_for()
    visit.settled()
    assert page.locator("#why-name").inner_text() == f"Words behind “{second.locator('.name').inner_text()}”" != first
    outline = second.evaluate("(element) => getComputedStyle(element).outlineStyle")
    assert outline == "solid"  # where the focus is can be seen
    visit.context.close()


def test_pairs_have_two_texts_and_mistakes_are_told_in_words(browser: Any, served: dict[str, str]) -> None:
    visit = Visit(browser, served["pairs"])
    page = visit.page
    page.locator("#go").click()
    page.get_by_role("alert").filter(has_text="No text.").wait_for()
    assert page.locator("#result").is_hidden()
    page.get_by_label("First text").fill("awful film")
    page.get_by_label("Second text").fill("great film")
    page.locator("#go").click()
    visit.settled()
    assert page.locator("#words").text_content() == "awful film"
    assert page.locator("#pair-words").text_content() == "great film"
    assert page.locator("#error").text_content() == ""
    visit.page.route("**/invocations", lambda route: route.abort())
    page.locator("#go").click()
    page.get_by_role("alert").filter(has_text="The server does not answer. Is it still running?").wait_for()
    visit.context.close()
