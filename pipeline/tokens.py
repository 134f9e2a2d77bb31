"""Token ids on disk: Arrow files that train and evaluate read without loading them.

Promises: fixed chunks, so equal rows give equal bytes whatever wrote them; opening maps files into memory, so a corpus
may be larger than it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.encoding import FlatRows, Padding
from pipeline.errors import SeqtrackError
from pipeline.outputs import read_manifest

if TYPE_CHECKING:
    import torch

SHARD_ROWS = 50_000  # rows per file; a shard is one record batch, so its values lie in one piece of memory


def schema(*, token_types: bool) -> pa.Schema:
    """Return the columns of a token file."""
    return token_schema(token_types=token_types).insert(0, pa.field("row_id", pa.string(), nullable=False))


def token_schema(*, token_types: bool) -> pa.Schema:
    """Return the columns that follow from the texts alone."""
    fields = [
        pa.field("input_ids", pa.large_list(pa.int32()), nullable=False),
        pa.field("full_length", pa.int32(), nullable=False),  # tokens before truncation
    ]
    if token_types:
        fields.insert(1, pa.field("token_type_ids", pa.large_list(pa.int8()), nullable=False))
    return pa.schema(fields)


def token_columns(rows: FlatRows) -> pa.RecordBatch:
    """Return encoded rows under `token_schema`, without copying them."""
    offsets = pa.py_buffer(np.concatenate([[0], np.cumsum(rows.lengths)]).astype(np.int64))

    def lists(values: npt.NDArray[np.int32] | npt.NDArray[np.int8], of: pa.DataType) -> pa.Array:
        flat = pa.Array.from_buffers(of, len(values), [None, pa.py_buffer(values)])
        return pa.Array.from_buffers(pa.large_list(of), len(rows.lengths), [None, offsets], children=[flat])

    full = pa.Array.from_buffers(pa.int32(), len(rows.lengths), [None, pa.py_buffer(rows.full_lengths)])
    columns = [lists(rows.input_ids, pa.int32()), full]
    if rows.token_type_ids is not None:
        columns.insert(1, lists(rows.token_type_ids, pa.int8()))
    return pa.record_batch(columns, schema=token_schema(token_types=rows.token_type_ids is not None))


class ShardWriter:
    """Collects encoded rows and writes one file per SHARD_ROWS of them into a folder."""

    def __init__(self, folder: Path, *, token_types: bool) -> None:
        self._folder = folder
        self._schema = schema(token_types=token_types)
        self._batches: list[pa.RecordBatch] = []
        self._waiting = 0
        self._shards = 0

    def write(self, row_ids: pa.Array, rows: pa.RecordBatch) -> None:
        """Append rows, given as `token_columns` does."""
        self._batches.append(pa.record_batch([row_ids, *rows.columns], schema=self._schema))
        self._waiting += len(row_ids)
        while self._waiting >= SHARD_ROWS:
            self._flush()

    def close(self) -> None:
        """Write the last, shorter shard; an empty corpus still gets one file, which carries the schema."""
        if self._waiting or not self._shards:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._batches, self._schema)
        shard, rest = table.slice(0, SHARD_ROWS), table.slice(SHARD_ROWS)
        path = self._folder / f"tokens-{self._shards:05d}.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, self._schema) as writer:
            # Copied first: a slice is written with bytes of its neighbours, which depend on how the rows came in. To
            # join pieces copies them, and is the faster way.
            pieces = shard["row_id"].num_chunks
            copied = shard.combine_chunks() if pieces > 1 else shard.take(np.arange(shard.num_rows)).combine_chunks()
            for batch in copied.to_batches():
                writer.write_batch(batch)
        self._batches = rest.to_batches()
        self._waiting = rest.num_rows
        self._shards += 1


@contextmanager
def shard_writer(folder: Path, *, token_types: bool) -> Iterator[ShardWriter]:
    """Yield a writer that is closed when the block succeeds."""
    writer = ShardWriter(folder, token_types=token_types)
    yield writer
    writer.close()


@dataclass(frozen=True)
class _Shard:
    """One mapped file: flat values with row offsets; row i is values[offsets[i]:offsets[i + 1]]."""

    offsets: npt.NDArray[np.int64]
    input_ids: npt.NDArray[np.int32]
    token_type_ids: npt.NDArray[np.int8] | None


class TokenStore:
    """All tokenized rows, addressed by position (row order of rows.parquet).

    Attributes:
        row_ids: string array, shape (rows,).
        lengths: int32 array of tokens per row after truncation, shape (rows,).
        full_lengths: the same before truncation.
        padding: how to fill up batches.
        pad_to: length of all batches, None for that of each batch's longest row.
    """

    def __init__(self, files: list[Path], padding: Padding, *, pad_to: int | None = None) -> None:
        self.padding = padding
        self.pad_to = pad_to
        shards, ids, full = [], [], []
        for file in files:
            with pa.memory_map(str(file)) as source:
                table = pa.ipc.open_file(source).read_all()
            if table.num_rows == 0:
                continue
            (batch,) = table.to_batches()  # ShardWriter's contract
            shards.append(_map_shard(batch))
            ids.append(batch["row_id"])
            full.append(batch["full_length"].to_numpy())
        self._shards = shards
        self._starts = np.cumsum([0] + [len(shard.offsets) - 1 for shard in shards])
        self.row_ids: pa.Array = pa.concat_arrays(ids) if ids else pa.array([], pa.string())
        self.full_lengths: npt.NDArray[np.int32] = np.concatenate(full) if full else np.zeros(0, np.int32)
        self.lengths: npt.NDArray[np.int32] = np.concatenate(
            [np.diff(shard.offsets) for shard in shards] or [np.zeros(0)]
        ).astype(np.int32)

    @staticmethod
    def open(folder: Path, *, pad_to_max_length: bool = False) -> TokenStore:
        """Map the files of a tokenize output.

        Args:
            folder: the output.
            pad_to_max_length: whether all batches are as long as the longest row may be.

        Raises:
            SeqtrackError: the folder is missing, damaged or of another version.
        """
        manifest = read_manifest(folder)
        try:
            return TokenStore(
                [folder / name for name in sorted(manifest["files"])],
                Padding(**manifest["padding"]),
                pad_to=int(manifest["params"]["max_length"]) if pad_to_max_length else None,
            )
        except (OSError, pa.ArrowInvalid) as error:
            raise SeqtrackError(
                f"token files are missing or damaged ({error})",
                where=str(folder),
                fix="run `dvc repro --force tokenize` to rebuild them",
            ) from error

    def positions(self, row_ids: pa.Array) -> npt.NDArray[np.int64]:
        """Return where rows lie, int64, shape of row_ids.

        Raises:
            SeqtrackError: a row was never tokenized.
        """
        found = pc.index_in(row_ids, value_set=self.row_ids)
        if found.null_count:
            missing = pc.filter(row_ids, pc.is_null(found))[0].as_py()
            raise SeqtrackError(
                f"row {missing} has no tokens",
                where="data/tokenized",
                fix="run `dvc repro`: splits and tokens come from different rows",
            )
        positions: npt.NDArray[np.int64] = found.to_numpy(zero_copy_only=False).astype(np.int64)
        return positions

    def distinct_ids(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the ids of all tokens that rows have, and that of padding, int64, ascending, without repeats."""
        wanted = np.zeros(len(self.lengths), np.bool_)
        wanted[positions] = True
        found = {self.padding.pad_token_id}
        for shard, start, end in zip(self._shards, self._starts[:-1], self._starts[1:], strict=True):
            ids = shard.input_ids[shard.offsets[0] : shard.offsets[-1]]
            counts = np.bincount(ids[np.repeat(wanted[start:end], self.lengths[start:end])])
            found.update(np.flatnonzero(counts).tolist())
        return np.array(sorted(found), np.int64)

    def batch(self, positions: npt.NDArray[np.int64], *, pad_to_multiple_of: int = 8) -> dict[str, torch.Tensor]:
        """Return padded model inputs for rows, in the order given: see `Padding.batch`."""
        ids, types = [], []
        for position, shard_index in zip(
            positions, np.searchsorted(self._starts, positions, side="right") - 1, strict=True
        ):
            shard = self._shards[shard_index]
            row = int(position - self._starts[shard_index])
            where = slice(shard.offsets[row], shard.offsets[row + 1])
            ids.append(shard.input_ids[where])
            if shard.token_type_ids is not None:
                types.append(shard.token_type_ids[where])
        return self.padding.batch(ids, types or None, multiple_of=self.pad_to or pad_to_multiple_of)


def _map_shard(batch: pa.RecordBatch) -> _Shard:
    ids = batch["input_ids"]
    types = batch["token_type_ids"] if "token_type_ids" in batch.schema.names else None
    return _Shard(
        offsets=ids.offsets.to_numpy(),
        input_ids=ids.values.to_numpy(),
        token_type_ids=None if types is None else types.values.to_numpy(),
    )
