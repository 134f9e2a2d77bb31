import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.partial import rows_involved, shared_sides

sides = st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 4), st.integers(0, 4), st.booleans()), max_size=12)


@given(sides)
def test_every_row_that_shares_a_side_across_splits_is_named_with_one_such_row(
    rows: list[tuple[int, int, int, bool]],
) -> None:
    split = np.array([row[0] for row in rows], np.int8)
    side = np.array([(-1, -1) if row[3] else row[1:3] for row in rows], np.int64).reshape(-1, 2)
    pairs = shared_sides(split, side).tolist()

    def share(i: int, j: int) -> bool:
        return bool(set(side[i].tolist()) & set(side[j].tolist()) - {-1}) and -1 != split[i] != split[j] != -1

    for first, second in pairs:
        assert share(first, second)
        assert split[first] > split[second]
    expected = {i for i in range(len(rows)) for j in range(len(rows)) if share(i, j)}
    assert {row for pair in pairs for row in pair} == expected == set(rows_involved(split, side).tolist())
    assert len(pairs) == len(set(map(tuple, pairs))) <= 2 * len(rows)


def test_a_sentence_that_recurs_costs_a_pair_for_each_row() -> None:
    split = np.repeat(np.array([2, 0], np.int8), 1000)
    side = np.stack([np.zeros(2000, np.int64), np.arange(1, 2001)], axis=1)
    assert len(shared_sides(split, side)) == 1999


def test_without_pairs_there_is_nothing() -> None:
    assert shared_sides(np.array([0, 2], np.int8), np.zeros((0, 2), np.int64)).shape == (0, 2)
