"""What a search for duplicates needs to know of each row: digests of its normal form and its MinHash signature.

Promises: computed in bounded memory and, given a store, only once for the same rows, shingle size and number of
permutations: a search with another threshold re-uses them, memory-mapped. An entry is whole or absent, a damaged one is
made anew, and the store keeps the `KEPT` entries used last.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import DTypeLike, NDArray

from pipeline import minhash, normalize, params
from pipeline.normalize import both_sides, normal_forms, shingle_hashes
from pipeline.outputs import sha256_json

KEPT = 4  # entries of a store
_CHUNK_BYTES = 2_000_000  # of text worked on at once: bounds memory however long the texts are

_Allocate = Callable[[str, DTypeLike, tuple[int, ...]], NDArray[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Signatures:
    """The rows of a table as a search for duplicates sees them.

    Attributes:
        content: uint64, shape (rows, 2): the 128-bit hash of each row's normal form, in which the two sides of a pair
            are interchangeable.
        sides: uint64, shape (rows, 2, 2): the 128-bit hashes of `text` and `text_pair`, 0 where there is no second
            text; shape (0, 2, 2) where no row has one.
        shingles: int32, shape (rows,): the number of shingles.
        slots: uint16, shape (num_perm, rows): the MinHash signatures of the shingle sets.
    """

    content: NDArray[np.uint64]
    sides: NDArray[np.uint64]
    shingles: NDArray[np.int32]
    slots: NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True)
class SignatureStore:
    """Where signatures outlive the process.

    Attributes:
        folder: belongs to the store; made when first used.
        identity: digest of the file that the rows come from.
    """

    folder: Path
    identity: str

    def entry(self, settings: params.Split) -> Path:
        """Return the folder for the signatures of these rows under these settings."""
        versions = [normalize.VERSION, minhash.VERSION]
        key = sha256_json([self.identity, settings.shingle_size, settings.num_perm, versions])
        return self.folder / key[:32]


def sign(rows: pa.Table, settings: params.Split, store: SignatureStore | None = None) -> Signatures:
    """Return the signatures of all rows, from the store where it has them.

    Args:
        rows: canonical rows; `text` and `text_pair` are read.
        settings: shingle_size and num_perm count here.
        store: None computes in memory and forgets.
    """
    if store is None:
        return _compute(rows, settings, lambda _, dtype, shape: np.empty(shape, dtype))
    entry = store.entry(settings)
    found = _open(entry, rows.num_rows, settings.num_perm)
    if found is None:
        _make(entry, rows, settings)
        found = _open(entry, rows.num_rows, settings.num_perm)
        if found is None:  # another process cleared the store at this very moment
            return sign(rows, settings)
    entry.touch()
    _clear(store.folder)
    return found


def chunks(rows: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """Cut rows into slices of about `_CHUNK_BYTES` of text, each with the number of its first row."""
    lengths = pc.add(pc.binary_length(rows["text"]), pc.fill_null(pc.binary_length(rows["text_pair"]), 0))
    number = np.cumsum(lengths.to_numpy(), dtype=np.int64) // _CHUNK_BYTES
    edges = np.flatnonzero(np.diff(number, prepend=-1, append=-1)) if len(number) else np.zeros(1, np.int64)
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        yield start, rows.slice(start, end - start)


def sides_of(rows: pa.Table) -> tuple[pa.LargeStringArray, pa.LargeStringArray | None]:
    """Return the normal forms of `text` and of `text_pair` ("" where null), None where no row has a second text."""
    first, second = (rows[name].combine_chunks() for name in ("text", "text_pair"))
    if second.null_count == len(second):
        return normal_forms(first), None
    return normal_forms(first), normal_forms(pc.fill_null(second, ""))


def _compute(rows: pa.Table, settings: params.Split, allocate: _Allocate) -> Signatures:
    count = rows.num_rows
    pairs = 0 if rows["text_pair"].null_count == count else count
    content = allocate("content", np.uint64, (count, 2))
    sides = allocate("sides", np.uint64, (pairs, 2, 2))
    shingles = allocate("shingles", np.int32, (count,))
    slots = allocate("slots", np.uint16, (settings.num_perm, count))
    for start, chunk in chunks(rows):
        here = slice(start, start + chunk.num_rows)
        first, second = sides_of(chunk)
        sets = shingle_hashes(first, settings.shingle_size)
        digests = _digests(first)
        if pairs:
            alone = chunk["text_pair"].combine_chunks().is_null().to_pylist()
            others = [b""] * len(first) if second is None else _digests(second)
            both = [(a, b"") if single else (a, b) for a, b, single in zip(digests, others, alone, strict=True)]
            sides[here] = _as_words([side.ljust(16, b"\0") for pair in both for side in pair]).reshape(-1, 2, 2)
            digests = [a if not b else _digest(b"".join(sorted((a, b)))) for a, b in both]
        if second is not None:
            sets = both_sides(sets, shingle_hashes(second, settings.shingle_size))
        content[here] = _as_words(digests)
        shingles[here] = np.diff(sets.offsets)
        slots[:, here] = minhash.signatures(sets, settings.num_perm)
    return Signatures(content=content, sides=sides, shingles=shingles, slots=slots)


def _digests(texts: pa.LargeStringArray) -> list[bytes]:
    return [_digest(text) for text in texts.cast(pa.large_binary()).to_pylist()]


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _as_words(digests: list[bytes]) -> NDArray[np.uint64]:
    """Return 16-byte digests as shape (digests, 2); numbers sort as the bytes do."""
    return np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).astype(np.uint64)


def _make(entry: Path, rows: pa.Table, settings: params.Split) -> None:
    """Compute an entry beside its place and move it there; who comes second to the same entry lets the first stand."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(entry, ignore_errors=True)  # damaged
    temporary = Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=entry.parent))
    try:

        def allocate(name: str, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
            if 0 in shape:  # nothing to map
                np.save(temporary / f"{name}.npy", np.empty(shape, dtype))
                return np.empty(shape, dtype)
            return np.lib.format.open_memmap(temporary / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)

        _compute(rows, settings, allocate)
        try:
            temporary.rename(entry)
        except OSError:
            if not entry.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _open(entry: Path, rows: int, num_perm: int) -> Signatures | None:
    """Return an entry, memory-mapped; None where it is absent or incomplete."""
    try:
        arrays = {field.name: _load(entry / f"{field.name}.npy") for field in fields(Signatures)}
    except (OSError, ValueError, EOFError):
        return None
    found = Signatures(**arrays)
    whole = found.content.shape == (rows, 2) and found.slots.shape == (num_perm, rows) and len(found.shingles) == rows
    return found if whole else None


def _load(path: Path) -> NDArray[Any]:
    with path.open("rb") as stream:
        np.lib.format.read_magic(stream)
        shape, _, _ = np.lib.format.read_array_header_1_0(stream)
    loaded: NDArray[Any] = np.load(path, mmap_mode=None if 0 in shape else "r", allow_pickle=False)
    return loaded


def _clear(folder: Path) -> None:
    """Delete all but the entries used last, and what killed processes left more than a day before the newest."""
    entries = sorted((path for path in folder.iterdir() if path.is_dir()), key=os.path.getmtime, reverse=True)
    finished = [path for path in entries if not path.name.startswith(".")]
    newest = entries[0].stat().st_mtime
    abandoned = [path for path in entries if path.name.startswith(".") and newest - path.stat().st_mtime > 86_400]
    for path in (*finished[KEPT:], *abandoned):
        shutil.rmtree(path, ignore_errors=True)
