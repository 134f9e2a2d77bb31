import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.lsh import choose_banding
from pipeline.minhash import signatures
from pipeline.normalize import ShingleHashes


def sets(*members: list[int]) -> ShingleHashes:
    offsets = np.cumsum([0, *map(len, members)])
    return ShingleHashes(hashes=np.array([x for one in members for x in one], np.uint64), offsets=offsets)


@pytest.mark.parametrize(("common", "own"), [(20, 2), (16, 2), (300, 37), (8, 1), (1, 1), (64, 64)])
def test_slots_agree_as_often_as_the_sets_do_and_recall_is_what_the_formula_says(common: int, own: int) -> None:
    trials = 2000
    rng = np.random.default_rng(common)
    elements = rng.integers(0, 2**64, (trials, common + 2 * own), dtype=np.uint64)
    left = elements[:, : common + own]
    right = np.concatenate([elements[:, :common], elements[:, common + own :]], axis=1)
    offsets = np.arange(0, trials * (common + own) + 1, common + own)
    one, other = (signatures(ShingleHashes(hashes=np.ravel(side), offsets=offsets), 128) for side in (left, right))
    similarity = common / (common + 2 * own)
    agreement = (one == other).mean(axis=0)
    assert agreement.mean() == pytest.approx(similarity, abs=0.005)
    # The slots are as good as independent: the spread is that of 128 throws of a coin.
    assert agreement.std() == pytest.approx((similarity * (1 - similarity) / 128) ** 0.5, rel=0.1)
    banding = choose_banding(0.8, 128)
    used = (one == other)[: banding.bands * banding.rows].reshape(banding.bands, banding.rows, trials)
    found = used.all(axis=1).any(axis=0).mean()
    assert found == pytest.approx(banding.collision_probability(similarity), abs=0.035)
    assert found >= 0.99 or similarity < 0.8


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=300), max_size=5), st.integers(1, 20))
def test_a_signature_is_the_minimum_over_its_set_alone(members: list[list[int]], slots: int) -> None:
    found = signatures(sets(*members), slots)
    assert found.shape == (slots, len(members))
    for place, one in enumerate(members):
        shuffled_twice = [*reversed(one), *one]
        assert np.array_equal(signatures(sets([1], shuffled_twice, []), slots)[:, 1], found[:, place])


def test_unlike_sets_agree_almost_nowhere() -> None:
    elements = np.random.default_rng(0).integers(0, 2**64, 40_000, dtype=np.uint64)
    found = signatures(ShingleHashes(hashes=elements, offsets=np.arange(0, 40_001, 20)), 128)
    assert (found[:, :1000] == found[:, 1000:]).mean() < 1e-4
