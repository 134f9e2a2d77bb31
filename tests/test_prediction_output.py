"""Files of predictions for sets of labels and for numbers, in every format."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.decisions import decide
from pipeline.labels import LabelSet
from pipeline.params import PredictFormat
from pipeline.prediction_output import writer

SETS = LabelSet(problem_type="multi_label_classification", names=("a", "b, c"))
NUMBERS = LabelSet(problem_type="regression", names=())
LOGITS = {SETS: np.array([[1, 2], [-1, 2], [-1, -2]], np.float32), NUMBERS: np.array([[0.5], [-1], [3]], np.float32)}


def rows(folder: Path, form: PredictFormat, labels: LabelSet) -> list[dict[str, Any]]:
    file = folder / f"out.{form}"
    with writer(file, form, labels, "d1", integer_ids=True) as write:
        write([0, 1], decide(labels, LOGITS[labels][:2]))
        write([2], decide(labels, LOGITS[labels][2:]))
    if form == "parquet":
        return list(pq.read_table(file).to_pylist())
    with file.open(encoding="utf-8", newline="") as stream:
        if form == "jsonl":
            return [json.loads(line) for line in stream]
        return list(csv.DictReader(stream, delimiter="\t" if form == "tsv" else ","))


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet"])
def test_sets_of_labels(tmp_path: Path, form: PredictFormat) -> None:
    expected = [["a", "b, c"], ["b, c"], []]
    plain = rows(tmp_path, "jsonl", SETS)
    assert [row["labels"] for row in plain] == expected
    assert list(plain[0]) == ["id", "labels", "probabilities", "model"]
    found = rows(tmp_path, form, SETS)
    assert [row["labels"] if form == "parquet" else json.loads(row["labels"]) for row in found] == expected
    for row, line in zip(found, plain, strict=True):
        assert {name: float(row[f"probability_{name}"]) for name in SETS.names} == line["probabilities"]


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet"])
def test_numbers(tmp_path: Path, form: PredictFormat) -> None:
    assert rows(tmp_path, "jsonl", NUMBERS)[0] == {"id": 0, "score": 0.5, "model": "d1"}
    found = rows(tmp_path, form, NUMBERS)
    assert [(int(row["id"]), float(row["score"]), row["model"]) for row in found] == [
        (0, 0.5, "d1"),
        (1, -1.0, "d1"),
        (2, 3.0, "d1"),
    ]
