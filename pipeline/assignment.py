"""Which group of rows goes to which part: by hash, exactly by class, or by time.

Promises: every row of a group goes to one part; nothing depends on the order of rows, groups or files. `by_hash` looks
at one group alone, so that groups added later move no other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.components import components
from pipeline.duplicates import Duplicates

WHOLE = 2**53  # positions are in [0, WHOLE)


@dataclass(frozen=True, kw_only=True, eq=False)
class Groups:
    """Rows that must stay together.

    Attributes:
        of_row: int64, shape (rows of the pool,): the group of each.
        sizes: int64, shape (groups,): rows in each.
        label: int64, shape (groups,): the label of most of its rows, the first such.
        position: int64, shape (groups,): where the group stands in [0, WHOLE), by its content, or the name that the
            user gave it, and the seed alone.
        time: float64, shape (groups,): of its newest row.
    """

    of_row: NDArray[np.int64]
    sizes: NDArray[np.int64]
    label: NDArray[np.int64]
    position: NDArray[np.int64]
    time: NDArray[np.float64]

    def folded(self, folds: int) -> Groups:
        """Return the groups with the position of each within its fold as its position, stretched to the whole."""
        return replace(self, position=self.position % (WHOLE // folds) * folds)

    def subset(self, chosen: NDArray[np.bool_]) -> Groups:
        """Return some of the groups; of_row has the rows of those alone."""
        number = np.cumsum(chosen) - 1
        return Groups(
            of_row=number[self.of_row[chosen[self.of_row]]],
            sizes=self.sizes[chosen],
            label=self.label[chosen],
            position=self.position[chosen],
            time=self.time[chosen],
        )


def join(
    pool: NDArray[np.int64],
    duplicates: Duplicates,
    label: NDArray[np.int64],
    group: NDArray[np.int64],
    group_names: list[str],
    time: NDArray[np.float64],
    seed: int,
) -> Groups:
    """Join the rows of equal, near and semantically equal contents and those that the user wants together.

    Args:
        pool: the rows to join, as numbers, shape (rows of the pool,).
        duplicates: of all rows.
        label: of all rows.
        group: the user's group of each of all rows, a position in group_names, or -1.
        group_names: in any order that depends on the names alone.
        time: of all rows.
        seed: shuffles the positions.
    """
    contents = len(duplicates.digests)
    content, label, group = duplicates.content[pool], label[pool], group[pool]
    grouped = group >= 0
    left = np.concatenate([duplicates.links[:, 0], content[grouped]])
    right = np.concatenate([duplicates.links[:, 1], contents + group[grouped]])
    nodes = contents + len(group_names)
    found, of_row = np.unique(components(np.column_stack([left, right]), nodes)[content], return_inverse=True)
    # Contents are numbered by digest, so the first content of a component has its smallest digest.
    smallest = np.full(len(found), contents)
    np.minimum.at(smallest, of_row, content)
    first_group = np.full(len(found), len(group_names))
    np.minimum.at(first_group, of_row[grouped], group[grouped])
    # A user's group stands where its name says, so that it may grow without moving.
    names = [_digest(name) for name in group_names]
    digests = duplicates.digests.astype(">u8").tobytes()
    identities = [
        names[named] if named < len(names) else digests[16 * number : 16 * number + 16]
        for number, named in zip(smallest.tolist(), first_group.tolist(), strict=True)
    ]
    labels, label = np.unique(label, return_inverse=True)
    votes, count = np.unique(of_row * len(labels) + label, return_counts=True)
    voter, vote = np.divmod(votes, len(labels))
    order = np.lexsort((vote, -count, voter))
    _, first = np.unique(voter[order], return_index=True)
    newest = np.full(len(found), -np.inf)
    np.maximum.at(newest, of_row, time[pool])
    return Groups(
        of_row=of_row,
        sizes=np.bincount(of_row),
        label=labels[vote[order][first]],
        position=_positions(identities, seed),
        time=newest,
    )


def edges(*shares: float) -> NDArray[np.int64]:
    """Return where each part ends in [0, WHOLE], in proportion to the shares."""
    ends = np.cumsum(shares)
    found: NDArray[np.int64] = np.rint(ends / ends[-1] * WHOLE).astype(np.int64)
    return found


def assign(groups: Groups, ends: NDArray[np.int64], assignment: Literal["hash", "exact", "time"]) -> NDArray[np.int64]:
    """Return the part of each group, shape (groups,): a position in `ends`."""
    match assignment:
        case "hash":
            return by_hash(groups, ends)
        case "exact":
            return by_class(groups, ends)
        case "time":
            return by_time(groups, ends)


def by_hash(groups: Groups, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the part of each group: where its position falls."""
    part: NDArray[np.int64] = np.searchsorted(ends, groups.position, side="right").astype(np.int64)
    return part


def by_class(groups: Groups, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the part of each group: within each class, in the order of positions, cut at the shares."""
    result = np.empty(len(groups.sizes), np.int64)
    for label in np.unique(groups.label):
        members = np.flatnonzero(groups.label == label)
        members = members[np.argsort(groups.position[members])]
        result[members] = _cut(groups.sizes[members], ends)
    return result


def by_time(groups: Groups, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the part of each group: from the oldest to the newest, cut at the shares, equal times together."""
    _, moment = np.unique(groups.time, return_inverse=True)
    return _cut(np.bincount(moment, weights=groups.sizes).astype(np.int64), ends)[moment]


def _cut(sizes: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the part of each of a row of groups.

    A group goes where the middle of its rows falls, so a part's share is off by one group at most; but every part with
    a share above 0 gets a group where there are enough, and the first parts come first where there are not.
    """
    wanted = np.flatnonzero(np.diff(ends, prepend=0))
    cumulated = np.cumsum(sizes)
    middles = (cumulated - sizes / 2) / cumulated[-1] * WHOLE
    cuts = np.searchsorted(middles, ends[wanted[:-1]])
    taken, left = 0, len(sizes)
    for place in range(len(cuts)):  # a group more than the cut before ...
        taken = cuts[place] = min(max(cuts[place], taken + 1), len(sizes))
    for place in reversed(range(len(cuts))):  # ... and one less than the cut after, the earlier parts first
        left = cuts[place] = max(min(cuts[place], left - 1), min(place + 1, len(sizes)))
    part: NDArray[np.int64] = wanted[np.searchsorted(cuts, np.arange(len(sizes)), side="right")]
    return part


def _positions(identities: list[bytes], seed: int) -> NDArray[np.int64]:
    key = seed.to_bytes(8, "little")
    hashes = b"".join(hashlib.blake2b(identity, key=key, digest_size=8).digest() for identity in identities)
    top: NDArray[np.int64] = (np.frombuffer(hashes, "<u8") >> np.uint64(11)).astype(np.int64)
    return top


def _digest(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=16).digest()
