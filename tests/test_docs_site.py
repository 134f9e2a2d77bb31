"""The pages as a site: it can be built strictly, has every page, and loads nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.code import HOME


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=HOME,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there_and_in_the_menu(site: Path) -> None:
    index = (site / "index.html").read_text(encoding="utf-8")
    for page in (HOME / "docs").rglob("*.md"):
        target = page.relative_to(HOME / "docs").with_suffix(".html").as_posix()
        assert (site / target).is_file(), target
        assert f'href="{target}"' in index, target


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """Links may lead elsewhere; scripts, styles, fonts and pictures may not come from there."""
    loaded = re.compile(r"<(?:script|img|iframe)\b[^>]*\bsrc=[\"']?(https?:)?//|<link\b[^>]*\bhref=[\"']?(https?:)?//")
    for page in site.rglob("*.html"):
        found = loaded.search(page.read_text(encoding="utf-8"))
        assert found is None, f"{page}: {found}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", style.read_text(encoding="utf-8")), style
