"""Confidence intervals for metrics by resampling rows.

Promises: percentile intervals (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13) that depend on
rows and seed alone; every metric is computed from the same resamples, as `pipeline.metrics` defines it; metrics of many
resamples are computed at once, so that 10,000 rows and 1,000 resamples take seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.calibration import Choices, calibration_scores
from pipeline.decisions import decide
from pipeline.labels import LabelSet
from pipeline.probabilities import Logits, binary_row_losses, probabilities, row_losses
from pipeline.ranking import areas, class_areas, mean_of_defined
from pipeline.resampling import Ids, Values, Weights, group_sums, once, ratio, resamples
from pipeline.targets import Targets

Score = Callable[[Weights], dict[str, Values]]
"""From weights, [rows, resamples], to a value per resample under each name; NaN where a metric is undefined."""

Counts = npt.NDArray[np.int64]
SCALED = "_scaled"
CONSTANT = 1e-12  # a variance below this share of the mean square is rounding


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What all metrics of single-label classes but the loss need to know of rows: counts by class, [..., classes].

    A resample is three short vectors instead of a confusion matrix, so a problem may have many classes.

    Attributes:
        correct: rows of the class that were predicted to be of it.
        actual: rows of the class.
        predicted: rows predicted to be of the class.
    """

    correct: Values
    actual: Values
    predicted: Values


def scorer(
    labels: LabelSet,
    logits: Logits,
    targets: Targets,
    thresholds: npt.NDArray[np.float64] | None = None,
    temperature: float | None = None,
) -> Score:
    """Return what scores resamples of these rows.

    Its names are those of `pipeline.metrics.task_metrics`, and those of `probability_scores` where there are classes.

    Args:
        labels: the label set, which knows the task.
        logits: [rows, classes], [rows, 1] in regression; finite.
        targets: of the same rows.
        thresholds: of multi-label classes, float64 [classes]; None is 0.5 for all.
        temperature: adds the loss and the calibration scores of logits divided by it, as `<name>_scaled`.
    """
    if labels.problem_type == "regression":
        predicted = logits[:, 0].astype(np.float64)
        return lambda weights: _regression(predicted, targets.astype(np.float64), weights)
    if labels.problem_type == "multi_label_classification":
        chosen = decide(labels, logits, thresholds).ids > 0
        choices = Choices.of_labels(logits, targets)
        return lambda weights: (
            _multi_label(logits, chosen, targets > 0, weights) | _scaled(choices, temperature, weights)
        )
    ids = targets.astype(np.int64, copy=False)
    choices = Choices.of_classes(logits, ids)
    return lambda weights: _single_label(logits, ids, weights) | _scaled(choices, temperature, weights)


def probability_scores(score: Score, rows: int) -> dict[str, float]:
    """Return those metrics of a classifier that need its probabilities, and that training does not compute.

    Areas under curves (`roc_auc` and `average_precision`; `_macro` over several classes, `_micro` over all decisions
    of multi-label data), `ece`, `mce` and `brier`, and those `_scaled` by a temperature. Undefined ones are left out:
    areas, where rows are all of one class.

    Args:
        score: what `scorer` returned, of classes.
        rows: how many rows it scores.
    """
    values = {name: float(value[0]) for name, value in score(once(rows)).items()}
    wanted = ("roc_auc", "average_precision", "ece", "mce", "brier")
    return {
        name: value
        for name, value in values.items()
        if np.isfinite(value) and (name.startswith(wanted) or name.endswith(SCALED))
    }


def intervals(
    score: Score,
    rows: int,
    *,
    samples: int,
    confidence: float,
    seed: int,
    own: Mapping[str, Callable[[Ids], float]] = MappingProxyType({}),
) -> dict[str, tuple[float, float]]:
    """Return (low, high) for every metric; resamples for which one is undefined do not count for it.

    Args:
        score: what `scorer` returned.
        rows: how many rows it scores.
        samples: resamples, each of as many rows as there are, drawn with replacement.
        confidence: coverage, for example 0.95.
        seed: of the draws.
        own: the user's metrics by name, given the positions of the rows in a resample.
    """
    parts: dict[str, list[Values]] = {}
    for weights in resamples(rows, samples, seed):
        for name, values in score(weights).items():
            parts.setdefault(name, []).append(values)
        for name, metric in own.items():
            drawn = (np.repeat(np.arange(rows), column.astype(np.int64)) for column in weights.T)
            parts.setdefault(name, []).append(np.array([metric(positions) for positions in drawn], np.float64))
    return percentiles(parts, confidence)


