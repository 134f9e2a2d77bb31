"""The identity of the user's parts: it changes when their sources do."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from pipeline.errors import SeqtrackError
from pipeline.params import Custom
from pipeline.parts import part_digests

NONE = {"model": None, "loss": None, "optimizer": None, "metrics": (), "callbacks": ()}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "own_parts"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('run to find its digest')")
    (package / "losses.py").write_text("one = 1")
    (package / "deep" / "more.py").write_text("two = 2")
    (tmp_path / "single_part.py").write_text("three = 3")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("own_parts", "single_part"):
        sys.modules.pop(name, None)
    return package


def digest(path: str) -> str:
    return part_digests(Custom(**{**NONE, "loss": path}))[path]


def test_nothing_of_ones_own() -> None:
    assert part_digests(Custom(**NONE)) == {}


def test_any_file_of_the_folder_counts_and_nothing_else(home: Path) -> None:
    before = digest("own_parts.losses:Focal")
    assert digest("own_parts.losses:Other") == before
    (home / "notes.txt").write_text("x")
    (home.parent / "single_part.py").write_text("four = 4")
    assert digest("own_parts.losses:Focal") == before
    (home / "deep" / "more.py").write_text("two = 3")
    changed = digest("own_parts.losses:Focal")
    assert changed != before
    (home / "deep" / "more.py").rename(home / "deep" / "less.py")
    assert digest("own_parts.losses:Focal") not in {before, changed}


def test_a_single_file(home: Path) -> None:
    before = digest("single_part:Focal")
    (home / "losses.py").write_text("")
    assert digest("single_part:Focal") == before
    (home.parent / "single_part.py").write_text("five = 5")
    assert digest("single_part:Focal") != before


def test_packages_count_by_version() -> None:
    assert digest("torch.nn:CrossEntropyLoss") == f"torch=={version('torch')}"
    assert digest("math:fsum") in {"standard library", "built into Python"}


def test_every_kind_of_part_is_in() -> None:
    own = Custom(model="torch:a", loss="torch:b", optimizer="torch:c", metrics=("torch:d",), callbacks=("torch:e",))
    assert list(part_digests(own)) == [f"torch:{name}" for name in "abcde"]


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(
        SeqtrackError, match=r"train.custom.metrics: there is no module nowhere; found nowhere.losses:x"
    ):
        part_digests(Custom(**{**NONE, "metrics": ("nowhere.losses:x",)}))
