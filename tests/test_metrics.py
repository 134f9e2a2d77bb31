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

from pipeline.labels import LabelSet
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


def classes(count: int) -> LabelSet:
    return LabelSet(problem_type="single_label_classification", names=tuple(f"c{i}" for i in range(count)))


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
    assert tuple(sorted(ours)) == tuple(sorted(metric_names(classes(logits.shape[1]))))


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
    assert [name for name in metric_names(classes(2)) if not is_maximized(name, None)] == ["loss"]


@given(hnp.arrays(np.float32, (5, 3), elements=st.floats(-1e4, 1e4, width=32)))
def test_probabilities_sum_to_one(logits: Floats) -> None:
    chances = probabilities(logits)
    assert chances.dtype == np.float64
    assert chances.sum(axis=1) == pytest.approx(np.ones(5), abs=1e-12)
