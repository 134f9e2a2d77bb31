"""Telling what kind of task the labels make: classification, multi-label classification or regression.

Promises: told from the labels alone, row by row in memory bounded by the number of distinct ones up to a cap; the same
for any order of rows; always with the reason in words; params.yaml overrides it, unless the labels make it impossible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pipeline.errors import SeqtrackError
from pipeline.labels import ProblemType, is_fraction, is_number, natural_order
from pipeline.reading_base import shorten

__all__ = ["MOST_DISTINCT", "LabelStatistics", "ProblemType", "Task", "infer_problem_type"]

MOST_DISTINCT: Final = 100_000  # labels remembered; with more, only whether they are numbers is still told


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a model is to predict.

    Attributes:
        problem_type: transformers' name for it.
        reason: why, a clause for reports.
    """

    problem_type: ProblemType
    reason: str


class LabelStatistics:
    """Gathers what tells the task, label by label.

    Attributes:
        rows: labels seen, rows without one left out.
        several: of these, rows labelled with a list, of any length.
        longest: the longest such list.
        distinct: different labels, at most MOST_DISTINCT.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.several = 0
        self.longest = 0
        self.distinct: set[str] = set()
        self.capped = False
        # The least of their kind in natural order, so that messages do not depend on the order of rows.
        self.fraction: str | None = None
        self.word: str | None = None

    def add(self, label: str | tuple[str, ...] | None) -> None:
        """Take in the label of one row, as `pipeline.labels.label_texts` gives it."""
        if label is None:
            return
        self.rows += 1
        if isinstance(label, str):
            self._see(label)
            return
        self.several += 1
        self.longest = max(self.longest, len(label))
        for name in label:
            self._see(name)

    def _see(self, name: str) -> None:
        if name in self.distinct:
            return
        if len(self.distinct) < MOST_DISTINCT:
            self.distinct.add(name)
        else:
            self.capped = True
        if not is_number(name):
            self.word = name if self.word is None else natural_order((self.word, name))[0]
        elif is_fraction(name):
            self.fraction = name if self.fraction is None else natural_order((self.fraction, name))[0]


def infer_problem_type(labels: LabelStatistics, chosen: ProblemType | None = None) -> Task:
    """Tell the task.

    Lists of labels make it multi-label classification. Labels that are all numbers, one of them at least with a
    fraction, are a quantity: regression. All else is classification into one class; "0.0" and "1.0" are classes, since
    tools write integers so.

    Args:
        labels: of all rows that may be learned from.
        chosen: data.problem_type, which decides when it is not None.

    Raises:
        SeqtrackError: there are no labels, or they cannot be those of the chosen task.
    """
    if labels.rows == 0:
        raise SeqtrackError("no row has a label", fix="check the label column (data.label)")
    many = f"more than {MOST_DISTINCT:,}" if labels.capped else f"{len(labels.distinct):,}"
    if chosen is not None:
        _check(labels, chosen)
        return Task(problem_type=chosen, reason="data.problem_type says so")
    if labels.several:
        reason = f"{labels.several:,} of {labels.rows:,} labels are lists, of up to {labels.longest} classes"
        return Task(problem_type="multi_label_classification", reason=reason)
    if labels.word is None and labels.fraction is not None:
        reason = f"all labels are numbers, and not all are whole: {labels.fraction}, for example"
        return Task(problem_type="regression", reason=reason)
    if labels.word is None:
        reason = f"{many} different labels, all of them whole numbers"
    else:
        reason = f"{many} different labels, names such as {shorten(labels.word, 30)!r} among them"
    return Task(problem_type="single_label_classification", reason=reason)


def _check(labels: LabelStatistics, chosen: ProblemType) -> None:
    """Raise where the labels cannot be those of the chosen task."""
    problem = None
    if chosen == "regression" and labels.several:
        problem = f"{labels.several:,} labels are lists"
    elif chosen == "regression" and labels.word is not None:
        problem = f"label {shorten(labels.word, 30)!r} is no number"
    elif chosen == "single_label_classification" and labels.several:
        problem = f"{labels.several:,} labels are lists, of up to {labels.longest} classes"
    if problem:
        raise SeqtrackError(
            f"data.problem_type is {chosen}, but {problem}",
            where="params.yaml",
            fix="set data.problem_type to null to have it told from the labels, or correct data.label",
        )
