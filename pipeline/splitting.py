"""Which row goes to which split, such that no duplicate is on two sides of a border.

Promises: contents that are near each other, directly or through others, go to one split together; splits that the user
gave stay as given but for leaks and repeats, and test is never touched; nothing depends on the order of rows or files.
With assignment `hash`, rows added later move no row that is not a duplicate of theirs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline import params
from pipeline.duplicates import Duplicates
from pipeline.errors import SeqtrackError
from pipeline.labels import natural_order
from pipeline.paths import SPLIT_NAMES
from pipeline.rows import write_parquet

NO_SPLIT = -1
TRAIN, VALIDATION, TEST = range(3)  # positions in SPLIT_NAMES


class Fate(IntEnum):
    """What becomes of a row, and why."""

    KEPT = 0
    DROPPED = 1
    """Repeats a row of the same content and label that is kept."""
    DROPPED_FROM_TRAIN = 2
    """Duplicates a test row or a validation row that is kept."""
    DROPPED_FROM_VALIDATION = 3
    """Duplicates a test row."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Division:
    """What `divide` decided.

    Attributes:
        given: int8, shape (rows,): the split that the user's files name, as a position in SPLIT_NAMES, or NO_SPLIT.
        fate: int8, shape (rows,): a Fate each.
        split: int8, shape (rows,): the split that each row is in now; NO_SPLIT for dropped rows.
        assigned: bool, shape (rows,): whether the row's split was chosen here, group by group, rather than given.
        label: int64, shape (rows,): position in label_names; -1 where the row is unlabelled.
        label_names: in natural order.
    """

    given: NDArray[np.int8]
    fate: NDArray[np.int8]
    split: NDArray[np.int8]
    assigned: NDArray[np.bool_]
    label: NDArray[np.int64]
    label_names: tuple[str, ...]

    def counts(self) -> NDArray[np.int64]:
        """Return rows by label and split, shape (labels + 1, 3); the last line counts the unlabelled."""
        kept = self.split != NO_SPLIT
        table = np.zeros((len(self.label_names) + 1, len(SPLIT_NAMES)), np.int64)
        np.add.at(table, (self.label[kept], self.split[kept]), 1)  # label -1 is the last line
        return table


def divide(rows: pa.Table, duplicates: Duplicates, settings: params.Split) -> Division:
    """Decide for each row which split it is in, or why in none.

    Without given splits (or with train alone), repeats of one content and label are dropped but for the first by source
    and line, and the rest is assigned by ratio in groups of near contents. With given splits, leaks are dropped from
    train and validation, repeats from train; if only validation is missing, it is taken out of train by the same rule.
    Leaks are a matter between direct neighbours: a row that is like a row that is like a test row stays.

    Args:
        rows: canonical rows.
        duplicates: of the same rows.
        settings: seed, ratios and assignment count here.

    Raises:
        SeqtrackError: only some rows name a split, or a class would have no row in train.
    """
    given = _given(rows)
    label_names = natural_order(pc.unique(rows["label"]).drop_null().to_pylist())
    label = pc.index_in(rows["label"], value_set=pa.array(label_names, pa.string()))
    label = pc.fill_null(label, -1).to_numpy().astype(np.int64)
    present = set(np.unique(given).tolist())
    fate = np.full(rows.num_rows, Fate.KEPT, np.int8)
    pool = np.zeros(rows.num_rows, bool)
    if present <= {NO_SPLIT} or present == {TRAIN}:
        pool[:] = True
        edges = _edges(settings.ratios.train, settings.ratios.validation, settings.ratios.test)
    else:
        _mark_leaks(fate, given, duplicates)
        if VALIDATION not in present and settings.ratios.validation > 0:
            pool = given == TRAIN
        edges = _edges(settings.ratios.train, settings.ratios.validation, 0.0)
    _mark_repeats(fate, pool | (given == TRAIN), rows, duplicates.content, label)
    pool &= fate == Fate.KEPT
    split = np.where(fate == Fate.KEPT, given, NO_SPLIT).astype(np.int8)
    if pool.any():
        groups = _groups(pool, duplicates, label, settings.seed)
        assign = _by_hash if settings.assignment == "hash" else _by_class
        split[pool] = assign(groups, edges)[groups.of_row]
    division = Division(given=given, fate=fate, split=split, assigned=pool, label=label, label_names=label_names)
    _require_training_rows(division, settings)
    return division