def percentiles(parts: Mapping[str, Sequence[Values]], confidence: float) -> dict[str, tuple[float, float]]:
    """Return the percentile interval of each name's values; no interval where none of them is finite.

    Args:
        parts: values over resamples, in pieces of shape (resamples,).
        confidence: coverage of the intervals.
    """
    tail = (1 - confidence) / 2
    found = {}
    for name, pieces in parts.items():
        values = np.concatenate(pieces)
        values = values[np.isfinite(values)]
        if len(values):
            low, high = np.quantile(values, [tail, 1 - tail])
            found[name] = (float(low), float(high))
    return found


def class_outcome_scores(outcomes: Outcomes) -> dict[str, Values]:
    """Return every metric of single-label classes but the loss, float64 [...], for any number of resamples at once.

    The Matthews correlation of several classes is Gorodkin's R_K (Comparing two K-category assignments by a K-category
    correlation coefficient, Computational Biology and Chemistry 28, 2004).
    """
    correct, actual, predicted = outcomes.correct, outcomes.actual, outcomes.predicted
    rows = actual.sum(axis=-1)
    hits = correct.sum(axis=-1)
    present = (actual + predicted) > 0
    result = {"accuracy": hits / rows}
    for name, values in _by_class(outcomes).items():
        result[f"{name}_macro"] = values.sum(axis=-1) / present.sum(axis=-1)  # absent classes add 0 above, none below
        result[f"{name}_weighted"] = (values * actual).sum(axis=-1) / rows
        if values.shape[-1] == 2:
            result[name] = values[..., 1]
    covariance = hits * rows - (actual * predicted).sum(axis=-1)
    spread = (rows**2 - (actual**2).sum(axis=-1)) * (rows**2 - (predicted**2).sum(axis=-1))
    result["mcc"] = ratio(covariance, np.sqrt(spread))
    return result


def _scaled(choices: Choices, temperature: float | None, weights: Weights) -> dict[str, Values]:
    if temperature is None:
        return {}
    cooled = choices.at(temperature)
    # Each row makes equally many choices, so the mean over rows is the mean over choices.
    losses = row_losses(cooled.logits, cooled.labels).reshape(len(weights), -1).mean(axis=1)
    values = {"loss": _mean(losses, weights), **calibration_scores(cooled, weights)}
    return {name + SCALED: value for name, value in values.items()}


def _single_label(logits: Logits, labels: Ids, weights: Weights) -> dict[str, Values]:
    classes = logits.shape[1]
    predicted = logits.argmax(axis=1)
    rows = np.arange(len(labels))
    hits = np.flatnonzero(predicted == labels)
    outcomes = Outcomes(
        correct=group_sums(labels[hits], hits, weights, classes).T,
        actual=group_sums(labels, rows, weights, classes).T,
        predicted=group_sums(predicted, rows, weights, classes).T,
    )
    chances = probabilities(logits)
    if classes == 2:
        auc, average = areas(chances[:, 1], labels == 1, weights)
        ranked = {"roc_auc": auc, "average_precision": average}
    else:
        by_class = class_areas(chances, labels[:, None] == np.arange(classes), weights)
        ranked = {
            "roc_auc_macro": mean_of_defined(by_class[0]),
            "average_precision_macro": mean_of_defined(by_class[1]),
        }
    return {
        **class_outcome_scores(outcomes),
        "loss": _mean(row_losses(logits, labels), weights),
        **ranked,
        **calibration_scores(Choices.of_classes(logits, labels), weights),
    }


