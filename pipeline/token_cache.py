"""Tokens of texts seen before, kept beside the repository: when data grow, only new texts are tokenized.

Promises: what it returns is what the same tokenizer would, since the key is the tokenizer's whole definition and the
text itself. A file bears the digest of its content as its name: it is whole or absent, a damaged one is noticed and
dropped, and several processes may read and write at once. The store keeps the files used last, up to `MOST_BYTES`; it
may be deleted at any time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.console import say
from pipeline.outputs import replacing, sha256_file, sha256_json

MOST_BYTES = 4 * 2**30  # of all tokenizers together: about 15 million rows of 50 tokens
FILE_BYTES = 8 * 2**20  # waiting rows are written when they take so much; with more, memory has to be mapped anew
ABANDONED_SECONDS = 86_400  # after which what a killed process left is cleared
VERSION = 1  # of the files' form
_SUFFIX = ".arrow"

Digests = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]


def text_digests(texts: Sequence[str], pairs: Sequence[str | None]) -> Digests:
    """Return 128 bits of each row's texts.

    Args:
        texts: shape (rows,).
        pairs: shape (rows,), None for rows without a second text.

    Returns:
        uint64, shape (rows, 2).
    """
    blake2b = hashlib.blake2b
    digests = []
    for text, pair in zip(texts, pairs, strict=True):
        first = text.encode()
        # The length keeps ("ab", "c") and ("a", "bc") apart.
        content = b":" + first if pair is None else b"%d:%b%b" % (len(first), first, pair.encode())
        digests.append(blake2b(content, digest_size=16).digest())
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


class TokenCache:
    """The tokens that one tokenizer made. Takes 32 bytes of memory per row it has; the tokens are memory-mapped.

    Args:
        store: folder for the caches of all tokenizers; made when first written to.
        definition: whatever decides over the tokens of a text, but for the version of the tokenizers library.
        schema: of the rows.
    """

    def __init__(self, store: Path, definition: str, schema: pa.Schema) -> None:
        self._store = store
        self._schema = schema
        key = sha256_json([VERSION, version("tokenizers"), definition, str(schema)])
        self._folder = store / key[:32]
        self._used: set[Path] = set()
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = 0
        self._files: list[Path] = []
        self._batches: list[pa.RecordBatch] = []
        words = [np.empty((0, 2), np.uint64)]
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            if (batch := self._read(path)) is not None:
                self._files.append(path)
                self._batches.append(batch.drop_columns(["digest"]))
                words.append(np.frombuffer(batch["digest"].buffers()[1], np.uint64).reshape(-1, 2))
        self._digests = np.concatenate(words)
        self._starts = np.cumsum([0, *map(len, self._batches)])
        self._order = np.argsort(self._digests[:, 0], kind="stable")
        self._sorted = self._digests[self._order, 0]

    def __len__(self) -> int:
        """Return how many rows can be found."""
        return len(self._order)

    def find(self, digests: Digests) -> Places:
        """Return where rows lie in the cache, shape (rows,); -1 for those it does not have."""
        if not len(self):
            return np.full(len(digests), -1)
        nearest = np.minimum(np.searchsorted(self._sorted, digests[:, 0]), len(self) - 1)
        found = self._order[nearest]
        return np.where((self._digests[found] == digests).all(axis=1), found, -1)

    def merge(self, places: Places, new: pa.RecordBatch) -> pa.RecordBatch:
        """Return rows with the columns of the schema, in order.

        Args:
            places: what `find` gave, shape (rows,).
            new: the rows that it did not find, in their order.
        """
        files = np.searchsorted(self._starts, places, side="right") - 1  # -1 for the new ones
        parts = [new]
        for file in np.unique(files[files >= 0]).tolist():
            self._used.add(self._files[file])
            parts.append(self._batches[file].take(_indices(places[files == file] - self._starts[file])))
        # The parts one after the other hold the rows in this order; what is wanted is the way back.
        order = np.argsort(files, kind="stable")
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        (batch,) = pa.Table.from_batches(parts, self._schema).combine_chunks().take(_indices(back)).to_batches()
        return batch

    def add(self, digests: Digests, rows: pa.RecordBatch) -> None:
        """Keep rows of the schema for later processes; digests of their texts, shape (rows, 2)."""
        buffer = pa.py_buffer(np.ascontiguousarray(digests))
        column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(digests), [None, buffer])
        self._waiting.append(pa.record_batch([column, *rows.columns], schema=self._whole_schema))
        self._waiting_bytes += self._waiting[-1].nbytes
        if self._waiting_bytes >= FILE_BYTES:
            self._write()

    def close(self) -> None:
        """Write what waits; then make room by deleting the files, of any tokenizer, that were used longest ago."""
        self._write()
        for path in self._used:
            with suppress(OSError):  # another process has made room, or the folder is not ours to write
                path.touch()
        _clear(self._store)

    @property
    def _whole_schema(self) -> pa.Schema:
        return self._schema.insert(0, pa.field("digest", pa.binary(16), nullable=False))

    def _read(self, path: Path) -> pa.RecordBatch | None:
        """Return a file's rows, memory-mapped; None where it is damaged or gone."""
        try:
            if sha256_file(path) == path.stem:
                with pa.memory_map(str(path)) as source:
                    return pa.ipc.open_file(source).get_batch(0)
        except OSError:  # another process has made room, or the file is not ours to read
            return None
        say(f"tokenize: cached tokens are damaged, and made anew: {path}")
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return None

    def _write(self) -> None:
        """Write what waits as one file; where the disk refuses, say so and go on: nothing but time is lost."""
        if not self._waiting:
            return
        (batch,) = pa.Table.from_batches(self._waiting, self._whole_schema).combine_chunks().to_batches()
        self._waiting.clear()
        self._waiting_bytes = 0
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        content = sink.getvalue()
        path = self._folder / f"{hashlib.sha256(content).hexdigest()}{_SUFFIX}"
        try:
            with replacing(path) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            say(f"tokenize: tokens cannot be kept for the next run ({error})")


def _indices(numbers: Places) -> pa.Int64Array:
    return pa.Int64Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(np.ascontiguousarray(numbers))])


def _clear(store: Path) -> None:
    """Keep the newest files up to MOST_BYTES; clear what killed processes left more than a day before the newest."""
    found = []
    for path in store.glob("*/*"):
        with suppress(FileNotFoundError):  # another process is at it, too
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    found.sort(reverse=True)
    total = 0
    for time, size, path in found:
        total += size
        abandoned = path.suffix != _SUFFIX and time < found[0][0] - ABANDONED_SECONDS
        if abandoned or total > MOST_BYTES:
            with suppress(OSError):
                path.unlink(missing_ok=True)
