"""Which rows say the same: equal texts, texts equal in normal form, and nearly equal texts.

Promises: every near pair is verified by the exact Jaccard similarity of its shingle sets; at least 99% of those over
the threshold are found; two sentences of a pair count in either order; the result does not depend on the order of rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipeline import params
from pipeline.lsh import Banding, band_keys, candidate_pairs, choose_banding
from pipeline.normalize import ShingleHashes, both_sides, jaccard, normalise, shingle_hashes, shingles

_CHUNK_BYTES = 2_000_000  # of text worked on at once: bounds memory however long the texts are
_CHUNK_PAIRS = 50_000  # candidates verified at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Duplicates:
    """What `find_duplicates` found. Rows of one content are exact or normalised duplicates of each other.

    Attributes:
        content: int64, shape (rows,): the content of each row; contents are numbered in the order of their digests.
        digests: 16 bytes each: the 128-bit hash of each content's normal form, ascending.
        near: int64, shape (pairs, 2): contents whose similarity reaches the threshold, first < second, sorted.
        similarity: float64, shape (pairs,): their exact Jaccard similarity.
        candidates: number of pairs that were verified to find these.
        banding: how the candidates were found.
    """

    content: NDArray[np.int64]
    digests: Sequence[bytes]
    near: NDArray[np.int64]
    similarity: NDArray[np.float64]
    candidates: int
    banding: Banding


def find_duplicates(rows: pa.Table, settings: params.Split) -> Duplicates:
    """Find all exact and normalised and, by search, near duplicates.

    Args:
        rows: canonical rows; `text` and `text_pair` are read.
        settings: near_duplicate_threshold, shingle_size and num_perm count here.

    Raises:
        SeqtrackError: num_perm is too small for the threshold.
    """
    banding = choose_banding(settings.near_duplicate_threshold, settings.num_perm)
    digests: list[bytes] = []
    keys = np.empty((rows.num_rows, banding.bands), np.uint64)
    has_shingles = np.empty(rows.num_rows, bool)
    for start, chunk in _chunks(rows):
        here = slice(start, start + chunk.num_rows)
        first, second = _normal_forms(chunk)
        digests += [_digest(a, b) for a, b in zip(first, second, strict=True)]
        sets = shingle_hashes(first, settings.shingle_size)
        if any(second):
            sets = both_sides(sets, shingle_hashes([side or "" for side in second], settings.shingle_size))
        keys[here] = band_keys(sets, banding)
        has_shingles[here] = np.diff(sets.offsets) > 0
    contents, content, representative = _number(digests)
    # One row of each content enters the search, and none without a shingle: empty sets all have one signature.
    searched = np.flatnonzero(has_shingles[representative])
    candidates = searched[candidate_pairs(keys[representative[searched]])]
    similarity = _similarities(rows, representative[candidates], settings.shingle_size)
    verified = similarity >= settings.near_duplicate_threshold
    return Duplicates(
        content=content,
        digests=contents,
        near=candidates[verified],
        similarity=similarity[verified],
        candidates=len(candidates),
        banding=banding,
    )


def similarity_of(first: tuple[str, str | None], second: tuple[str, str | None], shingle_size: int) -> float:
    """Return how alike two rows are: the definition, computed from their texts.

    For single texts the Jaccard similarity of their shingle sets. For pairs both sides must match: the lower of the two
    sides' similarities, in the order, straight or crossed, in which that is higher.

    Args:
        first: text and text_pair of one row; None where there is no second text.
        second: those of the other.
        shingle_size: words in a shingle.
    """
    a1, a2 = (shingles(normalise(text or ""), shingle_size) for text in first)
    b1, b2 = (shingles(normalise(text or ""), shingle_size) for text in second)
    return max(min(jaccard(a1, b1), jaccard(a2, b2)), min(jaccard(a1, b2), jaccard(a2, b1)))


def _normal_forms(rows: pa.Table) -> tuple[list[str], list[str | None]]:
    """Return the normal forms of `text` and, None where there is none, of `text_pair`."""
    first = [normalise(text) for text in rows["text"].to_pylist()]
    second = [None if text is None else normalise(text) for text in rows["text_pair"].to_pylist()]
    return first, second


def _digest(first: str, second: str | None) -> bytes:
    """Return 128 bits of a row's content; the two sides of a pair are interchangeable."""
    digest = hashlib.blake2b(first.encode(), digest_size=16).digest()
    if second is None:
        return digest
    sides = sorted((digest, hashlib.blake2b(second.encode(), digest_size=16).digest()))
    return hashlib.blake2b(b"".join(sides), digest_size=16).digest()


