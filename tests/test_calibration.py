"""Calibration equals a plain computation of the definitions, and a temperature mends what a temperature broke."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import brier_score_loss

from pipeline.calibration import BINS, TEMPERATURES, Choices, calibration_scores, fit_temperature, reliability
from pipeline.decisions import decide
from pipeline.labels import LabelSet, ProblemType
from pipeline.probabilities import probabilities, row_losses, sigmoid
from pipeline.resampling import once

Floats = npt.NDArray[np.float32]


def choices_of(draw: st.DrawFn) -> Choices:
    rows, classes = draw(st.integers(1, 60)), draw(st.integers(2, 4))
    logits = draw(hnp.arrays(np.float32, (rows, classes), elements=st.floats(-8, 8, width=32)))
    return Choices.of_classes(logits, draw(hnp.arrays(np.int64, rows, elements=st.integers(0, classes - 1))))


def plain(choices: Choices) -> tuple[float, float]:
    """ECE and MCE, bin by bin and row by row."""
    chances = probabilities(choices.logits)
    total, largest = 0.0, 0.0
    for place in range(BINS):
        inside = [
            (max(row), int(np.argmax(logits)) == label)
            for row, logits, label in zip(chances.tolist(), choices.logits, choices.labels, strict=True)
            if place / BINS < max(row) <= (place + 1) / BINS
        ]
        if inside:
            gap = abs(np.mean([sure for sure, _ in inside]) - np.mean([right for _, right in inside]))
            total += gap * len(inside)
            largest = max(largest, gap)
    return total / len(choices.labels), largest


@settings(max_examples=80, deadline=None)
@given(st.composite(choices_of)())
def test_scores_equal_the_definitions(choices: Choices) -> None:
    found = calibration_scores(choices, once(len(choices.labels)))
    assert (found["ece"][0], found["mce"][0]) == pytest.approx(plain(choices), abs=1e-12)
    names = list(range(choices.logits.shape[1]))
    chances = probabilities(choices.logits)
    given = chances if len(names) > 2 else chances[:, 1]
    assert found["brier"][0] == pytest.approx(brier_score_loss(choices.labels, given, labels=names), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.composite(choices_of)())
def test_the_bins_of_the_reliability_curve_add_up_to_the_error(choices: Choices) -> None:
    bins = reliability(choices)
    assert sum(each.rows for each in bins) == len(choices.labels)
    assert all(each.low - 1e-9 < each.confidence < each.high + 1e-9 for each in bins)  # rounding of the mean
    error = sum(each.rows * abs(each.confidence - each.accuracy) for each in bins) / len(choices.labels)
    assert error == pytest.approx(calibration_scores(choices, once(len(choices.labels)))["ece"][0], abs=1e-12)


def test_each_label_of_multi_label_data_is_a_choice() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(50, 3)).astype(np.float32)
    targets = (generator.random((50, 3)) < 0.5).astype(np.float32)
    choices = Choices.of_labels(logits, targets)
    assert probabilities(choices.logits)[:, 1] == pytest.approx(sigmoid(logits).ravel())
    assert choices.rows.tolist() == np.repeat(np.arange(50), 3).tolist()
    found = calibration_scores(choices, once(50))
    assert found["brier"][0] == pytest.approx(brier_score_loss(targets.ravel(), sigmoid(logits).ravel()))
    # Rows drawn twice count twice.
    twice = calibration_scores(choices, 2 * once(50))
    assert twice["ece"][0] == pytest.approx(found["ece"][0])


def calibrated(rows: int, classes: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Labels drawn from the very probabilities that the logits give."""
    generator = np.random.default_rng(3)
    logits = (2 * generator.normal(size=(rows, classes))).astype(np.float32)
    steps = probabilities(logits).cumsum(axis=1)
    return logits, (generator.random((rows, 1)) > steps).sum(axis=1).clip(max=classes - 1)


@pytest.mark.parametrize("sharpened", [0.4, 1.0, 3.0])
def test_a_temperature_undoes_sharpening(sharpened: float) -> None:
    logits, labels = calibrated(20_000, 4)
    choices = Choices.of_classes(logits * sharpened, labels)
    temperature = fit_temperature(choices)
    assert temperature == pytest.approx(sharpened, rel=0.05)
    before, after = (calibration_scores(each, once(20_000)) for each in (choices, choices.at(temperature)))
    assert after["ece"][0] < 0.015
    assert after["brier"][0] < before["brier"][0] + 1e-4
    assert choices.at(temperature).logits.argmax(axis=1).tolist() == choices.logits.argmax(axis=1).tolist()


def test_no_other_temperature_has_a_lower_loss() -> None:
    logits, labels = calibrated(500, 3)
    choices = Choices.of_classes(3 * logits, labels)
    best = fit_temperature(choices)

    def loss(temperature: float) -> float:
        return float(row_losses(choices.at(temperature).logits, labels).mean())

    assert all(loss(best) <= loss(other) + 1e-9 for other in np.geomspace(*TEMPERATURES, 200))


@pytest.mark.parametrize("task", ["single_label_classification", "multi_label_classification"])
def test_a_temperature_changes_the_probabilities_told_and_nothing_that_is_decided(task: ProblemType) -> None:
    labels = LabelSet(problem_type=task, names=("a", "b", "c"))
    logits = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    thresholds = np.array([0.3, 0.5, 0.9])
    as_is, cooled = (decide(labels, logits, thresholds, temperature) for temperature in (1.0, 2.5))
    assert cooled.labels == as_is.labels
    assert cooled.ids.tolist() == as_is.ids.tolist()
    assert cooled.probabilities == pytest.approx(
        (sigmoid if task.startswith("multi") else probabilities)(logits.astype(np.float64) / 2.5)
    )


@pytest.mark.parametrize(("label", "end"), [(1, 0), (0, 1)], ids=["all right", "all wrong"])
def test_a_temperature_stays_within_bounds(label: int, end: int) -> None:
    choices = Choices.of_classes(np.tile(np.array([[0.0, 1.0]], np.float32), (9, 1)), np.full(9, label))
    assert fit_temperature(choices) == pytest.approx(TEMPERATURES[end], rel=1e-3)
