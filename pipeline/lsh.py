"""Candidate pairs from MinHash signatures by banding.

Promises: a pair at least as similar as the threshold shares a bucket with a known probability, 99% or more; the result
does not depend on the order of the sets. To share a bucket is no more than that: callers verify.

Banding: Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SeqtrackError
from pipeline.normalize import mix64

RECALL = 0.99  # share of the pairs at the very threshold that must become candidates; more similar ones fare better


@dataclass(frozen=True, kw_only=True)
class Banding:
    """A signature cut into bands: two sets are candidates when they agree in the whole of at least one band.

    Attributes:
        bands: number of bands, b.
        rows: signature slots in each, r.
    """

    bands: int
    rows: int

    def collision_probability(self, similarity: float) -> float:
        """Return the chance that sets of this Jaccard similarity s become candidates: 1 - (1 - s^r)^b."""
        return 1.0 - (1.0 - similarity**self.rows) ** self.bands


def choose_banding(threshold: float, num_perm: int) -> Banding:
    """Return the banding with the longest bands, hence the fewest false candidates, that keeps `RECALL` at `threshold`.

    Args:
        threshold: Jaccard similarity in (0, 1].
        num_perm: slots at hand; up to rows - 1 of them stay unused.

    Raises:
        SeqtrackError: so few slots cannot do it even one by one.
    """
    for rows in range(num_perm, 0, -1):
        banding = Banding(bands=num_perm // rows, rows=rows)
        if banding.collision_probability(threshold) >= RECALL:
            return banding
    needed = math.ceil(math.log1p(-RECALL) / math.log1p(-threshold))
    raise SeqtrackError(
        f"{num_perm} permutations find fewer than {RECALL:.0%} of the pairs with a similarity of {threshold:g}",
        where="split.num_perm in params.yaml",
        fix=f"set it to {needed} or more, or raise split.near_duplicate_threshold",
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Buckets:
    """The sets that share a band with others, bucket after bucket.

    Attributes:
        members: int64, shape (members,): sets, ascending within a bucket.
        offsets: int64, shape (buckets + 1,); bucket i owns members[offsets[i]:offsets[i + 1]], two or more.
    """

    members: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def split(self, largest: int) -> tuple[Buckets, list[NDArray[np.int64]]]:
        """Return the buckets of at most `largest` members, and the members of each that has more."""
        sizes = np.diff(self.offsets)
        crowded = np.flatnonzero(sizes > largest)
        slim = np.repeat(sizes <= largest, sizes)
        rest = Buckets(
            members=self.members[slim],
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(np.delete(sizes, crowded))]),
        )
        return rest, [self.members[self.offsets[i] : self.offsets[i + 1]] for i in crowded]

    def pairs(self) -> NDArray[np.int64]:
        """Return all pairs within the buckets, shape (pairs, 2), first < second."""
        sizes = np.diff(self.offsets)
        # Within a bucket, the member at place p pairs with the size - 1 - p members after it.
        after = np.repeat(self.offsets[1:], sizes) - np.arange(len(self.members)) - 1
        first = np.repeat(np.arange(len(self.members)), after)
        second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(after) - after, after)
        return np.stack([self.members[first], self.members[second]], axis=1)


def buckets(signatures: NDArray[np.uint16], chosen: NDArray[np.int64], banding: Banding) -> Iterator[Buckets]:
    """Yield the buckets of each band.

    Args:
        signatures: shape (slots, sets), slots >= bands * rows.
        chosen: the sets to look at; members are positions in it.
        banding: how to cut the signatures.
    """
    width = np.uint64(len(chosen).bit_length())
    factors = mix64(np.arange(banding.rows, dtype=np.uint64)) | np.uint64(1)
    for band in range(banding.bands):
        # Multilinear hashing: unequal bands seldom agree in the upper bits (Lemire and Kaser, 2014).
        keys = np.zeros(len(chosen), np.uint64)
        for slot, factor in enumerate(factors):
            keys += signatures[band * banding.rows + slot][chosen].astype(np.uint64) * factor
        # With the set's number in the low bits, plain sorting (several times faster than argsort) groups the buckets
        # and orders their members.
        keys = np.sort(keys >> width << width | np.arange(len(chosen), dtype=np.uint64))
        same = np.zeros(len(keys) + 1, bool)
        same[1:-1] = keys[1:] >> width == keys[:-1] >> width
        shared = same[1:] | same[:-1]
        members = (keys[shared] & ((np.uint64(1) << width) - np.uint64(1))).astype(np.int64)
        starts = np.flatnonzero(~same[:-1][shared])
        yield Buckets(members=members, offsets=np.append(starts, len(members)))
