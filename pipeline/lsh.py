"""Candidate pairs by MinHash signatures and banding, in time linear in the rows.

Promises: a pair at least as similar as the threshold becomes a candidate with a known probability, 99% or more; the
result depends on the sets alone, not on their order. A candidate is no more than that: callers verify it.

MinHash: Broder, "On the resemblance and containment of documents", 1997. Banding: Leskovec, Rajaraman, Ullman, "Mining
of Massive Datasets", chapter 3. rensa's R-MinHash computes the signatures: its slots agree with probability equal to
the Jaccard similarity, with a variance below that of independent permutations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from pipeline.errors import SeqtrackError
from pipeline.normalize import ShingleHashes, mix64

RECALL = 0.99  # share of the pairs at the very threshold that must become candidates; more similar ones fare better
_SEED = 1  # of the permutations; the split's seed must not change which duplicates are found


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


def band_keys(sets: ShingleHashes, banding: Banding) -> NDArray[np.uint64]:
    """Return one key per set and band, shape (sets, bands); equal signatures in a band give equal keys."""
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        sets.hashes, sets.offsets.astype(np.uint64), banding.bands * banding.rows, _SEED
    )
    signatures = np.array(matrix.to_rows(), np.uint32).reshape(-1, banding.bands, banding.rows)
    keys = np.zeros(signatures.shape[:2], np.uint64)
    for slot in range(banding.rows):
        keys = mix64(keys ^ signatures[:, :, slot])
    return keys


def candidate_pairs(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the pairs of sets that share a key in some band, each once, sorted, shape (pairs, 2), first < second.

    All pairs within a bucket are returned, so a family of m similar sets costs m * (m - 1) / 2.
    """
    sets = len(keys)
    found = np.zeros(0, np.int64)
    for band in range(keys.shape[1]):
        order = np.argsort(keys[:, band], kind="stable")
        column = keys[order, band]
        starts = np.flatnonzero(np.concatenate([[True], column[1:] != column[:-1]])) if sets else found
        sizes = np.diff(np.append(starts, sets))
        crowded = sizes > 1
        starts, sizes = starts[crowded], sizes[crowded]
        # Within a bucket, the member at place p pairs with the size - 1 - p members after it.
        members = np.repeat(starts - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
        after = np.repeat(starts + sizes, sizes) - members - 1
        first = np.repeat(members, after)
        second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(after) - after, after)
        # A stable sort keeps members in ascending order, so first < second holds for the sets too.
        found = np.union1d(found, order[first] * sets + order[second])
    return np.stack(np.divmod(found, max(sets, 1)), axis=1)
