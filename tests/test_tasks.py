from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import tasks
from pipeline.errors import SeqtrackError
from pipeline.labels import label_texts
from pipeline.tasks import LabelStatistics, Task, infer_problem_type


def infer(values: Iterable[Any], chosen: Any = None) -> Task:
    labels = LabelStatistics()
    for value in values:
        labels.add(label_texts(value))
    return infer_problem_type(labels, chosen)


@pytest.mark.parametrize(
    ("values", "problem_type", "reason"),
    [
        (["yes", "no"], "single_label_classification", "2 different labels, names such as 'no'"),
        ([0, 1, 1], "single_label_classification", "2 different labels, all of them whole"),
        (["0.0", "1.0"], "single_label_classification", "whole numbers"),
        ([0.0, 1.0, None], "single_label_classification", "whole numbers"),
        ([True, False], "single_label_classification", "'false'"),
        (["5.000", "4.750", "2.400"], "regression", "all labels are numbers, and not all are whole: 2.400"),
        ([0.5, 1, "3"], "regression", "0.5"),
        (["1.5", "n/a"], "single_label_classification", "'n/a'"),
        ([["a"], ["a", "b"], []], "multi_label_classification", "3 of 3 labels are lists, of up to 2 classes"),
        (["a", ["b"]], "multi_label_classification", "1 of 2"),
        ([[0.5], [1]], "multi_label_classification", "lists"),
    ],
)
def test_the_task_is_told_from_the_labels_with_a_reason(values: Any, problem_type: str, reason: str) -> None:
    task = infer(values)
    assert task.problem_type == problem_type
    assert reason in task.reason


def test_params_decide_where_the_labels_allow_it() -> None:
    for chosen in ("single_label_classification", "multi_label_classification", "regression"):
        assert infer(["1", "2.5"], chosen) == Task(problem_type=chosen, reason="data.problem_type says so")


@pytest.mark.parametrize(
    ("values", "chosen", "message"),
    [
        (["a", "1"], "regression", "'a' is no number"),
        ([[1, 2]], "regression", "1 labels are lists"),
        ([["a", "b"]], "single_label_classification", "lists, of up to 2 classes"),
        ([None], None, "no row has a label"),
    ],
)
def test_labels_that_cannot_be_those_of_the_task(values: Any, chosen: Any, message: str) -> None:
    with pytest.raises(SeqtrackError, match=message):
        infer(values, chosen)


@given(
    st.lists(st.sampled_from(["a", "b", 1, 2.5, 0.5, "1.0", "x10"]) | st.lists(st.sampled_from("ab")), min_size=1),
    st.randoms(use_true_random=False),
)
def test_the_order_of_rows_changes_nothing(values: list[Any], random: Random) -> None:
    assert infer(values) == infer(random.sample(values, len(values)))


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "MOST_DISTINCT", 10)
    labels = LabelStatistics()
    for number in range(100):
        labels.add(str(number))
    labels.add("99.5")
    assert len(labels.distinct) == 10
    assert infer_problem_type(labels).problem_type == "regression"  # what came after the cap counts
    assert "more than 10 different" in infer(range(100)).reason
