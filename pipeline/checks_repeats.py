"""Checks of texts that occur more than once: repeats, and labels that contradict each other.

Promises: found by 128-bit hash of the normal form (pipeline.normalize), so in linear memory and with sorting as the
only cost above it. Near duplicates are the split stage's, which verifies them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.checks import MOST_EXAMPLES, Example, Finding
from pipeline.row_facts import UNLABELLED, RowFacts

ExamplesAt = Callable[[NDArray[np.int64]], tuple[Example, ...]]
"""Makes examples of rows, given their positions in file order, ascending."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Repeats:
    """Rows grouped by key.

    Attributes:
        order: positions of rows, those with equal keys together, shape (rows,).
        starts: where in `order` a group begins, shape (groups,).
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]

    def sizes(self) -> NDArray[np.int64]:
        """Return the rows of each group, shape (groups,)."""
        return np.diff(np.append(self.starts, len(self.order)))


def find_repeats(facts: RowFacts) -> Repeats:
    """Group rows by key."""
    high, low = facts.keys["high"], facts.keys["low"]
    order = np.argsort(high)
    same_high = high[order][1:] == high[order][:-1]
    same_low = low[order][1:] == low[order][:-1]
    if (same_high & ~same_low).any():  # half of the hash is not enough: once in 10**7 files of a million texts
        order = np.lexsort((low, high))
        same_high = high[order][1:] == high[order][:-1]
        same_low = low[order][1:] == low[order][:-1]
    return Repeats(order=order, starts=np.concatenate([[0], np.flatnonzero(~(same_high & same_low)) + 1]))


def exact_duplicates(facts: RowFacts, repeats: Repeats, examples_at: ExamplesAt) -> Finding:
    """Count the rows whose normalised text, or pair of texts, stands in an earlier row."""
    sizes = repeats.sizes()
    count = len(facts) - len(sizes)
    if not count:
        return Finding(count=0, message="no text occurs twice; the split stage looks for near duplicates")
    return Finding(
        count=count,
        message=f"rows repeat an earlier one ({int((sizes > 1).sum()):,} texts occur more than once), case, width, "
        "punctuation and spacing aside; the split stage keeps them in one split and looks for near duplicates",
        fix="nothing needs doing, but delete them if they are no part of what you want to learn or measure",
        examples=examples_at(_pairs(repeats, sizes > 1, np.arange(len(facts)))),
    )


def conflicting_labels(facts: RowFacts, repeats: Repeats, examples_at: ExamplesAt) -> Finding:
    """Count the normalised texts, or pairs in their order, that occur with different labels."""
    labels = facts.labels[repeats.order]
    highest = np.maximum.reduceat(labels, repeats.starts)
    # An unlabelled row contradicts none.
    lowest = np.minimum.reduceat(np.where(labels == UNLABELLED, np.iinfo(np.int32).max, labels), repeats.starts)
    differs = lowest < highest
    count = int(differs.sum())
    if not count:
        return Finding(count=0, message="no text has two labels")
    return Finding(
        count=count,
        message=f"texts stand with different labels, in {int(repeats.sizes()[differs].sum()):,} rows, case, width, "
        "punctuation and spacing aside",
        fix="decide on one label each, or delete these rows: no model can get all of them right",
        examples=examples_at(_pairs(repeats, differs, facts.labels)),
    )


def _pairs(repeats: Repeats, chosen: NDArray[np.bool_], values: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return two rows with different values of each chosen group, groups first in the files, at most MOST_EXAMPLES."""
    firsts = np.minimum.reduceat(repeats.order, repeats.starts)
    ends = repeats.starts + repeats.sizes()
    numbers = np.flatnonzero(chosen)
    rows: list[int] = []
    for number in numbers[np.argsort(firsts[numbers])][: MOST_EXAMPLES // 2]:
        members = np.sort(repeats.order[repeats.starts[number] : ends[number]])
        members = members[values[members] != UNLABELLED]
        rows += [int(members[0]), int(members[values[members] != values[members[0]]][0])]
    return np.array(sorted(rows), np.int64)