def write_splits(folder: Path, rows: pa.Table, division: Division) -> None:
    """Write train, validation and test.parquet: the ids of their rows, in the order of `rows`."""
    for place, name in enumerate(SPLIT_NAMES):
        ids = rows.select(["row_id"]).filter(pa.array(division.split == place)).combine_chunks()
        write_parquet(ids, folder / f"{name}.parquet")


def missing_classes(division: Division) -> list[str]:
    """Return a sentence for each class that has no row in a validation or test split which has labelled rows."""
    counts = division.counts()[:-1]
    return [
        f"class {name!r} ({counts[row].sum()} rows) has no row in {SPLIT_NAMES[split]}"
        for row, name in enumerate(division.label_names)
        for split in (VALIDATION, TEST)
        if counts[row, split] == 0 and counts[:, split].any()
    ]


def _given(rows: pa.Table) -> NDArray[np.int8]:
    if 0 < rows["split"].null_count < rows.num_rows:
        source = pc.filter(rows["source"], pc.is_null(rows["split"]))[0].as_py()
        raise SeqtrackError(
            "some rows name a split and some do not",
            where=source,
            expected="a split for all files or for none",
            fix="name the file after its split (train, validation or test), or put all rows in files without one",
        )
    split = pc.index_in(rows["split"], value_set=pa.array(SPLIT_NAMES, pa.string()))
    return np.asarray(pc.fill_null(split, NO_SPLIT).to_numpy().astype(np.int8))


def _mark_leaks(fate: NDArray[np.int8], given: NDArray[np.int8], duplicates: Duplicates) -> None:
    """Drop validation rows that duplicate test, then train rows that duplicate test or what is left of validation."""
    content = duplicates.content

    def touched(rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Mark the contents of these rows and those near them."""
        own = np.zeros(len(duplicates.digests), bool)
        own[content[rows]] = True
        marked = own.copy()
        left, right = duplicates.near.T
        marked[left[own[right]]] = True
        marked[right[own[left]]] = True
        return marked

    leaks = (given == VALIDATION) & touched(given == TEST)[content]
    fate[leaks] = Fate.DROPPED_FROM_VALIDATION
    held_out = (given == TEST) | ((given == VALIDATION) & ~leaks)
    fate[(given == TRAIN) & touched(held_out)[content]] = Fate.DROPPED_FROM_TRAIN


def _mark_repeats(
    fate: NDArray[np.int8],
    where: NDArray[np.bool_],
    rows: pa.Table,
    content: NDArray[np.int64],
    label: NDArray[np.int64],
) -> None:
    """Drop, among the rows `where`, all but the first by source and line of each content and label."""
    repeated = np.bincount(content)[content] > 1
    candidates = in_source_order(rows, np.flatnonzero(where & (fate == Fate.KEPT) & repeated))
    _, first = np.unique(content[candidates] * (label.max(initial=0) + 2) + label[candidates], return_index=True)
    fate[np.delete(candidates, first)] = Fate.DROPPED


def in_source_order(rows: pa.Table, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the chosen row numbers sorted by source, line and row_id."""
    columns = rows.select(["source", "line", "row_id"]).take(pa.array(chosen))
    order = pc.sort_indices(columns, [("source", "ascending"), ("line", "ascending"), ("row_id", "ascending")])
    ordered: NDArray[np.int64] = chosen[order.to_numpy()]
    return ordered


@dataclass(frozen=True, kw_only=True, eq=False)
class _Groups:
    """Rows that must stay together.

    Attributes:
        of_row: int64, shape (rows of the pool,): the group of each.
        sizes: int64, shape (groups,): rows in each.
        label: int64, shape (groups,): the label of most of its rows, the first such.
        position: int64, shape (groups,): where the group stands in [0, 2**53), by its content and the seed alone.
    """

    of_row: NDArray[np.int64]
    sizes: NDArray[np.int64]
    label: NDArray[np.int64]
    position: NDArray[np.int64]


_WHOLE = 2**53


def _groups(pool: NDArray[np.bool_], duplicates: Duplicates, label: NDArray[np.int64], seed: int) -> _Groups:
    """Join contents along verified near pairs, and the pool's rows with them."""
    contents = len(duplicates.digests)
    content, label = duplicates.content[pool], label[pool]
    left, right = duplicates.near.T
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(contents, contents))
    _, component = connected_components(graph, directed=False)
    # Contents are numbered by digest, so the first content of a component has its smallest digest.
    components, of_row = np.unique(component[content], return_inverse=True)
    smallest = np.full(len(components), contents)
    np.minimum.at(smallest, of_row, content)
    labels, label = np.unique(label, return_inverse=True)
    votes, count = np.unique(of_row * len(labels) + label, return_counts=True)
    voter, vote = np.divmod(votes, len(labels))
    order = np.lexsort((vote, -count, voter))
    _, first = np.unique(voter[order], return_index=True)
    return _Groups(
        of_row=of_row,
        sizes=np.bincount(of_row),
        label=labels[vote[order][first]],
        position=_positions([duplicates.digests[number] for number in smallest.tolist()], seed),
    )


