"""Intervals: every metric of every task, from weights, equal to what scoring each resample on its own gives."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import expit, softmax
from scipy.stats import pearsonr, spearmanr
from sklearn import metrics as sk

from pipeline.bootstrap import intervals, probability_scores, scorer
from pipeline.labels import LabelSet, ProblemType
from pipeline.metrics import metric_names, task_metrics
from pipeline.probabilities import probabilities
from pipeline.resampling import once, resamples
from pipeline.targets import Targets

Floats = npt.NDArray[np.float32]
Outcome = tuple[LabelSet, Floats, Targets]
TASKS: tuple[ProblemType, ...] = ("single_label_classification", "multi_label_classification", "regression")


def label_set(task: ProblemType, classes: int) -> LabelSet:
    return LabelSet(problem_type=task, names=() if task == "regression" else tuple(f"c{i}" for i in range(classes)))


def outcome(task: ProblemType, rows: int, classes: int = 3, seed: int = 0) -> Outcome:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, 1 if task == "regression" else classes)).astype(np.float32)
    targets: Targets
    if task == "regression":
        targets = (logits[:, 0] + generator.normal(size=rows)).round(1).astype(np.float64)
    elif task == "multi_label_classification":
        targets = (generator.random((rows, classes)) < 0.3).astype(np.float32)
        logits += 2 * targets - 1
    else:
        targets = generator.integers(classes, size=rows)
        logits[np.arange(rows), targets] += 1.5
    return label_set(task, classes), logits, targets


def of_classes(draw: st.DrawFn) -> Outcome:
    task = draw(st.sampled_from(TASKS))
    classes, rows = draw(st.integers(2, 5)), draw(st.integers(1, 25))
    width = 1 if task == "regression" else classes
    # Halves: ties between rows and between classes are common.
    logits = draw(hnp.arrays(np.int8, (rows, width), elements=st.integers(-12, 12))).astype(np.float32) / 2
    targets: Targets
    if task == "regression":
        targets = draw(hnp.arrays(np.int8, rows, elements=st.integers(-5, 5))).astype(np.float64) / 2
    elif task == "multi_label_classification":
        targets = draw(hnp.arrays(np.bool_, (rows, classes))).astype(np.float32)
    else:
        targets = draw(hnp.arrays(np.int64, rows, elements=st.integers(0, classes - 1)))
    return label_set(task, classes), logits, targets


outcomes = st.composite(of_classes)()


@settings(max_examples=60, deadline=None)
@given(outcomes)
def test_the_rows_as_they_are_score_as_the_metrics_say(found: Outcome) -> None:
    labels, logits, targets = found
    ours = {name: float(value[0]) for name, value in scorer(labels, logits, targets)(once(len(logits))).items()}
    expected = task_metrics(labels, logits, targets)
    assert {name: ours[name] for name in metric_names(labels)} == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(outcomes, st.integers(0, 1000))
def test_a_resample_scores_as_its_rows_do_on_their_own(found: Outcome, seed: int) -> None:
    labels, logits, targets = found
    (weights,) = resamples(len(logits), 3, seed)
    at_once = scorer(labels, logits, targets)(weights)
    for index in range(3):
        drawn = np.repeat(np.arange(len(logits)), weights[:, index].astype(int))
        alone = scorer(labels, logits[drawn], targets[drawn])(once(len(drawn)))
        for name, values in alone.items():
            assert at_once[name][index] == pytest.approx(values[0], abs=1e-9, nan_ok=True), name


@settings(max_examples=60, deadline=None)
@given(outcomes)
def test_probability_scores_equal_to_scikit_learn(found: Outcome) -> None:
    labels, logits, targets = found
    ours = probability_scores(scorer(labels, logits, targets), len(logits))
    expected: dict[str, float] = {}
    if labels.problem_type == "regression":
        assert ours == {}
        return
    exact = logits.astype(np.float64)
    if labels.problem_type == "multi_label_classification":
        flat, wanted = exact.ravel(), targets.ravel()
        expected["brier"] = float(((expit(flat) - wanted) ** 2).mean())
        if 0 < wanted.sum() < len(wanted):
            expected["roc_auc_micro"] = sk.roc_auc_score(wanted, flat)
        if wanted.sum():
            expected["average_precision_micro"] = sk.average_precision_score(wanted, flat)
    else:
        chances = softmax(exact, axis=1)
        hot = targets[:, None] == np.arange(chances.shape[1])
        binary = chances.shape[1] == 2
        expected["brier"] = float(((chances - hot) ** 2).sum(axis=1).mean()) / (2 if binary else 1)
        columns = [1] if binary else range(chances.shape[1])
        # Another softmax may differ in the last digit, and so break ties that are none.
        chances = probabilities(logits)
        aucs = [sk.roc_auc_score(hot[:, c], chances[:, c]) for c in columns if 0 < hot[:, c].sum() < len(hot)]
        averages = [sk.average_precision_score(hot[:, c], chances[:, c]) for c in columns if hot[:, c].any()]
        suffix = "" if binary else "_macro"
        if aucs:
            expected[f"roc_auc{suffix}"] = float(np.mean(aucs))
        if averages:
            expected[f"average_precision{suffix}"] = float(np.mean(averages))
    assert set(ours) == set(expected) | {"ece", "mce"}
    assert {name: ours[name] for name in expected} == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.int8, 12, elements=st.integers(-9, 9)), hnp.arrays(np.int8, 12, elements=st.integers(-9, 9)))
def test_correlations_equal_to_scipy(one: npt.NDArray[np.int8], other: npt.NDArray[np.int8]) -> None:
    found = scorer(label_set("regression", 0), one[:, None].astype(np.float32), other.astype(np.float64))(once(12))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [np.nan_to_num(compute(one, other).statistic) for compute in (pearsonr, spearmanr)]
    assert [found["pearson"][0], found["spearman"][0]] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("task", TASKS)
def test_intervals_cover_every_metric_and_contain_its_value(task: ProblemType) -> None:
    labels, logits, targets = outcome(task, 400)
    score = scorer(labels, logits, targets)
    found = intervals(score, 400, samples=300, confidence=0.95, seed=1)
    values = task_metrics(labels, logits, targets) | probability_scores(score, 400)
    assert found.keys() == values.keys()
    for name, (low, high) in found.items():
        assert low < high, name
        if name not in ("ece", "mce"):  # a resample's noise adds to them
            assert low < values[name] < high, name


def test_intervals_repeat_and_depend_on_the_seed() -> None:
    score = scorer(*outcome("single_label_classification", 80))
    first = intervals(score, 80, samples=200, confidence=0.95, seed=5)
    assert first == intervals(score, 80, samples=200, confidence=0.95, seed=5)
    assert first != intervals(score, 80, samples=200, confidence=0.95, seed=6)


def test_resamples_do_not_depend_on_how_many_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(resamples(10, 7, 3)), axis=1)
    monkeypatch.setattr("pipeline.resampling.CELLS", 20)
    pieces = list(resamples(10, 7, 3))
    assert [piece.shape[1] for piece in pieces] == [2, 2, 2, 1]
    assert np.array_equal(np.concatenate(pieces, axis=1), whole)
    assert (whole.sum(axis=0) == 10).all()


def test_accuracy_interval_agrees_with_the_binomial() -> None:
    labels, logits, targets = outcome("single_label_classification", 1000, 2)
    accuracy = task_metrics(labels, logits, targets)["accuracy"]
    found = intervals(scorer(labels, logits, targets), 1000, samples=2000, confidence=0.95, seed=1)
    half = 1.96 * np.sqrt(accuracy * (1 - accuracy) / 1000)
    assert found["accuracy"] == pytest.approx((accuracy - half, accuracy + half), abs=0.006)


def test_more_confidence_is_a_wider_interval() -> None:
    score = scorer(*outcome("single_label_classification", 200))
    widths = []
    for confidence in (0.8, 0.95):
        low, high = intervals(score, 200, samples=500, confidence=confidence, seed=1)["f1_macro"]
        widths.append(high - low)
    assert widths[0] < widths[1]


def test_a_perfect_split_has_no_width() -> None:
    labels = label_set("single_label_classification", 4)
    score = scorer(labels, np.eye(4, dtype=np.float32).repeat(5, axis=0) * 9, np.arange(4).repeat(5))
    found = intervals(score, 20, samples=100, confidence=0.95, seed=1)
    assert found["accuracy"] == found["f1_macro"] == (1.0, 1.0)


def test_the_users_metrics_see_the_same_resamples() -> None:
    labels, logits, targets = outcome("single_label_classification", 60)
    right = logits.argmax(axis=1) == targets
    found = intervals(
        scorer(labels, logits, targets),
        60,
        samples=200,
        confidence=0.9,
        seed=2,
        own={"mine": lambda rows: float(right[rows].mean()), "never": lambda _: float("nan")},
    )
    assert found["mine"] == pytest.approx(found["accuracy"])
    assert "never" not in found


def test_a_temperature_adds_scaled_scores() -> None:
    labels, logits, targets = outcome("single_label_classification", 200)
    as_is = probability_scores(scorer(labels, logits, targets), 200)
    scaled = probability_scores(scorer(labels, logits, targets, temperature=2.0), 200)
    halved = probability_scores(scorer(labels, logits / 2, targets), 200)
    for name in ("ece", "mce", "brier"):
        assert scaled[name] == as_is[name]
        assert scaled[f"{name}_scaled"] == pytest.approx(halved[name])
    assert scaled["loss_scaled"] == pytest.approx(task_metrics(labels, logits / 2, targets)["loss"])
