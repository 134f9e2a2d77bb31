"""What outputs mean, and thresholds: the best F1 there is, near one half, kept in the model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import f1_score

from pipeline.decisions import decide, read_thresholds, tune_thresholds, write_thresholds
from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet
from pipeline.probabilities import sigmoid

SETS = LabelSet(problem_type="multi_label_classification", names=("体育", "b", "c"))
CHANCES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.floats(0, 1))


def tuned(chances: list[float], targets: list[int]) -> float:
    return float(tune_thresholds(np.array(chances)[:, None], np.array(targets, np.float32)[:, None])[0])


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 12).flatmap(
        lambda rows: st.tuples(
            hnp.arrays(np.float64, rows, elements=CHANCES), hnp.arrays(np.int64, rows, elements=st.integers(0, 1))
        )
    )
)
def test_no_threshold_is_better(outcome: tuple[Any, Any]) -> None:
    chances, targets = outcome

    def f1(threshold: float) -> float:
        return float(f1_score(targets, chances >= threshold, zero_division=0))

    found = tuned(chances, targets)
    assert 0 <= found <= 1
    best = max(f1(threshold) for threshold in (*chances, 0.5))
    assert f1(found) == pytest.approx(best, abs=1e-12)
    if f1(0.5) == best:
        assert found == 0.5


@pytest.mark.parametrize(
    ("chances", "targets", "expected"),
    [
        ([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], 0.5),  # lies between
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 0], 0.75),  # the middle
        ([0.4, 0.3, 0.2, 0.1], [1, 1, 0, 0], 0.25),
        ([0.3, 0.3, 0.1], [1, 0, 0], 0.2),  # equals go together
        ([0.4, 0.3], [1, 1], 0.15),  # all rows are of the class
        ([0.9, 0.8], [0, 0], 0.5),  # no row is
        ([0.7, 0.3, 0.1], [1, 0, 1], 0.05),  # all three: 4/5, the first alone: 2/3
        ([0.9, 0.8, 0.3, 0.2], [1, 0, 0, 1], 0.85),  # the first alone and all four: 2/3 both, and 0.85 is nearer to 0.5
    ],
)
def test_thresholds_by_hand(chances: list[float], targets: list[int], expected: float) -> None:
    assert tuned(chances, targets) == pytest.approx(expected)


def test_neighbouring_numbers_have_no_middle() -> None:
    high = 0.75
    low = float(np.nextafter(high, 0))
    found = tuned([high, low], [1, 0])
    assert low < found <= high


def test_classes_are_tuned_apart() -> None:
    chances = np.array([[0.9, 0.2], [0.8, 0.1], [0.7, 0.05]])
    targets = np.array([[1, 1], [0, 1], [0, 0]], np.float32)
    assert tune_thresholds(chances, targets) == pytest.approx([0.85, 0.075])


def test_sets() -> None:
    logits = np.array([[0.0, 2.0, -1.0], [-1.0, -1.0, -1.0]], np.float32)
    said = decide(SETS, logits)
    assert said.labels == [["体育", "b"], []]
    assert said.ids.tolist() == [[1, 1, 0], [0, 0, 0]]
    assert said.probabilities == pytest.approx(sigmoid(logits))
    assert decide(SETS, logits, np.array([0.6, 0.9, 0.2])).labels == [["c"], ["c"]]


def test_classes_and_numbers() -> None:
    single = LabelSet(problem_type="single_label_classification", names=("a", "b"))
    said = decide(single, np.array([[1.0, 1.0], [0.0, 3.0]], np.float32))
    assert (said.labels, said.ids.tolist()) == (["a", "b"], [0, 1])
    assert said.probabilities is not None
    assert said.probabilities.sum(axis=1) == pytest.approx([1, 1])
    numbers = decide(LabelSet(problem_type="regression", names=()), np.array([[3.8], [1e-9]], np.float32))
    assert numbers.labels == [3.8, 1e-9]  # not 3.799999952316284
    assert numbers.probabilities is None


@given(hnp.arrays(np.float32, (4, 2), elements=st.floats(-1e4, 1e4, width=32)))
def test_sigmoid(logits: Any) -> None:
    found = sigmoid(logits)
    assert ((found >= 0) & (found <= 1)).all()
    assert found + sigmoid(-logits) == pytest.approx(np.ones((4, 2)), abs=1e-15)
    assert found == pytest.approx(0.5 * (1 + np.tanh(logits.astype(np.float64) / 2)), abs=1e-15)


def test_thresholds_are_kept_exactly(tmp_path: Path) -> None:
    assert read_thresholds(tmp_path, SETS) is None
    write_thresholds(tmp_path, SETS.names, np.array([0.1, 1 / 3, 0.5]))
    found = read_thresholds(tmp_path, SETS)
    assert found is not None
    assert found.tolist() == [0.1, 1 / 3, 0.5]
    others = LabelSet(problem_type="multi_label_classification", names=("b", "d"))
    with pytest.raises(SeqtrackError, match=r"thresholds.json: not the thresholds of this model's classes"):
        read_thresholds(tmp_path, others)
