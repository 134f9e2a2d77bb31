"""What the labels in the rows mean, once all of them are known: the task, the classes, and which label is which class.

Promises: settled from the labels alone, the same for any order of rows; labels that do not go together are an error
that names a place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet, natural_order, parted, spelled_twice
from pipeline.params import Data
from pipeline.row_facts import UNLABELLED, RowFacts
from pipeline.tasks import LabelStatistics, Task, infer_problem_type


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelIndex:
    """Which classes each label of RowFacts.label_names stands for.

    Attributes:
        task: what is to be predicted.
        classes: the class names in id order; none in regression.
        label_numbers: int64, shape (memberships,): positions in RowFacts.label_names ...
        class_numbers: int64, shape (memberships,): ... and the classes they are of. One each in single-label data.
    """

    task: Task
    classes: tuple[str, ...]
    label_numbers: NDArray[np.int64]
    class_numbers: NDArray[np.int64]

    @property
    def is_regression(self) -> bool:
        """Whether labels are quantities."""
        return self.task.problem_type == "regression"

    def label_set(self) -> LabelSet:
        """Return what labels.json holds."""
        return LabelSet(problem_type=self.task.problem_type, names=self.classes)

    def class_counts(self, label_counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of each class, shape (classes,), from those with each label, shape (labels,)."""
        weights = label_counts[self.label_numbers]
        return np.bincount(self.class_numbers, weights, minlength=len(self.classes)).astype(np.int64)

    def classes_of(self, label: str) -> tuple[str, ...]:
        """Return the classes that a label stands for."""
        return parted(label) if self.task.problem_type == "multi_label_classification" else (label,)


def settle(facts: RowFacts, lists: Collection[str], data: Data, places: Mapping[str, str]) -> LabelIndex:
    """Tell the task and the classes.

    Args:
        facts: all rows.
        lists: the labels that stand for several classes, as labels.joined writes them.
        data: the settings that may decide both.
        places: where each label first stands.

    Raises:
        SeqtrackError: no row is labelled, the labels are not those of the task, some are lists and some are not, two
            mean the same, or they do not differ.
    """
    task = _task(facts, lists, data)
    if task.problem_type == "regression":
        empty = np.zeros(0, np.int64)
        index = LabelIndex(task=task, classes=(), label_numbers=empty, class_numbers=empty)
        found: Collection[str] = facts.label_names
    else:
        several = task.problem_type == "multi_label_classification"
        single = next((label for label in facts.label_names if several and label not in lists), None)
        if single is not None:
            a_list = next(places[label] for label in facts.label_names if label in lists)
            raise SeqtrackError(
                "some labels are lists and some are not",
                where=places[single],
                found=f"{single!r} here, a list at {a_list}",
                fix="write all alike, or set data.problem_type: multi_label_classification takes one as a list of "
                "one, single_label_classification rejects rows with lists",
            )
        members = [parted(label) if several else (label,) for label in facts.label_names]
        first = {name: label for label, names in zip(facts.label_names, members, strict=True) for name in names[::-1]}
        found = first
        if twins := spelled_twice(found):
            raise SeqtrackError(
                f"labels {twins[0]!r} and {twins[1]!r} mean the same",
                where=places[first[twins[1]]],
                found=f"the first at {places[first[twins[0]]]}",
                fix="write them alike in all files",
            )
        classes = data.label_names or natural_order(found)
        numbers = {name: number for number, name in enumerate(classes)}
        pairs = [(label, numbers[name]) for label, names in enumerate(members) for name in names]
        both = np.array(pairs, np.int64).reshape(-1, 2)
        index = LabelIndex(task=task, classes=classes, label_numbers=both[:, 0], class_numbers=both[:, 1])
    if len(found) < 2:
        raise SeqtrackError(
            "there is nothing to learn where all labels are the same"
            if index.is_regression
            else "a classifier needs rows of at least 2 classes",
            where=data.path,
            found=", ".join(f"only {name!r}" for name in found) or "no labelled row",
            fix="check the label column (data.label), or add rows of another class",
        )
    return index


def canonical_number(label: str) -> str:
    """Return a number in one way of writing it, without exponent: "5", "5.000" and "5.0" as "5.0"."""
    return format(Decimal(repr(float(label))), "f")


def with_canonical_numbers(facts: RowFacts) -> tuple[RowFacts, dict[str, str]]:
    """Return facts whose labels are canonical numbers, and which label became which."""
    renamed = {label: canonical_number(label) for label in facts.label_names}
    names = tuple(dict.fromkeys(renamed.values()))
    numbers = {name: number for number, name in enumerate(names)}
    table = np.array([*(numbers[renamed[label]] for label in facts.label_names), UNLABELLED], np.int32)
    return replace(facts, labels=table[facts.labels], label_names=names), renamed


def _task(facts: RowFacts, lists: Collection[str], data: Data) -> Task:
    if data.label_names is not None and data.problem_type is None and not lists:
        return Task(problem_type="single_label_classification", reason="data.label_names lists classes")
    statistics = LabelStatistics()
    for label, rows in zip(facts.label_names, facts.label_counts().tolist(), strict=True):
        statistics.add(parted(label) if label in lists else label)
        statistics.rows += rows - 1
        statistics.several += rows - 1 if label in lists else 0
    if not statistics.rows:
        raise SeqtrackError(
            "no row has a label", where=data.path, found="no labelled row", fix="check the label column (data.label)"
        )
    return infer_problem_type(statistics, data.problem_type)
