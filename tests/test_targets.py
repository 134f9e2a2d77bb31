"""Labels of rows as arrays, by task."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet, ProblemType, joined
from pipeline.targets import read_targets

NAMES = ("10", "b", 'c"')


def labels(problem_type: ProblemType) -> LabelSet:
    return LabelSet(problem_type=problem_type, names=() if problem_type == "regression" else NAMES)


def test_classes() -> None:
    known, targets = read_targets(labels("single_label_classification"), pa.array(["b", None, "10"]))
    assert known.to_pylist() == [True, False, True]
    assert (targets.tolist(), targets.dtype) == ([1, 0], np.int64)


def test_sets_of_classes() -> None:
    column = pa.chunked_array([[joined(['c"', "10"]), None], [joined([]), joined(["b"])]], pa.string())
    known, targets = read_targets(labels("multi_label_classification"), column)
    assert known.to_pylist() == [True, False, True, True]
    assert (targets.tolist(), targets.dtype) == ([[1, 0, 1], [0, 0, 0], [0, 1, 0]], np.float32)


def test_numbers() -> None:
    known, targets = read_targets(labels("regression"), pa.array(["3.8", None, "-1e3", "1700000001.5"]))
    assert known.to_pylist() == [True, False, True, True]
    assert targets.tolist() == [3.8, -1000.0, 1700000001.5]


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification", "regression"])
def test_no_labels_at_all(problem_type: ProblemType) -> None:
    known, targets = read_targets(labels(problem_type), pa.array([None, None], pa.string()))
    assert known.to_pylist() == [False, False]
    assert len(targets) == 0


@pytest.mark.parametrize(
    ("problem_type", "value", "problem"),
    [
        ("single_label_classification", "d", "label 'd' is not in the label set; expected one of 10, b"),
        ("multi_label_classification", '["b","d"]', "label 'd' is not in the label set; expected classes among 10, b"),
        ("multi_label_classification", "b", "expected a JSON list of classes"),
        ("multi_label_classification", '"b"', "not a list of labels"),
        ("regression", "nan", "label 'nan' is no number; expected numbers"),
    ],
)
def test_labels_of_another_task(problem_type: ProblemType, value: str, problem: str) -> None:
    with pytest.raises(SeqtrackError) as caught:
        read_targets(labels(problem_type), pa.array([value]))
    assert problem in str(caught.value)
