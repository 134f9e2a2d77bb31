"""Metrics equal scikit-learn's, whatever the outcome looks like."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from pipeline.bootstrap import bootstrap_intervals, count_outcomes, scores
from pipeline.metrics import class_scores, classification_metrics, confusion, is_maximized, metric_names
from pipeline.probabilities import probabilities

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

outcomes = st.integers(2, 6).flatmap(
    lambda classes: st.integers(1, 30).flatmap(
        lambda rows: st.tuples(
            hnp.arrays(np.float32, (rows, classes), elements=st.floats(-20, 20, width=32)),
            hnp.arrays(np.int64, rows, elements=st.integers(0, classes - 1)),
        )
    )
)


def names(logits: Floats) -> tuple[str, ...]:
    return tuple(f"c{i}" for i in range(logits.shape[1]))


@settings(max_examples=40, deadline=None)
@given(outcomes)
def test_equal_to_scikit_learn(outcome: tuple[Floats, Ids]) -> None:
    logits, labels = outcome
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = classification_metrics(logits, labels, names(logits))
    predicted = logits.argmax(axis=1)
    expected = {"accuracy": sk.accuracy_score(labels, predicted)}
    for average in ("macro", "weighted"):
        for name, score in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
            expected[f"{name}_{average}"] = score(labels, predicted, average=average, zero_division=0)
            if logits.shape[1] == 2:
                expected[name] = score(labels, predicted, labels=[1], average=None, zero_division=0)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected["mcc"] = sk.matthews_corrcoef(labels, predicted)
    exact = logits.astype(np.float64)
    expected["loss"] = np.mean(np.log(np.exp(exact).sum(axis=1)) - exact[np.arange(len(labels)), labels])
    assert ours == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert tuple(sorted(ours)) == tuple(sorted(metric_names(logits.shape[1])))


@settings(max_examples=40, deadline=None)
@given(outcomes)
def test_class_scores_and_confusion_equal_to_scikit_learn(outcome: tuple[Floats, Ids]) -> None:
    logits, labels = outcome
    classes = range(logits.shape[1])
    predicted = logits.argmax(axis=1)
    found = class_scores(logits, labels, names(logits))
    expected = sk.precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    assert [(c.precision, c.recall, c.f1, c.support) for c in found] == list(zip(*expected, strict=True))
    matrix = confusion(logits, labels, names(logits))
    assert [c.support for c in found] == matrix.sum(axis=1).tolist()
    assert [c.predicted for c in found] == matrix.sum(axis=0).tolist()


@settings(max_examples=40, deadline=None)
@given(outcomes)
def test_bootstrap_counts_give_the_same_metrics(outcome: tuple[Floats, Ids]) -> None:
    logits, labels = outcome
    ours = scores(count_outcomes(labels, logits.argmax(axis=1), logits.shape[1]))
    expected = classification_metrics(logits, labels, names(logits))
    del expected["loss"]
    assert {name: float(value) for name, value in ours.items()} == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_loss_survives_logits_that_overflow_a_naive_softmax() -> None:
    logits = np.array([[1000.0, -1000.0], [-1000.0, 1000.0]], np.float32)
    assert classification_metrics(logits, np.array([0, 0]), ("a", "b"))["loss"] == 1000.0


def test_global_random_state_is_left_alone() -> None:
    np.random.seed(3)
    expected = np.random.random(2).tolist()
    np.random.seed(3)
    first = np.random.random()
    classification_metrics(np.eye(3, dtype=np.float32), np.arange(3), ("a", "b", "c"))
    assert [first, np.random.random()] == expected


def test_only_the_loss_is_better_when_lower() -> None:
    assert [name for name in metric_names(2) if not is_maximized(name, None)] == ["loss"]


def random_outcome(rows: int, classes: int, seed: int = 0, signal: float = 1.5) -> tuple[Floats, Ids]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=rows)
    logits = generator.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += signal
    return logits.astype(np.float32), labels


def test_intervals_repeat_and_depend_on_the_seed() -> None:
    logits, labels = random_outcome(80, 3)
    first = bootstrap_intervals(logits, labels, samples=200, confidence=0.95, seed=5)
    assert first == bootstrap_intervals(logits, labels, samples=200, confidence=0.95, seed=5)
    assert first != bootstrap_intervals(logits, labels, samples=200, confidence=0.95, seed=6)


@pytest.mark.parametrize("classes", [2, 4])
def test_intervals_cover_every_metric_and_contain_its_value(classes: int) -> None:
    logits, labels = random_outcome(300, classes)
    values = classification_metrics(logits, labels, names(logits))
    intervals = bootstrap_intervals(logits, labels, samples=300, confidence=0.95, seed=1)
    assert intervals.keys() == values.keys()
    for name, (low, high) in intervals.items():
        assert low < values[name] < high, name


def test_accuracy_interval_agrees_with_the_binomial() -> None:
    logits, labels = random_outcome(1000, 2)
    accuracy = classification_metrics(logits, labels, ("a", "b"))["accuracy"]
    low, high = bootstrap_intervals(logits, labels, samples=2000, confidence=0.95, seed=1)["accuracy"]
    half = 1.96 * np.sqrt(accuracy * (1 - accuracy) / 1000)
    assert (low, high) == pytest.approx((accuracy - half, accuracy + half), abs=0.006)


def test_more_confidence_is_a_wider_interval() -> None:
    logits, labels = random_outcome(200, 3)
    widths = []
    for confidence in (0.8, 0.95):
        low, high = bootstrap_intervals(logits, labels, samples=500, confidence=confidence, seed=1)["f1_macro"]
        widths.append(high - low)
    assert widths[0] < widths[1]


def test_a_perfect_split_has_no_width() -> None:
    logits = np.eye(4, dtype=np.float32).repeat(5, axis=0) * 9
    intervals = bootstrap_intervals(logits, np.arange(4).repeat(5), samples=100, confidence=0.95, seed=1)
    assert intervals["accuracy"] == intervals["f1_macro"] == (1.0, 1.0)


@given(hnp.arrays(np.float32, (5, 3), elements=st.floats(-1e4, 1e4, width=32)))
def test_probabilities_sum_to_one(logits: Floats) -> None:
    chances = probabilities(logits)
    assert chances.dtype == np.float64
    assert chances.sum(axis=1) == pytest.approx(np.ones(5), abs=1e-12)
