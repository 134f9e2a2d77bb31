"""Metrics of regression and of sets of classes equal scipy's and scikit-learn's, constants and edge cases included."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.special
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from pipeline.labels import LabelSet
from pipeline.metrics import (
    HEADLINES,
    default_metric,
    is_maximized,
    metric_names,
    multi_label_metrics,
    regression_metrics,
    task_metrics,
)

NUMBERS = LabelSet(problem_type="regression", names=())
# Few different values, so that ties and constants are common.
numbers = st.one_of(st.sampled_from([0.0, 1.0, 2.5]), st.floats(-1e3, 1e3, width=32))
pairs = st.integers(2, 25).flatmap(
    lambda rows: st.tuples(
        hnp.arrays(np.float32, rows, elements=numbers), hnp.arrays(np.float64, rows, elements=numbers)
    )
)
sets = st.tuples(st.integers(1, 5), st.integers(1, 20)).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(
            np.float32, shape[::-1], elements=st.one_of(st.sampled_from([-1, 0, 1]), st.floats(-9, 9, width=32))
        ),
        hnp.arrays(np.float32, shape[::-1], elements=st.sampled_from([0, 1])),
        hnp.arrays(np.float64, shape[0], elements=st.sampled_from([0.1, 0.5, 0.9])),
    )
)


@settings(max_examples=80, deadline=None)
@given(pairs)
def test_regression_equals_scipy_and_scikit_learn(outcome: tuple[Any, Any]) -> None:
    predicted, actual = outcome
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = regression_metrics(predicted, actual)
    exact = predicted.astype(np.float64)
    expected = {
        "mse": sk.mean_squared_error(actual, exact),
        "mae": sk.mean_absolute_error(actual, exact),
        "r2": sk.r2_score(actual, exact),
        "loss": np.mean((exact - actual) ** 2),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pearson = scipy.stats.pearsonr(exact, actual).statistic
        spearman = scipy.stats.spearmanr(exact, actual).statistic
    expected["pearson"] = 0.0 if math.isnan(pearson) else pearson
    expected["spearman"] = 0.0 if math.isnan(spearman) else spearman
    assert ours == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert set(ours) == set(metric_names(NUMBERS))


@pytest.mark.parametrize(
    ("predicted", "actual", "expected"),
    [
        ([1.0, 1.0, 1.0], [0.0, 1.0, 2.0], {"pearson": 0.0, "spearman": 0.0, "r2": 0.0}),
        ([0.0, 1.0, 2.0], [1.0, 1.0, 1.0], {"pearson": 0.0, "spearman": 0.0, "r2": 0.0}),
        ([1.0, 1.0], [1.0, 1.0], {"pearson": 0.0, "r2": 1.0, "mse": 0.0}),
        ([3.0], [1.0], {"pearson": 0.0, "spearman": 0.0, "r2": 0.0, "mse": 4.0, "mae": 2.0}),
        ([0.0, 2.0, 4.0], [10.0, 20.0, 30.0], {"pearson": 1.0, "spearman": 1.0}),
        ([0.0, 1e-200, 0.0], [0.0, 1.0, 2.0], {"pearson": 0.0}),
    ],
)
def test_what_is_undefined_is_0(predicted: list[float], actual: list[float], expected: dict[str, float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = regression_metrics(np.array(predicted), np.array(actual))
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@settings(max_examples=80, deadline=None)
@given(sets)
def test_sets_equal_scikit_learn(outcome: tuple[Any, Any, Any]) -> None:
    logits, targets, thresholds = outcome
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = multi_label_metrics(logits, targets, thresholds)
    exact = logits.astype(np.float64)
    reached = scipy.special.expit(exact)
    # Within rounding of the threshold the last bit decides, and two right implementations may differ in it; a logit
    # of 0 is one half in both.
    assume(not np.any(np.isclose(reached, thresholds, rtol=1e-12) & (exact != 0)))
    chosen = (reached >= thresholds).astype(int)
    wanted = targets.astype(int)
    # A column of zeros beside a single class keeps scikit-learn from taking it for one of two classes.
    wide = [
        np.column_stack([part, np.zeros(len(part), int)]) if part.shape[1] == 1 else part for part in (wanted, chosen)
    ]
    expected = {"subset_accuracy": np.mean([(a == b).all() for a, b in zip(wanted, chosen, strict=True)])}
    for name, score in (("precision", sk.precision_score), ("recall", sk.recall_score), ("f1", sk.f1_score)):
        expected[f"{name}_micro"] = score(*wide, average="micro", zero_division=0)
        by_class = score(*wide, average=None, zero_division=0)[: targets.shape[1]]
        expected[f"{name}_macro"] = np.mean(by_class)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ranked = [sk.average_precision_score(wanted[:, i], exact[:, i]) for i in range(targets.shape[1])]
    expected["map"] = np.mean(ranked)
    expected["loss"] = np.mean(np.logaddexp(0, exact) - exact * targets)
    assert ours == pytest.approx(expected, rel=1e-9, abs=1e-12)
    names = tuple(f"c{i}" for i in range(targets.shape[1]))
    assert set(ours) == set(metric_names(LabelSet(problem_type="multi_label_classification", names=names)))


def test_one_half_is_the_threshold_unless_told_and_belongs_to_the_class() -> None:
    logits, targets = np.array([[0.0, -0.1]], np.float32), np.array([[1.0, 0.0]], np.float32)
    assert multi_label_metrics(logits, targets)["subset_accuracy"] == 1.0
    assert multi_label_metrics(logits, targets, np.array([0.6, 0.4]))["subset_accuracy"] == 0.0


def test_each_task_has_its_own() -> None:
    logits = np.array([[1.0, -1.0], [2.0, 3.0]], np.float32)
    single = LabelSet(problem_type="single_label_classification", names=("a", "b"))
    several = LabelSet(problem_type="multi_label_classification", names=("a", "b"))
    assert task_metrics(single, logits, np.array([0, 1]))["accuracy"] == 1.0
    assert task_metrics(several, logits, np.eye(2, dtype=np.float32))["f1_micro"] == pytest.approx(0.8)
    assert task_metrics(NUMBERS, logits[:, :1], np.array([1.0, 3.0]))["mae"] == 0.5
    for labels in (single, several, NUMBERS):
        assert {default_metric(labels.problem_type), *HEADLINES[labels.problem_type]} <= set(metric_names(labels))


def test_errors_are_better_when_lower() -> None:
    lower = [name for name in metric_names(NUMBERS) if not is_maximized(name, None)]
    assert lower == ["mse", "mae", "loss"]


def test_thresholds_do_not_enter_the_mean_average_precision() -> None:
    generator = np.random.default_rng(1)
    logits: npt.NDArray[np.float32] = generator.normal(size=(30, 3)).astype(np.float32)
    targets = generator.integers(0, 2, size=(30, 3)).astype(np.float32)
    one, other = (multi_label_metrics(logits, targets, np.full(3, at)) for at in (0.1, 0.9))
    assert one["map"] == other["map"]
    assert one["f1_macro"] != other["f1_macro"]
