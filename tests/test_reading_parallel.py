"""Texts and labels in two files: which labels go with which texts, and that both are read in step."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SeqtrackError
from pipeline.input_files import InputFile, find_input_files
from pipeline.reading import find_files, format_of
from tests.test_reading import read, settings_of
from tests.test_reading_formats import write

LINE = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"))


def understood(folder: Path, contents: dict[str, str], labels_path: str, **given: Any) -> list[InputFile]:
    """Write files into a folder and find out what they are."""
    for name, content in contents.items():
        write(folder, name, content)
    return find_input_files(settings_of(path=str(folder), labels_path=labels_path, **given))


def rows_of(file: InputFile) -> list[dict[str, Any]]:
    return [row.values for row in file.format.rows(file.path)]  # type: ignore[union-attr]


@given(rows=st.lists(st.tuples(LINE, LINE), min_size=1))
def test_two_parallel_files(tmp_path_factory: pytest.TempPathFactory, rows: Any) -> None:
    folder = tmp_path_factory.getbasetemp() / "parallel"
    texts = write(folder, "x.txt", "".join(text + "\n" for text, _ in rows))
    write(folder, "y.txt", "".join(label + "\r\n" for _, label in rows))
    _, found = read(texts, labels_path="y.txt", encoding="utf-8")
    assert [(row.values["text"], row.values["label"]) for row in found] == rows
    assert [row.line for row in found] == list(range(1, len(rows) + 1))
    assert find_files(folder, settings_of(labels_path="y.txt")) == [texts]


@pytest.mark.parametrize(
    ("texts", "labels", "labels_path", "pattern"),
    [
        ("{}.txt", "{}.labels", "*.labels", None),
        ("{}.txt", "{}.labels.txt", "*.labels.txt", None),
        ("{}.txt", "labels/{}.txt", "labels/*.txt", None),
        ("{}/texts.txt", "{}/labels.txt", "labels.txt", None),
        ("{}/texts.txt", "{}/texts.labels", "*.labels", None),
        ("texts/{}.txt", "labels/{}.txt", "../labels/*.txt", "texts/*.txt"),
        ("{}.en", "{}.label", "*.label", "*.en"),
    ],
)
def test_several_splits(tmp_path: Path, texts: str, labels: str, labels_path: str, pattern: str | None) -> None:
    contents = {"README.md": "notes"}
    for split in ("train", "dev"):
        contents |= {texts.format(split): f"{split} a\n{split} b\n", labels.format(split): "x\ny\n"}
    contents |= {texts.format("test"): "unlabelled, so far\n"}
    dev, test, train = understood(tmp_path, contents, labels_path, pattern=pattern)
    assert (dev.split, test.split, train.split) == ("validation", "test", "train")
    assert rows_of(train) == [{"text": "train a", "label": "x"}, {"text": "train b", "label": "y"}]
    assert rows_of(dev) == [{"text": "dev a", "label": "x"}, {"text": "dev b", "label": "y"}]
    assert rows_of(test) == [{"text": "unlabelled, so far"}]
    assert test.columns.label is None


def test_compressed_texts_and_labels(tmp_path: Path) -> None:
    write(tmp_path, "train.txt.gz", gzip.compress(b"a\nb\n"))
    write(tmp_path, "train.labels.gz", gzip.compress(b"x\ny\n"))
    (file,) = find_input_files(settings_of(path=str(tmp_path), labels_path="*.labels.gz"))
    assert rows_of(file) == [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]


def test_unlabelled_test_texts_that_are_no_text(tmp_path: Path) -> None:
    write(tmp_path, "test.txt", "ää\n".encode() + b"\xe9\nb\n")
    (file,) = find_input_files(settings_of(path=str(tmp_path), labels_path="*.labels"))
    assert [(row.line, getattr(row, "reason", "row")) for row in file.format.rows(file.path)] == [
        (1, "row"),
        (2, "undecodable"),
        (3, "row"),
    ]


@pytest.mark.parametrize(
    ("names", "labels_path", "problem"),
    [
        (
            ["train.txt", "dev.txt", "train.labels"],
            "*.labels",
            r"dev\.txt: no labels for these texts: there is no .*dev",
        ),
        (
            ["a.txt", "b.txt", "labels.txt"],
            "labels.txt",
            r"labels\.txt: several text files have the same.*a.txt, b.txt",
        ),
        (["labels.txt"], "labels.txt", "no text files to go with data.labels_path; found labels.txt"),
        (["texts/1.txt", "labels/1.txt"], "../labels/*.txt", r"no text files.*by data\.pattern, for example texts"),
        (["train.txt", "../train.labels"], "../*.labels", r"labels lie outside data\.path .*move them into data\.path"),
    ],
)
def test_labels_that_are_not_where_they_should_be(
    tmp_path: Path, names: list[str], labels_path: str, problem: str
) -> None:
    with pytest.raises(SeqtrackError, match=problem):
        understood(tmp_path / "given", dict.fromkeys(names, "x\n"), labels_path)


def test_labels_beside_a_file_would_not_be_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("given"), "x.txt", "a\n")
    write(Path("given"), "x.labels", "1\n")
    with pytest.raises(SeqtrackError, match=r"DVC would not watch.*; set data\.path: given and data\.pattern: x\.txt"):
        find_files(Path("given/x.txt"), settings_of(path="given/x.txt", labels_path="*.labels"))
    assert find_files(Path("given"), settings_of(pattern="x.txt", labels_path="*.labels")) == [Path("given/x.txt")]
    write(Path(), "x.txt", "a\n")
    with pytest.raises(SeqtrackError, match=r"put texts and labels into a folder and set data\.path to it"):
        find_files(Path("x.txt"), settings_of(path="x.txt", labels_path="*.labels"))


def test_labels_change_the_digest_of_their_texts(tmp_path: Path) -> None:
    texts = write(tmp_path, "x.txt", "a\n")
    kind = format_of(texts, settings_of(labels_path="y.txt"))
    digests = [kind.digest(texts)]
    for label in "10":
        write(tmp_path, "y.txt", f"{label}\n")
        digests.append(kind.digest(texts))
    assert len(set(digests)) == 3
