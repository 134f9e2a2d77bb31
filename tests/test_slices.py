"""Slices divide a split: each row in one of each kind, few of them, in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SeqtrackError
from pipeline.params import BUILT_IN_SLICES
from pipeline.row_store import Kept
from pipeline.rows import SCHEMA
from pipeline.slices import MOST_SLICES, NO_VALUE, OTHERS, Slice, check_kept, is_given, length_bounds, slices


def table(
    texts: Sequence[str],
    *,
    sources: Sequence[str] | None = None,
    groups: Sequence[str | None] | None = None,
    kept: Sequence[Kept] | None = None,
) -> pa.Table:
    count = len(texts)
    return pa.table(
        {
            "row_id": pa.array([str(i) for i in range(count)]),
            "text": pa.array(texts),
            "split": pa.array(["test"] * count, pa.string()),
            "source": pa.array(sources or ["a.csv"] * count),
            "group": pa.array(groups or [None] * count, pa.string()),
            "kept": pa.array(kept or [None] * count, SCHEMA.field("kept").type),
        }
    )


def divided(
    kind: str, rows: pa.Table, lengths: Sequence[int] | npt.NDArray[np.int64] | None = None
) -> tuple[Slice, ...]:
    known = np.ones(rows.num_rows, int) if lengths is None else np.asarray(lengths)
    return slices((kind,), rows, known, length_bounds(known))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=80))
def test_every_row_is_in_one_slice_of_each_kind(rows: list[tuple[int, int]]) -> None:
    lengths = np.array([length for length, _ in rows])
    given_ = table(["word"] * len(rows), sources=[f"{source}.csv" for _, source in rows])
    found = slices(BUILT_IN_SLICES, given_, lengths, length_bounds(lengths))
    for kind in {part.kind for part in found}:
        parts = [part for part in found if part.kind == kind]
        assert sorted(np.concatenate([part.rows for part in parts]).tolist()) == list(range(len(rows)))
        assert 1 < len(parts) <= MOST_SLICES + 1
        assert all(len(part.rows) for part in parts)


def test_lengths_are_divided_at_their_quartiles() -> None:
    lengths = np.arange(1, 101)
    found = divided("length", table(["word"] * 100), lengths)
    assert [(part.name, len(part.rows)) for part in found] == [
        ("up to 25 tokens", 25),
        ("26 to 50 tokens", 25),
        ("51 to 75 tokens", 25),
        ("76 tokens or more", 25),
    ]
    assert lengths[found[1].rows].tolist() == list(range(26, 51))


@pytest.mark.parametrize(("lengths", "bounds"), [([5, 5, 5, 5], ()), ([1, 1, 1, 9], (1,)), ([3], ())])
def test_equal_lengths_make_fewer_buckets(lengths: list[int], bounds: tuple[int, ...]) -> None:
    assert length_bounds(np.array(lengths)) == bounds
    assert len(divided("length", table(["word"] * len(lengths)), lengths)) == (2 if bounds else 0)


def test_sources_come_in_natural_order_and_the_smallest_are_put_together() -> None:
    names = [f"{place}.csv" for place in range(30) for _ in range(place + 1)]
    found = divided("source", table(["word"] * len(names), sources=names))
    assert [part.name for part in found] == [f"{place}.csv" for place in range(10, 30)] + [OTHERS]
    assert len(found[-1].rows) == sum(range(1, 11))


def test_groups_and_writing_systems() -> None:
    rows = table(["hello", "你好世界", "bye", "再见"], groups=["b", "a", None, "a"])
    assert [(part.name, part.rows.tolist()) for part in divided("group", rows)] == [
        (NO_VALUE, [2]),
        ("a", [1, 3]),
        ("b", [0]),
    ]
    assert {part.name: part.rows.tolist() for part in divided("script", rows)} == {"Latin": [0, 2], "Han": [1, 3]}


def test_columns_of_the_users() -> None:
    kept: list[Kept] = [[("shop", shop), ("stars", stars)] for shop, stars in (("b", "10"), (None, "9"), ("a", "9"))]
    rows = table(["one", "two", "three"], kept=kept)
    found = {(part.kind, part.name): part.rows.tolist() for part in (*divided("shop", rows), *divided("stars", rows))}
    assert found == {
        ("shop", NO_VALUE): [1],
        ("shop", "a"): [2],
        ("shop", "b"): [0],
        ("stars", "9"): [1, 2],
        ("stars", "10"): [0],
    }


def test_columns_that_rows_were_written_without_are_named() -> None:
    kept: list[Kept] = [[("shop", None)], [("shop", "a")]]
    check_kept(("length", "shop"), table(["one", "two"], kept=kept))
    check_kept(("shop",), table(["one"]).slice(1))  # of no rows nothing is known
    for rows, missing in ((table(["one", "two"], kept=kept), "stars"), (table(["one"]), "shop")):
        with pytest.raises(SeqtrackError, match=rf"the rows have no column '{missing}'.*dvc repro"):
            check_kept(("source", missing), rows)


def test_a_single_value_is_no_slice() -> None:
    assert divided("source", table(["a", "b"])) == divided("group", table(["a", "b"])) == ()


def test_given_splits_are_those_that_every_row_names() -> None:
    rows = table(["a", "b"])
    assert is_given(rows, "test")
    assert not is_given(rows, "validation")
    assert not is_given(rows.set_column(2, "split", pa.array(["test", None])), "test")
