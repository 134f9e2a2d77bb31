"""Whether two models scored on the same rows differ by more than chance: paired intervals and p-values.

Promises: both models see the same resamples and the same swaps, drawn from the seed alone; every metric is the one that
`pipeline.bootstrap` computes; equal predictions differ by 0 and have p = 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from pipeline.bootstrap import Score, percentiles, scorer
from pipeline.decisions import HALF, decide
from pipeline.labels import LabelSet
from pipeline.resampling import CELLS, Values, Weights, once, resamples
from pipeline.targets import Targets

Flags = npt.NDArray[np.bool_]
Test = Literal["mcnemar", "permutation"]
EXACT = ("accuracy", "subset_accuracy")  # means of right and wrong rows: McNemar's test needs no random numbers
ROUNDING = 1e-10  # of a metric's size: differences this close are the same one, computed in another order


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What one model says of the rows.

    Attributes:
        logits: float32 [rows, classes], [rows, 1] in regression; finite.
        thresholds: of multi-label classes, float64 [classes]; None is 0.5 for all.
    """

    logits: npt.NDArray[np.float32]
    thresholds: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of two models on the same rows.

    Attributes:
        a, b: its values.
        low, high: interval of b - a; None where it is undefined or was not computed.
        p_value: chance of a difference at least as large (either way) if the models were alike; None likewise.
        test: where the p-value is from.
    """

    a: float
    b: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    test: Test | None = None

    @property
    def difference(self) -> float:
        """Return b - a."""
        return self.b - self.a

    def clear(self, confidence: float) -> bool:
        """Return whether both interval and p-value say that the models differ."""
        if self.low is None or self.high is None or self.p_value is None:
            return False
        return (self.low > 0 or self.high < 0) and self.p_value < 1 - confidence


def mcnemar(right_a: Flags, right_b: Flags) -> float:
    """Return the two-sided p-value of McNemar's test in its exact form.

    If the models were alike, a row that only one of them gets right would be a fair coin's toss between them
    (McNemar, Psychometrika 12, 1947).

    Args:
        right_a: whether the first model is right, [rows].
        right_b: the same of the second.
    """
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0


def right_rows(labels: LabelSet, outputs: Outputs, targets: Targets) -> Flags:
    """Return which rows a classifier gets right, bool [rows]; of several labels per row, all of them."""
    decided = decide(labels, outputs.logits, outputs.thresholds).ids
    if labels.problem_type == "multi_label_classification":
        sets: Flags = ((decided > 0) == (targets > 0)).all(axis=1)
        return sets
    right: Flags = np.equal(decided, targets)
    return right


def differences(
    labels: LabelSet,
    a: Outputs,
    b: Outputs,
    targets: Targets,
    *,
    samples: int,
    confidence: float,
    seed: int,
    permutations: int,
) -> dict[str, Difference]:
    """Compare two models by every metric of the task that is defined for both.

    Intervals are percentiles of paired bootstrap resamples (Efron and Tibshirani, An Introduction to the Bootstrap,
    1993, chapter 13). P-values: McNemar's exact test for `EXACT`, else a paired permutation test, which swaps the two
    models' outputs on half of the rows, drawn anew each time (approximate randomization: Noreen, Computer-Intensive
    Methods for Testing Hypotheses, 1989); the swap that was observed counts as one, so that p is never 0.

    Args:
        labels: the label set of both.
        a: the first model's outputs.
        b: the second's, of the same rows in the same order.
        targets: of these rows, at least one.
        samples: bootstrap resamples.
        confidence: coverage of the intervals.
        seed: of resamples and swaps.
        permutations: how many swaps to draw.
    """
    score_a, score_b = (scorer(labels, each.logits, targets, each.thresholds) for each in (a, b))
    values_a, values_b = (_first(score(once(len(targets)))) for score in (score_a, score_b))
    names = [name for name in values_a if np.isfinite(values_a[name]) and np.isfinite(values_b[name])]
    bounds = _intervals(score_a, score_b, names, len(targets), samples, confidence, seed)
    exact = [name for name in names if name in EXACT]
    found: dict[str, tuple[float, Test]] = {}
    if exact:
        p_value = mcnemar(right_rows(labels, a, targets), right_rows(labels, b, targets))
        found = dict.fromkeys(exact, (p_value, "mcnemar"))
    others = [name for name in names if name not in EXACT]
    for name, p_value in _permuted(labels, a, b, targets, others, seed, permutations).items():
        found[name] = (p_value, "permutation")
    return {
        name: Difference(
            a=values_a[name],
            b=values_b[name],
            low=bounds[name][0] if name in bounds else None,
            high=bounds[name][1] if name in bounds else None,
            p_value=found[name][0],
            test=found[name][1],
        )
        for name in names
    }


def _intervals(
    score_a: Score, score_b: Score, names: list[str], rows: int, samples: int, confidence: float, seed: int
) -> dict[str, tuple[float, float]]:
    parts: dict[str, list[Values]] = {name: [] for name in names}
    for weights in resamples(rows, samples, seed):
        in_a, in_b = score_a(weights), score_b(weights)
        for name in names:
            parts[name].append(in_b[name] - in_a[name])
    return percentiles(parts, confidence)


def _permuted(
    labels: LabelSet, a: Outputs, b: Outputs, targets: Targets, names: list[str], seed: int, permutations: int
) -> dict[str, float]:
    """Return the p-value of each metric: both models' rows under one another, a swap being a choice of half of them."""
    thresholds = None
    if a.thresholds is not None or b.thresholds is not None:
        by_row = [
            np.broadcast_to(HALF if each.thresholds is None else each.thresholds, each.logits.shape) for each in (a, b)
        ]
        thresholds = np.concatenate(by_row)
    score = scorer(labels, np.concatenate([a.logits, b.logits]), np.concatenate([targets, targets]), thresholds)

    def apart(first: Weights) -> tuple[dict[str, Values], dict[str, Values]]:
        return score(first), score(1 - first)

    rows = len(targets)
    in_a, in_b = apart(np.repeat([1.0, 0.0], rows)[:, None])
    observed = {name: abs(float(in_a[name][0] - in_b[name][0])) for name in names}
    slack = {name: ROUNDING * (abs(float(in_a[name][0])) + abs(float(in_b[name][0]))) for name in names}
    as_far = dict.fromkeys(names, 0)
    for first in _swaps(rows, permutations, seed):
        in_first, in_second = apart(first)
        for name in names:
            gaps = np.abs(in_first[name] - in_second[name])
            as_far[name] += int((gaps >= observed[name] - slack[name]).sum())
    return {name: (1 + count) / (1 + permutations) for name, count in as_far.items()}


def _swaps(rows: int, permutations: int, seed: int) -> Iterator[Weights]:
    """Yield weights, [2 * rows, swaps]: of each row one of its two places has 1, the other 0."""
    generator = np.random.default_rng(seed)
    width = max(1, CELLS // (2 * rows))
    for start in range(0, permutations, width):
        # Drawn by swap, not by place, so that the width does not change them.
        drawn = [generator.integers(2, size=rows) for _ in range(min(width, permutations - start))]
        kept = np.stack(drawn, axis=1).astype(np.float64)
        yield np.concatenate([kept, 1 - kept])


def _first(values: dict[str, Values]) -> dict[str, float]:
    return {name: float(value[0]) for name, value in values.items()}
