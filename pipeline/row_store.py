"""Writing canonical rows as a stream, and reading back a few of them by their position.

Promises: memory does not grow with the texts, whatever the size of the batches; the bytes written depend on the rows
and their order alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.rows import ROW_GROUP, SCHEMA, row_id

Kept = list[tuple[str, str | None]]
"""Names of data.keep_columns and what a row has in them."""


class Batch(NamedTuple):
    """Rows column by column, all of shape (rows,) and in file order."""

    sources: list[str]
    texts: list[str]
    pairs: list[str | None]
    labels: list[str | None]
    splits: list[str | None]
    lines: list[int]
    groups: list[str | None]
    times: list[str | None]
    kept: list[Kept | None]

    def where(self, keep: Iterable[bool]) -> Batch:
        """Return the rows for which `keep`, of shape (rows,), is true."""
        chosen = list(keep)
        return Batch._make(list(compress(column, chosen)) for column in self)


class RowWriter:
    """Writes canonical rows to a Parquet file, a row group at a time."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetWriter(path, SCHEMA, compression="zstd", store_schema=True)
        self._pending: list[pa.Table] = []
        self._seen: set[bytes] = set()  # contents of rows so far
        self._repeats: Counter[bytes] = Counter()

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush(at_least=1)
        self._file.close()

    def write(self, batch: Batch) -> None:
        """Append rows, each under its row_id."""
        contents = zip(batch.texts, batch.pairs, batch.labels, batch.splits, strict=True)
        columns = {
            "row_id": [self._identify(*content) for content in contents],
            "text": batch.texts,
            "text_pair": batch.pairs,
            "label": batch.labels,
            "split": batch.splits,
            "source": batch.sources,
            "line": batch.lines,
            "group": batch.groups,
            "time": batch.times,
            "kept": batch.kept,
        }
        self._pending.append(pa.table(columns, schema=SCHEMA))
        self._flush(at_least=ROW_GROUP)

    def _identify(self, text: str, pair: str | None, label: str | None, split: str | None) -> str:
        identity = row_id(text, pair, label, split, 0)
        key = bytes.fromhex(identity)
        if key not in self._seen:
            self._seen.add(key)
            return identity
        self._repeats[key] += 1
        return row_id(text, pair, label, split, self._repeats[key])

    def _flush(self, *, at_least: int) -> None:
        """Write row groups, all of them full but for the last one of the file."""
        rows = sum(len(table) for table in self._pending)
        if rows < at_least:
            return
        table = pa.concat_tables(self._pending)
        start = 0
        while rows - start >= at_least:
            part = table.slice(start, ROW_GROUP).combine_chunks()
            self._file.write_table(part, row_group_size=ROW_GROUP)
            start += len(part)
        self._pending = [table.slice(start)] if start < rows else []


def relabel(path: Path, labels: Mapping[str, str]) -> None:
    """Write a file of canonical rows anew with other labels, and so other row_ids; one row group in memory at a time.

    Args:
        path: rows.parquet.
        labels: old to new label.
    """
    fresh = path.with_name(f".{path.name}.new")
    with pq.ParquetFile(path) as file, RowWriter(fresh) as writer:
        for group in range(file.num_row_groups):
            columns = file.read_row_group(group).to_pydict()
            writer.write(
                Batch(
                    sources=columns["source"],
                    texts=columns["text"],
                    pairs=columns["text_pair"],
                    labels=[None if label is None else labels[label] for label in columns["label"]],
                    splits=columns["split"],
                    lines=columns["line"],
                    groups=columns["group"],
                    times=columns["time"],
                    kept=columns["kept"],
                )
            )
    fresh.replace(path)


def rows_at(path: Path, positions: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
    """Read rows by their position in a file of canonical rows, one row group in memory at a time.

    Args:
        path: rows.parquet.
        positions: shape (rows,), ascending.
        columns: the columns wanted.

    Returns:
        The rows in the order of the file.
    """
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    found = []
    with pq.ParquetFile(path) as file:
        start = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            here = positions[np.searchsorted(positions, start) : np.searchsorted(positions, end)] - start
            if len(here):
                found.append(file.read_row_group(group, columns=list(columns)).take(pa.array(here)))
            start = end
    return pa.concat_tables([schema.empty_table(), *found])
