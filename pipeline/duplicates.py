"""Which rows say the same: equal texts, texts equal in normal form, nearly equal texts, and, where asked, paraphrases.

Promises: every near pair is verified by the exact Jaccard similarity of its shingle sets; at least 99% of those over
the threshold are found, or, in families too large to list all pairs, connected; two sentences of a pair count in either
order; the result does not depend on the order of rows; the cost is linear in the rows, whatever is in them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import params
from pipeline.components import components
from pipeline.console import say
from pipeline.lsh import Banding, Buckets, buckets, choose_banding
from pipeline.normalize import ShingleHashes, jaccard, normalise, shingle_hashes, shingles
from pipeline.semantic import SemanticPairs, find_encoder, find_semantic
from pipeline.signatures import Signatures, SignatureStore, sides_of, sign

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FAMILY = 32  # all pairs are compared among up to this many texts that look alike; more are compared with leaders only
_CHUNK_PAIRS = 50_000  # candidates verified at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Duplicates:
    """What `find_duplicates` found. Rows of one content are exact or normalised duplicates of each other.

    Attributes:
        content: int64, shape (rows,): the content of each row; contents are numbered in the order of their digests.
        digests: uint64, shape (contents, 2): the 128-bit hash of each content's normal form, ascending.
        near: int64, shape (pairs, 2): contents whose similarity reaches the threshold, first < second, sorted.
        similarity: float64, shape (pairs,): their exact Jaccard similarity.
        crowded: bool, shape (contents,): whether a content looks like more than `FAMILY` others, so that `near` has
            pairs enough to connect it with its family, but not all.
        side: int64, shape (rows, 2): the number of the normal form of `text` and of `text_pair` each, equal where those
            are equal; -1 in rows without a second text. Shape (0, 2) where no row has one.
        candidates: number of pairs that were verified to find these.
        banding: how the candidates were found.
        semantic: pairs of contents that mean the same to an encoder and are not near, nor of one crowded family; None
            where that was not looked for.
    """

    content: NDArray[np.int64]
    digests: NDArray[np.uint64]
    near: NDArray[np.int64]
    similarity: NDArray[np.float64]
    crowded: NDArray[np.bool_]
    side: NDArray[np.int64]
    candidates: int
    banding: Banding
    semantic: SemanticPairs | None = None

    @property
    def links(self) -> NDArray[np.int64]:
        """All pairs of contents that no border between splits may part: near and semantic ones, shape (pairs, 2)."""
        return self.near if self.semantic is None else np.concatenate([self.near, self.semantic.pairs])

    def families(self) -> NDArray[np.int64]:
        """Return the family of each content, int64, shape (contents,): those that near pairs connect."""
        return components(self.near, len(self.digests))


def find_duplicates(rows: pa.Table, settings: params.Split, store: SignatureStore | None = None) -> Duplicates:
    """Find all exact and normalised and, by search, near duplicates.

    Args:
        rows: canonical rows; `text` and `text_pair` are read.
        settings: near_duplicate_threshold, shingle_size, num_perm and the semantic settings count here.
        store: where the signatures of these rows are kept for a later search, if anywhere.

    Raises:
        SeqtrackError: num_perm is too small for the threshold, or the semantic search fails.
    """
    banding = choose_banding(settings.near_duplicate_threshold, settings.num_perm)
    encoder = None if settings.semantic_threshold is None else find_encoder(settings)
    signatures = sign(rows, settings, store)
    digests, content, representative = _number(signatures.content)
    pairs = _NearPairs(rows, representative, settings)
    crowded = _search(pairs, signatures, representative, banding)
    found = Duplicates(
        content=content,
        digests=digests,
        near=pairs.near,
        similarity=pairs.similarity,
        crowded=crowded,
        side=_number_sides(signatures.sides),
        candidates=pairs.candidates,
        banding=banding,
    )
    if encoder is None or settings.semantic_threshold is None:
        return found
    contents = rows.select(["text", "text_pair"]).take(pa.array(representative))
    crowd = np.where(crowded, pairs.family, -1)
    cache = None if store is None else store.folder.with_name("embeddings")
    semantic = find_semantic(contents, crowd, settings.semantic_threshold, encoder, settings, cache)
    beyond = ~np.isin(pairs.code(semantic.pairs), pairs.code(pairs.near))
    found = replace(found, semantic=replace(semantic, pairs=semantic.pairs[beyond], cosine=semantic.cosine[beyond]))
    _warn_of_chains(found)
    return found


def _warn_of_chains(found: Duplicates) -> None:
    """Say so where semantic pairs, one leading to the next, hold much of the data together."""
    contents = len(found.digests)
    before, after = (
        int(np.bincount(components(pairs, contents)).max(initial=0)) for pairs in (found.near, found.links)
    )
    if after > max(before, FAMILY, contents // 20):
        say(
            f"warning: semantic pairs chain {after:,} of {contents:,} contents into one family, which is never divided "
            "between splits; raise split.semantic_threshold"
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


def similarities(rows: pa.Table, pairs: NDArray[np.int64], shingle_size: int) -> NDArray[np.float64]:
    """Return `similarity_of` for many pairs of rows, shape (pairs,)."""
    result = np.zeros(len(pairs))
    texts = rows.select(["text", "text_pair"])
    for start in range(0, len(pairs), _CHUNK_PAIRS):
        chunk = pairs[start : start + _CHUNK_PAIRS]
        involved, places = np.unique(chunk, return_inverse=True)
        left, right = places.reshape(-1, 2).T
        first, second = sides_of(texts.take(pa.array(involved)))
        sets = shingle_hashes(first, shingle_size)
        scores = _jaccards(sets, sets, left, right)
        if second is not None:
            others = shingle_hashes(second, shingle_size)
            straight = np.minimum(scores, _jaccards(others, others, left, right))
            crossed = np.minimum(_jaccards(sets, others, left, right), _jaccards(others, sets, left, right))
            scores = np.maximum(straight, crossed)
        result[start : start + len(chunk)] = scores
    return result


def _number(digests: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct digests ascending, the number of each row's, and one row of each."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    new = np.ones(len(ordered), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    content = np.empty(len(digests), np.int64)
    content[order] = np.cumsum(new) - 1
    return ordered[new], content, order[new]


def _number_sides(sides: NDArray[np.uint64]) -> NDArray[np.int64]:
    _, number, _ = _number(sides.reshape(-1, 2))
    number = number.reshape(-1, 2)
    number[~sides[:, 1].any(axis=1)] = -1
    return number


class _NearPairs:
    """Candidates verified so far and the families that they form."""

    def __init__(self, rows: pa.Table, representative: NDArray[np.int64], settings: params.Split) -> None:
        self.contents = len(representative)
        self.near = np.zeros((0, 2), np.int64)
        self.similarity = np.zeros(0)
        self.candidates = 0
        self.family = np.arange(self.contents)
        self._rows, self._representative, self._settings = rows, representative, settings

    def verify(self, pairs: NDArray[np.int64]) -> None:
        """Keep those pairs of contents, each once, first < second, that are near."""
        similarity = similarities(self._rows, self._representative[pairs], self._settings.shingle_size)
        enough = similarity >= self._settings.near_duplicate_threshold
        near = np.concatenate([self.near, pairs[enough]])
        _, first = np.unique(self.code(near), return_index=True)
        self.near, self.similarity = near[first], np.concatenate([self.similarity, similarity[enough]])[first]
        self.candidates += len(pairs)
        self.family = components(self.near, self.contents)

    def code(self, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return one number for each pair, ascending as the pairs do."""
        codes: NDArray[np.int64] = pairs[:, 0] * self.contents + pairs[:, 1]
        return codes

    def decode(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the pairs with these numbers."""
        return np.stack(np.divmod(codes, max(self.contents, 1)), axis=1)


def _search(
    pairs: _NearPairs, signatures: Signatures, representative: NDArray[np.int64], banding: Banding
) -> NDArray[np.bool_]:
    """Find near pairs among the contents, looking at one row of each; return `crowded` of Duplicates."""
    # Nothing without a shingle is searched: empty sets all have one signature.
    searched = np.flatnonzero(signatures.shingles[representative] > 0)
    found = np.zeros(0, np.int64)
    crowds = []
    for band in buckets(signatures.slots, representative[searched], banding):
        slim, large = band.split(FAMILY)
        found = np.union1d(found, pairs.code(searched[slim.pairs()]))
        crowds.append([searched[members] for members in large])
    pairs.verify(pairs.decode(found))
    crowded = np.zeros(pairs.contents, bool)
    for crowd in crowds:
        _connect(crowd, pairs)
        for members in crowd:
            crowded[members] = True
    if crowded.any():
        # A family that turns out to be small gets all its pairs after all.
        crowded = (np.bincount(pairs.family, weights=crowded) > 0)[pairs.family]
        populous = (np.bincount(pairs.family) > FAMILY)[pairs.family]
        known = pairs.code(pairs.near)
        missing = np.setdiff1d(pairs.code(_all_pairs(pairs.family, np.flatnonzero(crowded & ~populous))), known)
        pairs.verify(pairs.decode(missing))
        crowded &= populous
    return crowded


def _connect(crowd: list[NDArray[np.int64]], pairs: _NearPairs) -> None:
    """Connect large groups of look-alikes, all of one band, into families without comparing all with all.

    In each round each group names a leader, its first member not yet in the family of an earlier leader, and the leader
    is compared with all members outside its own family. A group is done when its leaders' families hold all its
    members, which for m texts near each other takes m - 1 comparisons, or after `FAMILY` rounds.
    """
    waiting = [(members, members) for members in crowd]
    for _ in range(FAMILY):
        codes = []
        for members, rest in waiting:
            strangers = members[pairs.family[members] != pairs.family[rest[0]]]
            couples = np.stack([np.full(len(strangers), rest[0]), strangers], axis=1)
            codes.append(pairs.code(np.sort(couples, axis=1)))
        if not codes:
            return
        pairs.verify(pairs.decode(np.unique(np.concatenate(codes))))
        rests = [(members, rest[pairs.family[rest] != pairs.family[rest[0]]]) for members, rest in waiting]
        waiting = [(members, rest) for members, rest in rests if len(rest)]


def _all_pairs(family: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return all pairs of chosen contents that are in one family, shape (pairs, 2), first < second."""
    members = chosen[np.argsort(family[chosen], kind="stable")]
    starts = np.flatnonzero(np.diff(family[members], prepend=-1))
    return Buckets(members=members, offsets=np.append(starts, len(members))).pairs()


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
    from scipy.sparse import csr_array  # late, as in pipeline.components

    shape = (len(offsets) - 1, columns)
    matrix = csr_array((np.ones(len(places), np.int32), places, offsets.copy()), shape=shape)
    matrix.sum_duplicates()  # in place, the offsets too
    matrix.data[:] = 1
    return matrix
