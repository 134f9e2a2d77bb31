"""Canonical rows: what validate writes and every later stage reads.

Promises: one schema, checked on reading; a row_id names the same row however files and rows are ordered.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import SeqtrackError

SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),  # 32 hex digits, unique
        pa.field("text", pa.string(), nullable=False),
        pa.field("text_pair", pa.string()),  # null in single-text data
        pa.field("label", pa.string()),  # null where the row is unlabelled
        pa.field("split", pa.string()),  # train, validation or test where the user's files say so, else null
        pa.field("source", pa.string(), nullable=False),  # file the row came from, relative to data.path
        pa.field("line", pa.int64(), nullable=False),  # first physical line of the row in it, from 1
        pa.field("group", pa.string()),  # of data.group_by: rows of one group stay in one split
        pa.field("time", pa.string()),  # of data.time: a date, a time or a number, as given
        # Column to value, in the order of data.keep_columns; a value is null where the row has none, the whole where no
        # column is kept. Every row names the columns, so that the schema is the same whatever they are; dictionary
        # encoding makes that cheap.
        pa.field("kept", pa.map_(pa.string(), pa.string())),
    ]
)

ROW_GROUP = 50_000  # rows per Parquet row group: fixed, so that equal rows give equal bytes


def row_id(text: str, text_pair: str | None, label: str | None, split: str | None, occurrence: int) -> str:
    """Return the id of a row: 128 bits of its content.

    Args:
        occurrence: 0 for the first row with this content in this split, 1 for the second, and so on; rows that differ
            in it alone are interchangeable, so ids do not depend on the order of rows.
    """
    content = (
        _framed(text)
        + _framed(text_pair)
        + _framed_short(label)
        + _framed_short(split)
        + _framed_short(str(occurrence))
    )
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _framed(part: str | None) -> bytes:
    """Put the length before a part: this keeps ("ab", "c") and ("a", "bc") apart, and -1 null and ""."""
    if part is None:
        return b"-1:"
    data = part.encode()
    return b"%d:%b" % (len(data), data)


_framed_short = lru_cache(maxsize=1024)(_framed)  # labels and splits come again and again


def read_rows(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read canonical rows, memory-mapped.

    Args:
        path: rows.parquet.
        columns: the columns wanted, all when None.

    Raises:
        SeqtrackError: the file is missing or has another schema.
    """
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            if not file.schema_arrow.equals(SCHEMA):
                raise SeqtrackError(
                    "not canonical rows", where=str(path), fix="run `dvc repro` to rebuild it with this version"
                )
            found = file.read(columns)
            # Parquet has names of its own for the parts of a map: with those, equal rows would be written as other
            # bytes.
            return found.cast(pa.schema([SCHEMA.field(name) for name in found.column_names]))
    except FileNotFoundError:
        raise SeqtrackError("file not found", where=str(path), fix="run `dvc repro` to build it") from None


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write a Parquet file whose bytes depend on the rows alone."""
    pq.write_table(table, path, row_group_size=ROW_GROUP, compression="zstd", store_schema=True)


def read_row_ids(path: Path) -> pa.Array:
    """Read one split file: the ids of its rows, shape (rows,), in order.

    Raises:
        SeqtrackError: the file is missing.
    """
    try:
        return pq.read_table(path, columns=["row_id"])["row_id"].combine_chunks()
    except FileNotFoundError:
        raise SeqtrackError("file not found", where=str(path), fix="run `dvc repro` to build it") from None


def select_rows(path: Path, row_ids: pa.Array, columns: list[str]) -> pa.Table:
    """Read the rows with these ids, in this order; memory grows with what is selected, not with the file.

    Args:
        path: rows.parquet.
        row_ids: strings, shape (rows,).
        columns: the columns wanted; row_id is among them.

    Raises:
        SeqtrackError: the file is missing, or has no row with one of the ids.
    """
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            schema = pa.schema([SCHEMA.field(name) for name in columns])
            found = pa.Table.from_batches(
                [
                    batch.filter(pc.is_in(batch["row_id"], value_set=row_ids)).select(columns)
                    for batch in file.iter_batches(columns=columns)
                ],
                schema,
            )
    except FileNotFoundError:
        raise SeqtrackError("file not found", where=str(path), fix="run `dvc repro` to build it") from None
    order = pc.index_in(row_ids, value_set=found["row_id"].combine_chunks())
    if order.null_count:
        missing = pc.filter(row_ids, pc.is_null(order))[0].as_py()
        raise SeqtrackError(f"no row {missing}", where=str(path), fix="run `dvc repro`: splits and rows do not match")
    return found.take(order)
