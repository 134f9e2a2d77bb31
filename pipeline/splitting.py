"""Which row goes to which split, such that no duplicate is on two sides of a border.

Promises: contents that are near each other, or semantic duplicates, directly or through others, and rows that the user
groups go to one split together; splits that the user gave stay as given but for leaks and repeats, which leave the side
that the user chose; nothing depends on the order of rows or files. With assignment `hash`, rows added later move no row
that is not a duplicate of theirs or of their group.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline import params
from pipeline.assignment import Groups, assign, edges, join
from pipeline.duplicates import Duplicates
from pipeline.errors import SeqtrackError
from pipeline.labels import ProblemType, natural_order
from pipeline.partial import rows_involved, shared_sides
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
    """Duplicates a test row, or a train row where train is not to be touched."""
    DROPPED_FROM_TEST = 4
    """Duplicates a train or validation row, where train is not to be touched."""


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
        problem_type: classes have to be in train, each of them; numbers are told in ranges.
        group: int64, shape (rows,): the user's group of each row; -1 for none.
        group_leaks: int64, shape (pairs, 2): a kept row and one of the same group that was dropped for that alone.
        partial: int64, shape (pairs, 2): rows in different splits that share one side of a pair; the second is the one
            dropped where split.partial_overlap says so.
    """

    given: NDArray[np.int8]
    fate: NDArray[np.int8]
    split: NDArray[np.int8]
    assigned: NDArray[np.bool_]
    label: NDArray[np.int64]
    label_names: tuple[str, ...]
    problem_type: ProblemType
    group: NDArray[np.int64]
    group_leaks: NDArray[np.int64]
    partial: NDArray[np.int64]

    @property
    def classes(self) -> bool:
        """Whether each label is one class, rather than a set of them or a number."""
        return self.problem_type == "single_label_classification"

    def counts(self) -> NDArray[np.int64]:
        """Return rows by label and split, shape (labels + 1, 3); the last line counts the unlabelled."""
        kept = self.split != NO_SPLIT
        table = np.zeros((len(self.label_names) + 1, len(SPLIT_NAMES)), np.int64)
        np.add.at(table, (self.label[kept], self.split[kept]), 1)  # label -1 is the last line
        return table


def divide(
    rows: pa.Table,
    duplicates: Duplicates,
    settings: params.Split,
    *,
    problem_type: ProblemType = "single_label_classification",
) -> Division:
    """Decide for each row which split it is in, or why in none.

    Without given splits (or with train alone), repeats of one content and label are dropped but for the first, and the
    rest is assigned in groups of near contents. With given splits, leaks are dropped as on_leak says, repeats from
    train; if only validation is missing, it is taken out of train by the same rules as above. Leaks are a matter
    between direct neighbours: a row that is like a row that is like a test row stays, but in families too large for all
    pairs to be compared. With folds, one fold of what is assigned is test, or validation where test is given.

    Args:
        rows: canonical rows.
        duplicates: of the same rows.
        settings: all but what the search for duplicates read of them counts here.
        problem_type: classes have to be in train and, with assignment `exact`, in all splits alike.

    Raises:
        SeqtrackError: only some rows name a split, times are missing or no times, folds would replace a given split,
            given splits leak and must not, or a class would have no row in train.
    """
    given = _given(rows)
    label_names = natural_order(pc.unique(rows["label"]).drop_null().to_pylist())
    label = pc.index_in(rows["label"], value_set=pa.array(label_names, pa.string()))
    label = pc.fill_null(label, -1).to_numpy().astype(np.int64)
    group_names = sorted(pc.unique(rows["group"]).drop_null().to_pylist())
    group = pc.index_in(rows["group"], value_set=pa.array(group_names, pa.string()))
    group = pc.fill_null(group, -1).to_numpy().astype(np.int64)
    present = set(np.unique(given).tolist())
    fate = np.full(rows.num_rows, Fate.KEPT, np.int8)
    pool = np.zeros(rows.num_rows, bool)
    group_leaks = np.zeros((0, 2), np.int64)
    if present <= {NO_SPLIT} or present == {TRAIN}:
        pool[:] = True
    else:
        group_leaks = _mark_leaks(fate, given, rows, duplicates, group, settings)
        if _takes_from_train(present, settings):
            pool = given == TRAIN
    time = _times(rows, pool) if settings.assignment == "time" and pool.any() else np.zeros(rows.num_rows)
    _mark_repeats(fate, pool | (given == TRAIN), rows, duplicates.content, label, group, time)
    pool &= fate == Fate.KEPT
    split = np.where(fate == Fate.KEPT, given, NO_SPLIT).astype(np.int8)
    if pool.any():
        strata = label if problem_type == "single_label_classification" else np.zeros_like(label)
        groups = join(np.flatnonzero(pool), duplicates, strata, group, group_names, time, settings.seed)
        split[pool] = _splits_of_groups(groups, present, settings)[groups.of_row]
    partial = _shared(rows, split, duplicates.side)
    if settings.partial_overlap == "drop_from_train":
        leaving = partial[split[partial[:, 1]] == TRAIN, 1]
        fate[leaving], split[leaving], pool[leaving] = Fate.DROPPED_FROM_TRAIN, NO_SPLIT, False
    division = Division(
        given=given,
        fate=fate,
        split=split,
        assigned=pool,
        label=label,
        label_names=label_names,
        problem_type=problem_type,
        group=group,
        group_leaks=group_leaks,
        partial=partial,
    )
    _require_training_rows(division, settings)
    return division