def _positions(digests: Sequence[bytes], seed: int) -> NDArray[np.int64]:
    key = seed.to_bytes(8, "little")
    hashes = b"".join(hashlib.blake2b(digest, key=key, digest_size=8).digest() for digest in digests)
    top: NDArray[np.int64] = (np.frombuffer(hashes, "<u8") >> np.uint64(11)).astype(np.int64)
    return top


def _edges(train: float, validation: float, test: float) -> NDArray[np.int64]:
    """Return where train, validation and test end in [0, _WHOLE], in proportion to their ratios."""
    ends = np.cumsum([train, validation, test])
    edges: NDArray[np.int64] = np.rint(ends / ends[-1] * _WHOLE).astype(np.int64)
    return edges


def _by_hash(groups: _Groups, edges: NDArray[np.int64]) -> NDArray[np.int8]:
    """Return the split of each group: where its position falls."""
    split: NDArray[np.int8] = np.searchsorted(edges, groups.position, side="right").astype(np.int8)
    return split


def _by_class(groups: _Groups, edges: NDArray[np.int64]) -> NDArray[np.int8]:
    """Return the split of each group: within each class, in the order of positions, cut at the ratios.

    A group goes where the middle of its rows falls, so a split's share is off by one group at most; but every split
    with a ratio above 0 gets a group of each class that has enough of them, and train comes first where it has not.
    """
    wanted = np.flatnonzero(np.diff(edges, prepend=0))
    result = np.empty(len(groups.sizes), np.int8)
    for label in np.unique(groups.label):
        members = np.flatnonzero(groups.label == label)
        members = members[np.argsort(groups.position[members])]
        ends = np.cumsum(groups.sizes[members])
        middles = (ends - groups.sizes[members] / 2) / ends[-1] * _WHOLE
        cuts = np.searchsorted(middles, edges[wanted[:-1]])
        taken, left = 0, len(members)
        for place in range(len(cuts)):  # a group more than the cut before ...
            taken = cuts[place] = min(max(cuts[place], taken + 1), len(members))
        for place in reversed(range(len(cuts))):  # ... and one less than the cut after, the earlier splits first
            left = cuts[place] = max(min(cuts[place], left - 1), min(place + 1, len(members)))
        result[members] = wanted[np.searchsorted(cuts, np.arange(len(members)), side="right")]
    return result


def _require_training_rows(division: Division, settings: params.Split) -> None:
    if not (division.split == TRAIN).any():
        raise SeqtrackError(
            "no row is in train",
            found=f"{len(division.split)} rows, of which {(division.fate == Fate.DROPPED_FROM_TRAIN).sum()} left train "
            "because test or validation has them too",
            fix="add a train file, or files that name no split",
        )
    counts = division.counts()[:-1]
    absent = np.flatnonzero(counts[:, TRAIN] == 0)
    if not len(absent):
        return
    first = int(absent[0])
    total = int((division.label == first).sum())
    if division.assigned[division.label == first].any() and settings.assignment == "hash":
        fix = "set split.assignment to exact, which gives train a row of every class, or add rows of this class"
    else:
        fix = "add rows of this class to train, or remove the class"
    others = f" (and {len(absent) - 1} more classes)" if len(absent) > 1 else ""
    raise SeqtrackError(
        f"class {division.label_names[first]!r}{others} has no row in train",
        expected="at least one training row of every class",
        found=f"{total} rows of it in all, {counts[first, VALIDATION]} in validation, {counts[first, TEST]} in test",
        fix=fix,
    )
