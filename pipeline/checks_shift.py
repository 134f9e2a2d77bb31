"""Checks of splits that the files give: are validation and test drawn from where train comes from?

Promises: a shift is reported when it is both large enough to matter and beyond chance, so that neither a small test
file nor a huge one raises a false alarm. Thresholds stand here with their sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.checks import Finding
from pipeline.label_index import LabelIndex
from pipeline.reading_base import shorten
from pipeline.row_facts import SPLITS, UNLABELLED, RowFacts

LARGE: Final = 0.1  # a tenth of the rows would have to change to make the splits alike
# Two-sample Kolmogorov-Smirnov at a level of 0.001: D > c sqrt((n + m) / nm) with c = sqrt(-ln(0.001 / 2) / 2)
# (N. Smirnov, Ann. Math. Stat. 19, 1948). Lengths are whole numbers and tie, which makes the test conservative.
KS_FACTOR: Final = 1.949
LEVEL: Final = 0.001


def length_shift(facts: RowFacts) -> Finding | None:
    """Compare the lengths of each given split with those of train: the largest gap between the two cumulative shares.

    Returns:
        None where there is no train or nothing to compare it with.
    """
    sizes = np.sum(list(facts.sizes().values()), axis=0)
    splits = _to_compare(facts)
    if splits is None:
        return None
    train, others = splits
    told, shifted = [], []
    for name, rows in others.items():
        ours, theirs = np.sort(sizes[train]), np.sort(sizes[rows])
        distance, differs = _compared(ours, theirs)
        line = (
            f"{name} differs from train by {distance:.2f} (median {int(np.median(theirs)):,} characters, in train "
            f"{int(np.median(ours)):,})"
        )
        told.append(line)
        if differs:
            shifted.append(line)
    return _finding("lengths (Kolmogorov-Smirnov distance): ", told, shifted)


def label_shift(facts: RowFacts, index: LabelIndex) -> Finding | None:
    """Compare the shares of the classes: total variation distance, and Pearson's chi-square test of homogeneity.

    Numbers of regression are compared as lengths are.

    Returns:
        None where there is no train or no other split with labels.
    """
    splits = _to_compare(facts)
    if splits is None:
        return None
    train, others = splits
    if index.is_regression:
        return _number_shift(facts, train, others)
    ours = index.class_counts(facts.label_counts(train))
    told, shifted = [], []
    for name, rows in others.items():
        theirs = index.class_counts(facts.label_counts(rows))
        if not theirs.sum() or not ours.sum():
            continue
        gaps = theirs / theirs.sum() - ours / ours.sum()
        distance = float(np.abs(gaps).sum() / 2)
        most = int(np.abs(gaps).argmax())
        line = (
            f"{name} differs from train by {distance:.2f} ({shorten(index.classes[most], 30)}: "
            f"{theirs[most] / theirs.sum():.1%}, in train {ours[most] / ours.sum():.1%})"
        )
        told.append(line)
        if distance >= LARGE and chi_square(ours, theirs) < LEVEL:
            shifted.append(line)
    return _finding("shares of classes (total variation distance): ", told, shifted) if told else None


def _number_shift(facts: RowFacts, train: NDArray[np.bool_], others: Mapping[str, NDArray[np.bool_]]) -> Finding | None:
    values = np.array([float(name) for name in facts.label_names])
    labelled = facts.labels != UNLABELLED
    ours = np.sort(values[facts.labels[train & labelled]])
    told, shifted = [], []
    for name, rows in others.items():
        theirs = np.sort(values[facts.labels[rows & labelled]])
        if not len(theirs) or not len(ours):
            continue
        distance, differs = _compared(ours, theirs)
        line = (
            f"{name} differs from train by {distance:.2f} (median {np.median(theirs):g}, in train {np.median(ours):g})"
        )
        told.append(line)
        if differs:
            shifted.append(line)
    return _finding("labels (Kolmogorov-Smirnov distance): ", told, shifted) if told else None


def _compared(first: NDArray[np.number], second: NDArray[np.number]) -> tuple[float, bool]:
    """Return the distance of two sorted samples, and whether it is large and beyond chance."""
    distance = kolmogorov_smirnov(first, second)
    chance = KS_FACTOR * np.sqrt((len(first) + len(second)) / (len(first) * len(second)))
    return distance, bool(distance >= LARGE and distance > chance)


def kolmogorov_smirnov(first: NDArray[np.number], second: NDArray[np.number]) -> float:
    """Return the largest gap between the empirical distribution functions of two sorted samples, shape (n,), (m,)."""
    values = np.concatenate([first, second])
    gaps = np.searchsorted(first, values, "right") / len(first) - np.searchsorted(second, values, "right") / len(second)
    return float(np.abs(gaps).max())


def chi_square(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """Return the chance of counts at least as different as these, shape (classes,) each, if one source gave both.

    K. Pearson, Phil. Mag. 50, 1900; classes in neither are left out.
    """
    from scipy.special import chdtrc  # late: slow to load, and needed only where splits are given

    table = np.stack([first, second])[:, (first + second) > 0].astype(float)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    return float(chdtrc(max(table.shape[1] - 1, 1), ((table - expected) ** 2 / expected).sum()))


def _to_compare(facts: RowFacts) -> tuple[NDArray[np.bool_], dict[str, NDArray[np.bool_]]] | None:
    """Return which rows are train, and which are in each other given split; None when either has none."""
    rows = {name: facts.splits == number for number, name in enumerate(SPLITS) if name is not None}
    train = rows.pop("train")
    others = {name: mask for name, mask in rows.items() if mask.any()}
    return (train, others) if train.any() and others else None


def _finding(what: str, told: Sequence[str], shifted: Sequence[str]) -> Finding:
    return Finding(
        count=len(shifted),
        message=what + "; ".join(shifted or told),
        fix="check that the splits come from one source: scores on them may not carry over",
    )
