"""Whether a classifier's probabilities mean what they say, and the one number that mends them.

Promises: errors as Guo et al. define them (On Calibration of Modern Neural Networks, ICML 2017), with 15 bins of equal
width; a temperature never changes which class is predicted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from pipeline.probabilities import Logits, probabilities, row_losses
from pipeline.resampling import Ids, Values, Weights, group_sums, ratio

BINS = 15  # of confidence, the number that Guo et al. use
TEMPERATURES = (0.05, 20.0)  # what a fit may give; rows that are all right would ask for 0
DECIMALS = 6  # of a temperature


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Choices of about one confidence.

    Attributes:
        low, high: confidence above low, up to high.
        rows: choices in it, at least one.
        confidence: their mean confidence.
        accuracy: share of them that is right.
    """

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a classifier chose, each time one of several classes.

    Attributes:
        logits: [choices, classes].
        labels: the right classes, int64 [choices].
        rows: the row that each choice is about, int64 [choices].
    """

    logits: Logits
    labels: Ids
    rows: Ids

    @staticmethod
    def of_classes(logits: Logits, labels: Ids) -> Choices:
        """Take one choice per row.

        Args:
            logits: [rows, classes], finite.
            labels: class ids, [rows].
        """
        return Choices(logits=logits, labels=labels, rows=np.arange(len(labels)))

    @staticmethod
    def of_labels(logits: Logits, targets: npt.NDArray[np.integer | np.bool_ | np.floating]) -> Choices:
        """Take one choice for or against each label of each row: the sigmoid is the softmax over (0, logit).

        Args:
            logits: [rows, labels], finite.
            targets: 1 where the row has the label, else 0, [rows, labels].
        """
        flat = logits.ravel()
        return Choices(
            logits=np.stack([np.zeros_like(flat), flat], axis=1),
            labels=targets.ravel().astype(np.int64),
            rows=np.repeat(np.arange(len(logits)), logits.shape[1]),
        )

    def at(self, temperature: float) -> Choices:
        """Return the same choices with logits divided by a temperature."""
        return Choices(logits=self.logits.astype(np.float64) / temperature, labels=self.labels, rows=self.rows)


def calibration_scores(choices: Choices, weights: Weights) -> dict[str, Values]:
    """Score probabilities, float64 [resamples] under each name.

    ece: mean gap between confidence and accuracy over the bins, weighted by their choices. mce: the largest gap of a
    bin. brier: mean squared distance between probabilities and outcome (Brier, Monthly Weather Review 78, 1950), from 0
    to 1 with two classes and from 0 to 2 with more, as scikit-learn has it.

    Args:
        choices: what was decided.
        weights: [rows, resamples].
    """
    chances = probabilities(choices.logits)
    confidence, right, bins = _binned(choices, chances)
    rows = choices.rows
    counts = group_sums(bins, rows, weights, BINS)
    gaps = np.abs(
        group_sums(bins, rows, weights, BINS, confidence)
        - group_sums(bins, rows, weights, BINS, right.astype(np.float64))
    )
    total = counts.sum(axis=0)
    return {
        "ece": gaps.sum(axis=0) / total,
        "mce": ratio(gaps, counts).max(axis=0),
        "brier": group_sums(np.zeros_like(rows), rows, weights, 1, _squared_distances(choices, chances))[0] / total,
    }


def reliability(choices: Choices) -> tuple[ReliabilityBin, ...]:
    """Return the bins that hold choices, by confidence."""
    confidence, right, bins = _binned(choices, probabilities(choices.logits))
    return tuple(
        ReliabilityBin(
            low=index / BINS,
            high=(index + 1) / BINS,
            rows=int(chosen.sum()),
            confidence=float(confidence[chosen].mean()),
            accuracy=float(right[chosen].mean()),
        )
        for index in range(BINS)
        if (chosen := bins == index).any()
    )


def fit_temperature(choices: Choices) -> float:
    """Return the temperature under which the right classes are likeliest, within TEMPERATURES.

    The mean cross entropy is convex in 1/temperature, so its minimum over the logarithm is the only one.
    """
    logits = choices.logits.astype(np.float64)

    def mean_loss(log_temperature: float) -> float:
        return float(row_losses(logits / np.exp(log_temperature), choices.labels).mean())

    found = minimize_scalar(mean_loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-7})
    return round(float(np.exp(found.x)), DECIMALS)


def _binned(choices: Choices, chances: Values) -> tuple[Values, npt.NDArray[np.bool_], Ids]:
    """Return the confidence of each choice, whether it is right, and its bin."""
    confidence = chances.max(axis=1)
    edges = np.arange(BINS + 1) / BINS
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)  # low < confidence <= high
    return confidence, choices.logits.argmax(axis=1) == choices.labels, bins


def _squared_distances(choices: Choices, chances: Values) -> Values:
    outcome = np.zeros_like(chances)
    outcome[np.arange(len(outcome)), choices.labels] = 1
    distances: Values = ((chances - outcome) ** 2).sum(axis=1)
    return distances / 2 if chances.shape[1] == 2 else distances
