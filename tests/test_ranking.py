"""Curves and areas equal scikit-learn's, with ties, and survive thinning."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk

from pipeline.ranking import MOST_POINTS, Curve, areas, class_areas, precision_recall_curve, roc_curve, thinned
from pipeline.resampling import once

Rows = tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]


def rows_of(draw: st.DrawFn) -> Rows:
    count = draw(st.integers(2, 40))
    scores = draw(hnp.arrays(np.int8, count, elements=st.integers(-6, 6))).astype(np.float64) / 4
    positive = draw(hnp.arrays(np.bool_, count))
    positive[:2] = [True, False]  # a row of each kind
    return scores, positive


rows = st.composite(rows_of)()


@settings(max_examples=80, deadline=None)
@given(rows, st.integers(0, 99))
def test_areas_equal_to_scikit_learn_under_any_weights(found: Rows, seed: int) -> None:
    scores, positive = found
    weights = np.random.default_rng(seed).integers(0, 3, (len(scores), 4)).astype(np.float64)
    weights[:2] += 1
    auc, average = areas(scores, positive, weights)
    for index in range(4):
        expected = sk.roc_auc_score(positive, scores, sample_weight=weights[:, index])
        assert auc[index] == pytest.approx(expected, abs=1e-12)
        expected = sk.average_precision_score(positive, scores, sample_weight=weights[:, index])
        assert average[index] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(rows)
def test_curves_equal_to_scikit_learn(found: Rows) -> None:
    scores, positive = found
    false, true, thresholds = sk.roc_curve(positive, scores, drop_intermediate=False)
    ours = roc_curve(scores, positive)
    assert [ours.x.tolist(), ours.y.tolist()] == [pytest.approx(false), pytest.approx(true)]
    assert ours.thresholds.tolist() == thresholds.tolist()
    precision, recall, thresholds = sk.precision_recall_curve(positive, scores)
    ours = precision_recall_curve(scores, positive)
    kept = np.flatnonzero(recall == 1)[-1]  # scikit-learn goes on past full recall
    assert ours.x.tolist() == pytest.approx(recall[kept:][::-1])
    assert ours.y.tolist() == pytest.approx(precision[kept:][::-1])
    assert ours.thresholds[1:].tolist() == thresholds[kept:][::-1].tolist()


def test_areas_without_either_kind_are_undefined() -> None:
    scores, weights = np.array([0.1, 0.9]), np.array([[1.0, 0, 1], [1, 1, 0]])
    auc, average = areas(scores, np.array([True, True]), weights)
    assert np.isnan(auc).all()
    assert average.tolist() == [1, 1, 1]
    assert all(np.isnan(found).all() for found in areas(scores, np.array([False, False]), weights))
    auc, average = areas(scores, np.array([True, False]), weights)
    assert auc.tolist() == pytest.approx([0, np.nan, np.nan], nan_ok=True)
    assert average.tolist() == pytest.approx([0.5, np.nan, 1], nan_ok=True)


def test_entries_take_the_weight_of_their_row() -> None:
    generator = np.random.default_rng(0)
    scores, positive = generator.normal(size=(30, 4)), generator.random((30, 4)) < 0.4
    weights = generator.integers(0, 3, (30, 2)).astype(np.float64)
    pooled, _ = areas(scores.ravel(), positive.ravel(), weights, np.repeat(np.arange(30), 4))
    for index in range(2):
        expected = sk.roc_auc_score(positive.ravel(), scores.ravel(), sample_weight=np.repeat(weights[:, index], 4))
        assert pooled[index] == pytest.approx(expected)
    by_class, _ = class_areas(scores, positive, once(30))
    assert by_class[:, 0].tolist() == pytest.approx(
        [sk.roc_auc_score(positive[:, place], scores[:, place]) for place in range(4)]
    )


def area(curve: Curve) -> float:
    return float(np.trapezoid(curve.y, curve.x))


@pytest.mark.parametrize("share", [0.5, 0.01])
@pytest.mark.parametrize("signal", [0.0, 1.0, 4.0])
def test_thinning_keeps_ends_and_area(share: float, signal: float) -> None:
    generator = np.random.default_rng(1)
    positive = generator.random(20_000) < share
    scores = generator.normal(size=20_000) + signal * positive
    for make in (roc_curve, precision_recall_curve):
        whole = make(scores, positive)
        thin = thinned(whole)
        assert len(thin.x) <= MOST_POINTS
        assert (thin.x[0], thin.y[0], thin.x[-1], thin.y[-1]) == (whole.x[0], whole.y[0], whole.x[-1], whole.y[-1])
        assert set(thin.thresholds) <= set(whole.thresholds)
        assert area(thin) == pytest.approx(area(whole), abs=1e-3)


def test_a_short_curve_is_kept_whole() -> None:
    curve = roc_curve(np.array([0.1, 0.2, 0.3]), np.array([False, True, True]))
    assert thinned(curve) is curve