def write_splits(folder: Path, rows: pa.Table, division: Division) -> None:
    """Write train, validation and test.parquet: the ids of their rows, in the order of `rows`.

    Where rows were dropped from the test split that the user gave, that is written too, as test_as_given.parquet.
    """
    chosen = {name: division.split == place for place, name in enumerate(SPLIT_NAMES)}
    if (division.fate == Fate.DROPPED_FROM_TEST).any():
        chosen["test_as_given"] = division.given == TEST
    for name, here in chosen.items():
        ids = rows.select(["row_id"]).filter(pa.array(here)).combine_chunks()
        write_parquet(ids, folder / f"{name}.parquet")


def missing_classes(division: Division) -> list[str]:
    """Return a sentence for each class that has no row in a validation or test split which has labelled rows."""
    if not division.classes:
        return []
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


def _takes_from_train(present: set[int], settings: params.Split) -> bool:
    """Return whether a missing split is taken out of the train rows that the user gave."""
    if settings.folds is None:
        return VALIDATION not in present and settings.ratios.validation > 0
    if {VALIDATION, TEST} <= present:
        raise SeqtrackError(
            "folds would replace a split that your files give",
            where="split.folds in params.yaml",
            found="files for validation and for test",
            fix="leave the validation file out, so that each fold of train is validation in turn, or set folds to null",
        )
    return True


def _splits_of_groups(groups: Groups, present: set[int], settings: params.Split) -> NDArray[np.int8]:
    """Return the split of each group, shape (groups,)."""
    ratios = settings.ratios
    free = not present & {VALIDATION, TEST}
    if settings.folds is None:
        shares = (ratios.train, ratios.validation, ratios.test if free else 0.0)
        return assign(groups, edges(*shares), settings.assignment).astype(np.int8)
    held_out = assign(groups, edges(*[1.0] * settings.folds), settings.assignment) == settings.fold
    result = np.full(len(held_out), VALIDATION if TEST in present else TEST, np.int8)
    rest = groups.folded(settings.folds).subset(~held_out)
    result[~held_out] = TRAIN
    if free and len(rest.sizes):
        result[~held_out] = assign(rest, edges(ratios.train, ratios.validation), settings.assignment)
    return result


def _mark_leaks(
    fate: NDArray[np.int8],
    given: NDArray[np.int8],
    rows: pa.Table,
    duplicates: Duplicates,
    group: NDArray[np.int64],
    settings: params.Split,
) -> NDArray[np.int64]:
    """Go through the splits from the one to keep whole; drop from each what relates to those before it.

    Returns:
        group_leaks of Division.
    """
    related = _relation(duplicates)
    order = (TRAIN, VALIDATION, TEST) if settings.on_leak == "drop_from_test" else (TEST, VALIDATION, TRAIN)
    fates = {
        TRAIN: Fate.DROPPED_FROM_TRAIN,
        VALIDATION: Fate.DROPPED_FROM_VALIDATION,
        TEST: Fate.DROPPED_FROM_TEST,
    }
    kept = given == order[0]
    group_leaks = []
    for place in order[1:]:
        here = given == place
        leaks = here & related(kept)
        straying = np.flatnonzero(here & ~leaks & (group >= 0) & np.isin(group, group[kept]))
        if len(straying):
            ordered = in_source_order(rows, np.flatnonzero(kept & np.isin(group, group[straying])))
            held, first = np.unique(group[ordered], return_index=True)
            partners = ordered[first][np.searchsorted(held, group[straying])]
            group_leaks.append(np.stack([partners, straying], axis=1))
        leaks[straying] = True
        fate[leaks] = fates[place]
        kept |= here & ~leaks
    if settings.on_leak == "fail" and (fate != Fate.KEPT).any():
        _refuse(rows, given, np.flatnonzero(fate != Fate.KEPT))
    return np.concatenate([np.zeros((0, 2), np.int64), *group_leaks])


