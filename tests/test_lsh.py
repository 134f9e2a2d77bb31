import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SeqtrackError
from pipeline.lsh import RECALL, band_keys, candidate_pairs, choose_banding
from pipeline.normalize import ShingleHashes


@given(st.floats(0.3, 1.0), st.integers(16, 300))
def test_banding_keeps_the_recall_with_the_longest_bands(threshold: float, num_perm: int) -> None:
    banding = choose_banding(threshold, num_perm)
    assert banding.bands * banding.rows <= num_perm
    assert banding.collision_probability(threshold) >= RECALL
    if banding.rows < num_perm:
        longer = num_perm // (banding.rows + 1)
        assert 1 - (1 - threshold ** (banding.rows + 1)) ** longer < RECALL


def test_too_few_permutations_are_an_error_that_says_how_many_would_do() -> None:
    with pytest.raises(SeqtrackError, match=r"set it to 44 or more"):
        choose_banding(0.1, 16)
    assert choose_banding(0.1, 44).rows == 1


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), max_size=12))
def test_candidates_are_all_pairs_that_share_a_key(keys: list[tuple[int, int, int]]) -> None:
    expected = [
        [i, j]
        for i in range(len(keys))
        for j in range(i + 1, len(keys))
        if any(a == b for a, b in zip(keys[i], keys[j], strict=True))
    ]
    assert candidate_pairs(np.array(keys, np.uint64).reshape(-1, 3)).tolist() == expected


@pytest.mark.parametrize(("common", "own"), [(20, 2), (16, 2), (300, 37), (8, 1), (4, 0)])
def test_recall_at_the_threshold_is_what_the_formula_says_or_better(common: int, own: int) -> None:
    trials = 2000
    rng = np.random.default_rng(common)
    elements = rng.integers(0, 2**63, (trials, common + 2 * own), dtype=np.uint64)
    left = elements[:, : common + own]
    right = np.concatenate([elements[:, :common], elements[:, common + own :]], axis=1)
    size = common + own
    offsets = np.arange(0, trials * size + 1, size)
    banding = choose_banding(0.8, 128)
    keys = [band_keys(ShingleHashes(hashes=np.ravel(side), offsets=offsets), banding) for side in (left, right)]
    found = (keys[0] == keys[1]).any(axis=1).mean()
    assert found >= 0.99 if common / (common + 2 * own) >= 0.8 else found > 0.95


def test_keys_depend_on_the_set_alone() -> None:
    banding = choose_banding(0.8, 128)
    values = np.array([5, 9, 7, 7, 9, 5, 5], np.uint64)
    keys = band_keys(ShingleHashes(hashes=values, offsets=np.array([0, 3, 7])), banding)
    assert np.array_equal(keys[0], keys[1])