def _multi_label(
    logits: Logits, chosen: npt.NDArray[np.bool_], wanted: npt.NDArray[np.bool_], weights: Weights
) -> dict[str, Values]:
    classes = logits.shape[1]

    def counted(flags: npt.NDArray[np.bool_]) -> Values:
        rows, columns = np.nonzero(flags)
        return group_sums(columns, rows, weights, classes).T

    outcomes = Outcomes(correct=counted(chosen & wanted), actual=counted(wanted), predicted=counted(chosen))
    pooled = Outcomes(
        correct=outcomes.correct.sum(axis=1, keepdims=True),
        actual=outcomes.actual.sum(axis=1, keepdims=True),
        predicted=outcomes.predicted.sum(axis=1, keepdims=True),
    )
    every_row = np.repeat(np.arange(len(logits)), classes)
    auc, average = areas(logits.ravel(), wanted.ravel(), weights, every_row)
    return {
        "subset_accuracy": _mean((chosen == wanted).all(axis=1).astype(np.float64), weights),
        **{f"{name}_micro": values[:, 0] for name, values in _by_class(pooled).items()},
        **{f"{name}_macro": values.mean(axis=1) for name, values in _by_class(outcomes).items()},
        # A class without rows in a resample counts as 0, as in `pipeline.metrics`.
        "map": np.nan_to_num(class_areas(logits, wanted, weights)[1]).mean(axis=0),
        "loss": _mean(binary_row_losses(logits, wanted.astype(np.float64)), weights),
        "roc_auc_micro": auc,
        "average_precision_micro": average,
        **calibration_scores(Choices.of_labels(logits, wanted), weights),
    }


def _regression(predicted: Values, actual: Values, weights: Weights) -> dict[str, Values]:
    error = predicted - actual
    squared = _mean(error**2, weights)
    centred = actual - actual.mean()
    variance = _mean(centred**2, weights) - _mean(centred, weights) ** 2
    explained = 1 - squared / np.where(variance > CONSTANT * (centred**2).mean(), variance, np.nan)
    # Equal labels: 1 where all predictions are right, else 0, as in scikit-learn; and 0 where there is one row.
    r2 = np.where(np.isnan(explained), (squared == 0).astype(np.float64), explained) if len(actual) > 1 else squared * 0
    return {
        "pearson": _correlation(centred[:, None], (predicted - predicted.mean())[:, None], weights),
        "spearman": _correlation(_ranks(actual, weights), _ranks(predicted, weights), weights),
        "mse": squared,
        "mae": _mean(np.abs(error), weights),
        "r2": r2,
        "loss": squared,
    }


def _correlation(one: Values, other: Values, weights: Weights) -> Values:
    """Return Pearson's correlation, [resamples], of numbers, [rows, resamples or 1]; 0 where one side is constant."""
    total = weights.sum(axis=0)

    def mean(values: Values) -> Values:
        result: Values = (weights * values).sum(axis=0) / total
        return result

    def deviations(values: Values) -> tuple[Values, Values]:
        apart = values - mean(values)
        variance = mean(apart**2)
        return apart, np.where(variance > CONSTANT * (values**2).mean(axis=0), variance, 0.0)

    (first, first_variance), (second, second_variance) = deviations(one), deviations(other)
    found: Values = ratio(mean(first * second), np.sqrt(first_variance * second_variance))
    return found.clip(-1, 1)  # rounding may pass the ends


def _ranks(values: Values, weights: Weights) -> Values:
    """Return the rank of each row within each resample, ties in the middle, [rows, resamples]."""
    levels, level = np.unique(values, return_inverse=True)
    counts = group_sums(level, np.arange(len(values)), weights, len(levels))
    middle = np.cumsum(counts, axis=0) - (counts - 1) / 2
    ranks: Values = middle[level] - (weights.sum(axis=0) + 1) / 2  # about their mean
    return ranks


def _by_class(outcomes: Outcomes) -> dict[str, Values]:
    return {
        "precision": ratio(outcomes.correct, outcomes.predicted),
        "recall": ratio(outcomes.correct, outcomes.actual),
        "f1": ratio(2 * outcomes.correct, outcomes.actual + outcomes.predicted),
    }


def _mean(values: npt.NDArray[np.floating[Any]], weights: Weights) -> Values:
    result: Values = values @ weights / weights.sum(axis=0)
    return result