def _relation(duplicates: Duplicates) -> Callable[[NDArray[np.bool_]], NDArray[np.bool_]]:
    """Return a function that marks rows whose content is, or is linked to, that of some given rows (masks of rows)."""
    content = duplicates.content
    left, right = duplicates.links.T
    # Of a crowded family not all pairs are known, so that all of it counts as near.
    family = duplicates.families()
    crowded = np.zeros(len(family), bool)
    crowded[family[duplicates.crowded]] = True

    def related(rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        own = np.zeros(len(duplicates.digests), bool)
        own[content[rows]] = True
        marked = own.copy()
        marked[left[own[right]]] = True
        marked[right[own[left]]] = True
        touched = np.zeros(len(family), bool)
        touched[family[own]] = True
        marked |= (touched & crowded)[family]
        return marked[content]

    return related


def _refuse(rows: pa.Table, given: NDArray[np.int8], leaks: NDArray[np.int64]) -> None:
    """Raise, with the first leak by source and line as the example."""
    first = in_source_order(rows, leaks)
    source, line = (rows[name][int(first[0])].as_py() for name in ("source", "line"))
    shares = [f"{(given[leaks] == place).sum():,} in {SPLIT_NAMES[place]}" for place in np.unique(given[leaks])]
    raise SeqtrackError(
        "the splits given share rows",
        where=f"{source}:{line}",
        expected="no row of one split that repeats or nearly repeats one of another",
        found=f"{len(leaks):,} such rows ({', '.join(shares)})",
        fix="set split.on_leak to drop_from_train, which removes and lists them, or clean the files",
    )


def _shared(rows: pa.Table, split: NDArray[np.int8], side: NDArray[np.int64]) -> NDArray[np.int64]:
    involved = in_source_order(rows, rows_involved(split, side))
    return involved[shared_sides(split[involved], side[involved])]


def _times(rows: pa.Table, pool: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the time of each row of the pool as a number, shape (rows,): seconds for dates, numbers as they are."""
    column = rows["time"]
    known = pc.unique(column.filter(pa.array(pool)))
    where = "data.time in params.yaml"
    if known.null_count:
        row = int(np.flatnonzero(pool & column.is_null().to_numpy())[0])
        raise SeqtrackError(
            "a row without a time cannot be assigned by time",
            where=f"{rows['source'][row].as_py()}:{rows['line'][row].as_py()}",
            expected=f"a date, a time or a number in every row (column: {where})",
            fix="name the column in data.time, fill the gaps, or choose another split.assignment",
        )
    texts = known.to_pylist()
    try:
        numbers = [_number(text) for text in texts]
    except ValueError:
        try:
            numbers = [_seconds(text) for text in texts]
        except ValueError as error:
            raise SeqtrackError(
                f"not a time: {error}", where=where, expected="ISO 8601, for example 2024-05-31, or numbers in all rows"
            ) from None
    times: NDArray[np.float64] = np.array(numbers)[pc.fill_null(pc.index_in(column, value_set=known), 0).to_numpy()]
    return times


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is no number to sort by")
    return number


def _seconds(text: str) -> float:
    moment = datetime.fromisoformat(text.strip())
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _mark_repeats(
    fate: NDArray[np.int8],
    where: NDArray[np.bool_],
    rows: pa.Table,
    content: NDArray[np.int64],
    label: NDArray[np.int64],
    group: NDArray[np.int64],
    time: NDArray[np.float64],
) -> None:
    """Drop, among the rows `where`, all but the first by time, group, source and line of each content and label.

    Time and group come before source and line so that the order of files decides between equal rows only.
    """
    repeated = np.bincount(content)[content] > 1
    candidates = in_source_order(rows, np.flatnonzero(where & (fate == Fate.KEPT) & repeated))
    candidates = candidates[np.lexsort((group[candidates], time[candidates]))]  # stable
    _, first = np.unique(content[candidates] * (label.max(initial=0) + 2) + label[candidates], return_index=True)
    fate[np.delete(candidates, first)] = Fate.DROPPED


def in_source_order(rows: pa.Table, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the chosen row numbers sorted by source, line and row_id."""
    columns = rows.select(["source", "line", "row_id"]).take(pa.array(chosen))
    order = pc.sort_indices(columns, [("source", "ascending"), ("line", "ascending"), ("row_id", "ascending")])
    ordered: NDArray[np.int64] = chosen[order.to_numpy()]
    return ordered


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
    if not division.classes or not len(absent):
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
