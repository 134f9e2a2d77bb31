"""What users hand over, from the file to the canonical rows: labels of all kinds, odd files, saved data sets."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline import validation
from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet
from pipeline.outputs import output_folder
from pipeline.params import Validate
from pipeline.rows import read_rows
from tests.test_reading import settings_of
from tests.test_reading_formats import write

Read = Callable[..., "Result"]


class Result:
    """What validate made of some files."""

    def __init__(self, place: Path, contents: Mapping[str, bytes | str], **given: Any) -> None:
        for name, content in contents.items():
            write(place / "given", name, content)
        with output_folder(place / "validated") as folder:
            data = settings_of(**{"path": str(place / "given"), **given})
            self.report = validation.validate(data, Validate(max_rejected_ratio=0.5), folder)
        self.rows = read_rows(place / "validated" / "rows.parquet").to_pylist()
        self.labels = LabelSet.read(place / "validated" / "labels.json")
        self.rejected = [json.loads(line) for line in (place / "validated" / "rejected.jsonl").read_text().splitlines()]


@pytest.fixture
def result(tmp_path: Path) -> Read:
    def run(contents: Mapping[str, bytes | str], **given: Any) -> Result:
        return Result(tmp_path, contents, **given)

    return run


def csv_of(*labels: str) -> str:
    return "text,label\n" + "".join(f'text {number},"{label}"\n' for number, label in enumerate(labels))


def json_lines(*labels: object) -> str:
    return "".join(json.dumps({"text": f"text {n}", "label": label}) + "\n" for n, label in enumerate(labels))


CLASSES, SEVERAL, QUANTITY = "single_label_classification", "multi_label_classification", "regression"


@pytest.mark.parametrize(
    ("content", "given", "problem_type", "names"),
    [
        (csv_of("10", "2", "1"), {}, CLASSES, ("1", "2", "10")),
        (csv_of("level 10", "level 2"), {}, CLASSES, ("level 2", "level 10")),
        (csv_of("0.0", "1.0"), {}, CLASSES, ("0.0", "1.0")),
        (csv_of("0.0", "3.8", "5"), {}, QUANTITY, ()),
        (csv_of("1", "2"), {"problem_type": QUANTITY}, QUANTITY, ()),
        (csv_of("0.5", "1.5"), {"label_names": ("1.5", "0.5")}, CLASSES, ("1.5", "0.5")),
        (csv_of("0.5", "1.5"), {"problem_type": CLASSES}, CLASSES, ("0.5", "1.5")),
        (csv_of("True", "False"), {}, CLASSES, ("False", "True")),
        (csv_of("a|b", "b"), {"label_delimiter": "|"}, SEVERAL, ("a", "b")),
        (csv_of("['b', 'a']", "[]"), {}, SEVERAL, ("a", "b")),
        (csv_of("[10, 2]", "[2]"), {}, SEVERAL, ("2", "10")),
        (csv_of("['b', 'a']", "['a']"), {"problem_type": CLASSES}, CLASSES, ("['a']", "['b', 'a']")),
        (csv_of("[deleted]", "[kept]"), {}, CLASSES, ("[deleted]", "[kept]")),
        (json_lines(1.0, 0.0), {}, CLASSES, ("0.0", "1.0")),
        (json_lines(True, False), {}, CLASSES, ("false", "true")),
        (json_lines(["a", "b"], [], ["b"]), {}, SEVERAL, ("a", "b")),
    ],
)
def test_the_task_and_the_classes(
    result: Read, content: str, given: dict[str, Any], problem_type: str, names: tuple[str, ...]
) -> None:
    name = "all.csv" if content.startswith("text,") else "all.jsonl"
    found = result({name: content}, **given)
    assert (found.labels.problem_type, found.labels.names) == (problem_type, names)
    (said,) = [line for line in found.report.inferred if line.startswith("task: ")]
    assert said.startswith(f"task: {problem_type.replace('_', ' ')}, since ")


@pytest.mark.parametrize("twin", [("0", "0.0"), ("true", "True")])
def test_one_class_in_two_spellings_is_an_error(result: Read, twin: tuple[str, str]) -> None:
    with pytest.raises(SeqtrackError, match=r"mean the same.*write them alike in all files"):
        result({"train.csv": csv_of("x", twin[0]), "dev.csv": csv_of("x", twin[1])})


def test_rows_without_label(result: Read) -> None:
    found = result({"train.csv": csv_of("a", "", "b", " "), "test.csv": "text\nnew\n", "dev.csv": csv_of("a", "")})
    assert [(line["source"], line["line"], line["reason"]) for line in found.rejected] == [
        ("dev.csv", 3, "missing_label"),
        ("train.csv", 3, "missing_label"),
        ("train.csv", 5, "missing_label"),
    ]
    assert [row["text"] for row in found.rows if row["label"] is None] == ["new"]


def test_a_data_set_that_datasets_saved(result: Read, tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    train = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    test = datasets.Dataset.from_dict({"text": ["c"], "label": [-1]}, features=features)
    datasets.DatasetDict({"train": train, "test": test}).save_to_disk(tmp_path / "given")
    found = result({})
    assert [(row["text"], row["label"], row["split"]) for row in found.rows] == [
        ("c", None, "test"),
        ("a", "pos", "train"),
        ("b", "neg", "train"),
    ]


def test_columns_told_by_their_values_are_called_so(result: Read) -> None:
    found = result({"all.csv": "".join(f"{n % 2},some words of text number {n}\n" for n in range(30))})
    assert "text is column 'column 2 (text)': told by its values" in found.report.inferred
    assert "label is column 'column 1 (label)': told by its values" in found.report.inferred


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("train.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "LFS pointer.*git lfs pull"),
        ("data.xlsx", b"PK", "no data file in this folder.*save each sheet as CSV"),
        ("data.zip", b"PK", "no data file in this folder.*unpack it"),
        ("data.pkl", b"\x80", "no data file in this folder.*would run what is in it"),
        ("all.json", '{"data": [{"text": "a", "label": 1}]}', "rows stand under keys.*found keys data, arrays"),
        ("all.json", '{"train": [{"text": "a"}], "test": []}', "found keys train, test.*file of its own, named train"),
    ],
)
def test_what_cannot_be_read_says_what_to_do(result: Read, name: str, content: bytes | str, problem: str) -> None:
    with pytest.raises(SeqtrackError, match=problem):
        result({name: content})


def test_an_archive_named_outright(result: Read, tmp_path: Path) -> None:
    with pytest.raises(SeqtrackError, match=r"data\.tar\.gz: unknown file format.*unpack it"):
        result({"data.tar.gz": gzip.compress(b"x")}, path=str(tmp_path / "given" / "data.tar.gz"))
