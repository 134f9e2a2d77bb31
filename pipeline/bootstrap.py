"""Confidence intervals for metrics by resampling rows.

Promises: percentile intervals (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13) that depend on
rows and seed alone; every metric is computed from the same resamples, as `pipeline.metrics` defines it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from pipeline.probabilities import Logits, row_losses

Counts = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What all metrics but the loss need to know of a set of rows: counts by class, int64 [..., classes].

    A resample is three short vectors instead of a confusion matrix, so a problem may have many classes.

    Attributes:
        correct: rows of the class that were predicted to be of it.
        actual: rows of the class.
        predicted: rows predicted to be of the class.
    """

    correct: Counts
    actual: Counts
    predicted: Counts


def count_outcomes(labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], num_classes: int) -> Outcomes:
    """Count rows by class.

    Args:
        labels: actual class ids, [rows].
        predicted: predicted class ids, [rows].
        num_classes: how many classes there are.
    """
    return Outcomes(
        correct=np.bincount(labels[labels == predicted], minlength=num_classes),
        actual=np.bincount(labels, minlength=num_classes),
        predicted=np.bincount(predicted, minlength=num_classes),
    )


def scores(outcomes: Outcomes) -> dict[str, Values]:
    """Return every metric of `pipeline.metrics` but the loss, float64 [...], for any number of resamples at once.

    The Matthews correlation of several classes is Gorodkin's R_K (Comparing two K-category assignments by a K-category
    correlation coefficient, Computational Biology and Chemistry 28, 2004).
    """
    correct, actual, predicted = outcomes.correct, outcomes.actual, outcomes.predicted
    rows = actual.sum(axis=-1)
    hits = correct.sum(axis=-1)
    by_class = {
        "precision": _ratio(correct, predicted),
        "recall": _ratio(correct, actual),
        "f1": _ratio(2 * correct, actual + predicted),
    }
    present = (actual + predicted) > 0
    result = {"accuracy": hits / rows}
    for name, values in by_class.items():
        result[f"{name}_macro"] = values.sum(axis=-1) / present.sum(axis=-1)  # absent classes add 0 above, none below
        result[f"{name}_weighted"] = (values * actual).sum(axis=-1) / rows
        if values.shape[-1] == 2:
            result[name] = values[..., 1]
    # As floats: products of counts pass 2**63 from a few billion rows on.
    n = rows.astype(np.float64)
    covariance = hits * n - (actual.astype(np.float64) * predicted).sum(axis=-1)
    spread = (n**2 - (actual.astype(np.float64) ** 2).sum(axis=-1)) * (
        n**2 - (predicted.astype(np.float64) ** 2).sum(axis=-1)
    )
    result["mcc"] = _ratio(covariance, np.sqrt(spread))
    return result


def bootstrap_intervals(
    logits: Logits,
    labels: npt.NDArray[np.int64],
    *,
    samples: int,
    confidence: float,
    seed: int,
    own: Mapping[str, Callable[[Logits, npt.NDArray[np.int64]], float]] = MappingProxyType({}),
) -> dict[str, tuple[float, float]]:
    """Return (low, high) for every metric of `pipeline.metrics.classification_metrics`.

    Args:
        logits: [rows, classes], finite, at least one row.
        labels: actual class ids, [rows].
        samples: resamples, each of as many rows as there are, drawn with replacement.
        confidence: coverage, for example 0.95.
        seed: of the draws.
        own: the user's metrics by name; resamples for which one is no finite number do not count for it.
    """
    rows, classes = logits.shape
    predicted = logits.argmax(axis=1)
    losses = row_losses(logits, labels)
    generator = np.random.default_rng(seed)
    resamples = Outcomes(
        correct=np.empty((samples, classes), np.int64),
        actual=np.empty((samples, classes), np.int64),
        predicted=np.empty((samples, classes), np.int64),
    )
    mean_losses = np.empty(samples)
    own_values = {name: np.empty(samples) for name in own}
    for index in range(samples):
        drawn = generator.integers(rows, size=rows)
        outcomes = count_outcomes(labels[drawn], predicted[drawn], classes)
        resamples.correct[index] = outcomes.correct
        resamples.actual[index] = outcomes.actual
        resamples.predicted[index] = outcomes.predicted
        mean_losses[index] = losses[drawn].mean()
        for name, score in own.items():
            own_values[name][index] = score(logits[drawn], labels[drawn])
    tail = (1 - confidence) / 2
    intervals = {}
    for name, values in {**scores(resamples), "loss": mean_losses, **own_values}.items():
        low, high = np.quantile(values[np.isfinite(values)], [tail, 1 - tail])
        intervals[name] = (float(low), float(high))
    return intervals


def _ratio(numerator: Counts | Values, denominator: Counts | Values) -> Values:
    """Divide, with 0 where the denominator is 0: scikit-learn's zero_division=0."""
    result: Values = np.divide(numerator, denominator, out=np.zeros(np.shape(numerator)), where=denominator != 0)
    return result
