"""How well scores put positive rows before negative ones: ROC and precision-recall curves and the areas under them.

Promises: areas equal scikit-learn's `roc_auc_score` and `average_precision_score`, ties included, for any number of
resamples at once; a thinned curve starts and ends where the whole one does, and its area is the same to 0.001.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.resampling import Ids, Values, Weights, group_sums, ratio

Scores = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]

MOST_POINTS = 400  # per thinned curve


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A curve over all thresholds, from the highest to the lowest.

    Attributes:
        x: false positive rate, or recall; float64 [points].
        y: true positive rate, or precision; float64 [points].
        thresholds: rows with at least this score count as positive; float64 [points], infinite at the first point.
    """

    x: Values
    y: Values
    thresholds: Values


def areas(scores: Scores, positive: Flags, weights: Weights, rows: Ids | None = None) -> tuple[Values, Values]:
    """Return ROC-AUC and average precision, float64 [resamples] each.

    The ROC-AUC is the chance that a positive entry has the higher score than a negative one, ties counting half; NaN
    where a resample lacks either kind. Average precision is the sum of precisions weighted by the steps in recall,
    without interpolation; NaN where there is no positive entry.

    Args:
        scores: higher means more likely positive, [entries].
        positive: which entries are, [entries].
        weights: [rows, resamples].
        rows: the row of each entry, [entries]; None where each row is one entry.
    """
    order = np.argsort(-scores, kind="stable")
    descending = scores[order]
    levels: Ids = np.concatenate([[0], np.cumsum(descending[1:] != descending[:-1])])  # equal scores share a level
    is_positive = positive[order]
    with_positive = np.unique(levels[is_positive])
    count = len(with_positive)
    if not count:
        nothing = np.full(weights.shape[1], np.nan)
        return nothing, nothing
    of_row = order if rows is None else rows[order]
    # Both areas are sums over positive entries: negatives matter as sums between levels that have positives.
    place = np.searchsorted(with_positive, levels)
    tied = np.isin(levels, with_positive)

    def summed(chosen: Flags) -> Values:
        return group_sums(place[chosen], of_row[chosen], weights, count)

    positives = summed(is_positive)
    negatives_tied = summed(~is_positive & tied)
    below = place == count
    true = np.cumsum(positives, axis=0)
    false = np.cumsum(summed(~tied & ~below) + negatives_tied, axis=0)
    all_positive = true[-1]
    all_negative = false[-1] + group_sums(np.zeros(below.sum(), np.int64), of_row[below], weights, 1)[0]
    precision = ratio(true, true + false)
    ahead = (positives * (all_negative - false + negatives_tied / 2)).sum(axis=0)
    return _or_nan(ahead, all_positive * all_negative), _or_nan((positives * precision).sum(axis=0), all_positive)


def class_areas(scores: Scores, positive: Flags, weights: Weights) -> tuple[Values, Values]:
    """Return the two `areas` of each class, float64 [classes, resamples] each.

    Args:
        scores: [rows, classes].
        positive: [rows, classes].
        weights: [rows, resamples].
    """
    found = [areas(scores[:, column], positive[:, column], weights) for column in range(scores.shape[1])]
    return np.stack([auc for auc, _ in found]), np.stack([average for _, average in found])


def mean_of_defined(values: Values) -> Values:
    """Return the mean over classes, [resamples], of those that are not NaN; NaN where all are.

    Args:
        values: [classes, resamples].
    """
    return _or_nan(np.nan_to_num(values).sum(axis=0), (~np.isnan(values)).sum(axis=0))


def roc_curve(scores: Scores, positive: Flags) -> Curve:
    """Return the ROC curve from (0, 0) to (1, 1).

    Args:
        scores: [rows].
        positive: [rows], at least one row of each kind.
    """
    true, false, thresholds = _cumulated(scores, positive)
    return Curve(x=np.r_[0, false / false[-1]], y=np.r_[0, true / true[-1]], thresholds=np.r_[np.inf, thresholds])


def precision_recall_curve(scores: Scores, positive: Flags) -> Curve:
    """Return precision over recall, up to recall 1; the first point is (0, 1), where nothing is called positive.

    Args:
        scores: [rows].
        positive: [rows], at least one positive row.
    """
    true, false, thresholds = _cumulated(scores, positive)
    end = int(np.searchsorted(true, true[-1])) + 1  # past full recall precision only falls
    x, y = true[:end] / true[-1], true[:end] / (true + false)[:end]
    return Curve(x=np.r_[0, x], y=np.r_[1, y], thresholds=np.r_[np.inf, thresholds[:end]])


def thinned(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """Return at most so many points of a curve, evenly spread along its length."""
    if len(curve.x) <= most:
        return curve
    travelled = np.r_[0, np.cumsum(np.abs(np.diff(curve.x)) + np.abs(np.diff(curve.y)))]
    # Half of the points by length, half by x: a precision that jumps about at low recall would take them all.
    by_length = np.searchsorted(travelled, np.linspace(0, travelled[-1], most // 2))
    by_x = np.searchsorted(curve.x, np.linspace(0, curve.x[-1], most // 2 - 1))
    kept = np.unique(np.r_[0, by_length, by_x, len(curve.x) - 1].clip(max=len(curve.x) - 1))
    return Curve(x=curve.x[kept], y=curve.y[kept], thresholds=curve.thresholds[kept])


def _cumulated(scores: Scores, positive: Flags) -> tuple[Values, Values, Values]:
    """Return true positives, false positives and threshold at each distinct score, from the highest."""
    order = np.argsort(-scores, kind="stable")
    descending = scores[order]
    last = np.r_[np.flatnonzero(descending[1:] != descending[:-1]), len(scores) - 1]
    true = np.cumsum(positive[order], dtype=np.float64)[last]
    return true, last + 1.0 - true, descending[last].astype(np.float64)


def _or_nan(numerator: Values, denominator: npt.NDArray[Any]) -> Values:
    result: Values = np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
    return result
