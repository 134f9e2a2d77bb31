from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SeqtrackError
from pipeline.rows import SCHEMA, read_row_ids, read_rows, row_id, write_parquet

TEXT = st.text(st.characters(codec="utf-8"))
CONTENT = st.tuples(TEXT, st.none() | TEXT, st.none() | TEXT, st.none() | TEXT, st.integers(0, 5))


def table(rows: int = 3) -> pa.Table:
    columns = {
        "row_id": [row_id(f"text {i}", None, "a", None, 0) for i in range(rows)],
        "text": [f"text {i}" for i in range(rows)],
        "text_pair": [None] * rows,
        "label": ["a"] * rows,
        "split": [None] * rows,
        "source": ["file.csv"] * rows,
        "line": list(range(rows)),
        "group": ["g"] * rows,
        "time": [None] * rows,
        "kept": [[("shop", "a"), ("stars", None)]] * rows,
    }
    return pa.table(columns, schema=SCHEMA)


@given(CONTENT, CONTENT)
def test_ids_differ_exactly_when_contents_do(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert (row_id(*one) == row_id(*other)) == (one == other)


def test_ids_keep_neighbouring_fields_and_nulls_apart() -> None:
    near = [
        ("ab", "c", None, None, 0),
        ("a", "bc", None, None, 0),
        ("ab", None, "c", None, 0),
        ("ab", "c", "", None, 0),
        ("ab", "c", None, "", 0),
        ("ab", "c", None, None, 1),
    ]
    assert len({row_id(*content) for content in near}) == len(near)


def test_ids_are_those_of_earlier_runs() -> None:
    # Splits and caches hang on these: another value here would move every row of every user.
    assert row_id("text", None, "label", "train", 0) == "9c2c68de7f0a6af329ac492d26f123fe"


def test_rows_survive_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_parquet(table(), path)
    assert read_rows(path).equals(table())
    assert read_rows(path, ["text"]).column_names == ["text"]
    assert read_row_ids(path).to_pylist() == table()["row_id"].to_pylist()


def test_bytes_depend_on_the_rows_alone(tmp_path: Path) -> None:
    write_parquet(table(), tmp_path / "whole.parquet")
    write_parquet(pa.concat_tables([table().slice(0, 1), table().slice(1)]), tmp_path / "pieces.parquet")
    assert (tmp_path / "whole.parquet").read_bytes() == (tmp_path / "pieces.parquet").read_bytes()


def test_other_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["a"]}), path)
    with pytest.raises(SeqtrackError, match="not canonical rows"):
        read_rows(path)


@pytest.mark.parametrize("read", [read_rows, read_row_ids])
def test_a_missing_file_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(SeqtrackError, match=r"none\.parquet: file not found"):
        read(tmp_path / "none.parquet")
