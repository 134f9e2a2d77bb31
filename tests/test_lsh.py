import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SeqtrackError
from pipeline.lsh import RECALL, Banding, buckets, choose_banding


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


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 6), max_size=12), st.integers(0, 3))
def test_pairs_are_those_that_share_a_band(columns: list[tuple[int, ...]], largest: int) -> None:
    banding = Banding(bands=3, rows=2)
    slots = np.array(columns, np.uint16).reshape(-1, 6).T
    for band, found in enumerate(buckets(slots, np.arange(len(columns)), banding)):
        keys = [column[2 * band : 2 * band + 2] for column in columns]
        pairs = {(i, j) for i in range(len(keys)) for j in range(i + 1, len(keys)) if keys[i] == keys[j]}
        assert sorted(found.pairs().tolist()) == sorted(map(list, pairs))
        slim, large = found.split(largest)
        assert all(len(members) > largest for members in large)
        rest = {(i, j) for members in large for i in members.tolist() for j in members.tolist() if i < j}
        assert set(map(tuple, slim.pairs().tolist())) | rest == pairs


def test_the_order_of_sets_changes_no_bucket() -> None:
    slots = np.random.default_rng(0).integers(0, 3, (4, 50)).astype(np.uint16)
    order = np.random.default_rng(1).permutation(50)
    banding = Banding(bands=2, rows=2)
    for one, other in zip(buckets(slots, np.arange(50), banding), buckets(slots, order, banding), strict=True):
        pairs = np.sort(order[other.pairs()], axis=1)
        assert set(map(tuple, one.pairs().tolist())) == set(map(tuple, pairs.tolist()))