def _number(digests: Sequence[bytes]) -> tuple[list[bytes], NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct digests ascending, the number of each row's, and one row of each."""
    words = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2)
    order = np.lexsort((words[:, 1], words[:, 0]))
    ordered = words[order]
    new = np.ones(len(ordered), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    content = np.empty(len(digests), np.int64)
    content[order] = np.cumsum(new) - 1
    representative = order[new]
    return [digests[row] for row in representative], content, representative


def _similarities(rows: pa.Table, pairs: NDArray[np.int64], shingle_size: int) -> NDArray[np.float64]:
    """Return `similarity_of` for many pairs of rows, shape (pairs,)."""
    result = np.zeros(len(pairs))
    for start in range(0, len(pairs), _CHUNK_PAIRS):
        chunk = pairs[start : start + _CHUNK_PAIRS]
        involved, places = np.unique(chunk, return_inverse=True)
        left, right = places.reshape(-1, 2).T
        first, second = _normal_forms(rows.select(["text", "text_pair"]).take(pa.array(involved)))
        sets = shingle_hashes(first, shingle_size)
        scores = _jaccards(sets, sets, left, right)
        if any(second):
            others = shingle_hashes([side or "" for side in second], shingle_size)
            straight = np.minimum(scores, _jaccards(others, others, left, right))
            crossed = np.minimum(_jaccards(sets, others, left, right), _jaccards(others, sets, left, right))
            scores = np.maximum(straight, crossed)
        result[start : start + len(chunk)] = scores
    return result


def _jaccards(
    a: ShingleHashes, b: ShingleHashes, left: NDArray[np.int64], right: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the Jaccard similarity of set left[i] of `a` and set right[i] of `b`, for all i."""
    columns, places = np.unique(np.concatenate([a.hashes, b.hashes]), return_inverse=True)
    x = _indicator(places[: len(a.hashes)], a.offsets, len(columns))
    y = _indicator(places[len(a.hashes) :], b.offsets, len(columns))
    common = x[left].multiply(y[right]).sum(axis=1)
    union = np.diff(x.indptr)[left] + np.diff(y.indptr)[right] - common
    scores: NDArray[np.float64] = np.divide(common, union, out=np.ones(len(left)), where=union > 0)
    return scores


def _indicator(places: NDArray[np.int64], offsets: NDArray[np.int64], columns: int) -> csr_array:
    """Return the sets as a sparse matrix of ones, shape (sets, columns)."""
    shape = (len(offsets) - 1, columns)
    matrix = csr_array((np.ones(len(places), np.int32), places, offsets.copy()), shape=shape)
    matrix.sum_duplicates()  # in place, the offsets too
    matrix.data[:] = 1
    return matrix


def _chunks(rows: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """Cut rows into slices of about `_CHUNK_BYTES` of text, each with the number of its first row."""
    lengths = pc.add(pc.binary_length(rows["text"]), pc.fill_null(pc.binary_length(rows["text_pair"]), 0))
    number = np.cumsum(lengths.to_numpy(), dtype=np.int64) // _CHUNK_BYTES
    edges = np.flatnonzero(np.diff(number, prepend=-1, append=-1)) if len(number) else np.zeros(1, np.int64)
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        yield start, rows.slice(start, end - start)
