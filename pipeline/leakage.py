"""The leakage report: every pair of duplicates, what was done about it, and a proof that none is left across splits.

Promises: each pair names both rows with source, line, text and label; the proof starts from the rows' final splits and
scores each near pair again from its texts; reports are byte-identical for equal rows in any order.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise, product
from operator import attrgetter
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import params
from pipeline.checks_near import near_duplicates
from pipeline.console import say, table
from pipeline.duplicates import FAMILY, Duplicates, similarities, similarity_of
from pipeline.outputs import Json, replacing, write_json, write_text
from pipeline.partial import shared_sides
from pipeline.paths import SPLIT_NAMES
from pipeline.semantic import count_unlike
from pipeline.splitting import NO_SPLIT, TEST, TRAIN, Division, Fate, in_source_order, missing_classes

UNLABELLED = "(unlabelled)"

Kind = Literal["exact", "normalized", "near", "semantic", "partial", "group"]
Action = Literal[
    "dropped",
    "dropped_from_train",
    "dropped_from_validation",
    "dropped_from_test",
    "kept_together",
    "kept",
    "reported",
]
DUPLICATES: tuple[Kind, ...] = ("exact", "normalized", "near", "semantic")


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One row of a pair; a split is a name, or None: not given, or dropped."""

    row_id: str
    source: str
    line: int
    text: str
    text_pair: str | None
    label: str | None
    given_split: str | None
    split: str | None
    fate: Fate
    assigned: bool
    content: int
    rank: int

    @property
    def raw(self) -> tuple[str, str | None]:
        """What exact duplicates share: the texts as they are, the two of a pair in either order."""
        if self.text_pair is None or self.text <= self.text_pair:
            return self.text, self.text_pair
        return self.text_pair, self.text

    def to_json(self) -> Json:
        """Return what the report says about the row."""
        names = ("row_id", "source", "line", "text", "text_pair", "label", "given_split", "split")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two rows that are duplicates; `second` is the one to go where one has to.

    Attributes:
        kind: exact (the same characters), normalized (the same normal form), near, semantic (alike to an encoder),
            partial (one side of a pair in the same normal form, in different splits) or group (the user's group, in
            different given splits).
        score: Jaccard similarity of the shingle sets, of the less similar side in pair data; 1 for exact and
            normalized; for semantic the cosine of the vectors, of the less similar side, too.
    """

    first: Member
    second: Member
    kind: Kind
    score: float

    @property
    def action(self) -> Action:
        """What was done: the removal that parted the two; else both are kept, by group, as given or for you to see."""
        for member in (self.second, self.first):
            match member.fate:
                case Fate.DROPPED:
                    return "dropped"
                case Fate.DROPPED_FROM_TRAIN:
                    return "dropped_from_train"
                case Fate.DROPPED_FROM_VALIDATION:
                    return "dropped_from_validation"
                case Fate.DROPPED_FROM_TEST:
                    return "dropped_from_test"
        if self.kind == "partial":
            return "reported"
        return "kept_together" if self.first.assigned and self.second.assigned else "kept"

    @property
    def label_conflict(self) -> bool:
        """Whether both rows are labelled, and differently, though they say the same."""
        labels = (self.first.label, self.second.label)
        return self.kind in DUPLICATES and None not in labels and self.first.label != self.second.label

    @property
    def crosses_given_splits(self) -> bool:
        """Whether the two came in different splits."""
        return self.first.given_split != self.second.given_split

    def to_json(self) -> Json:
        """Return the pair as one record of duplicates.jsonl."""
        return {
            "kind": self.kind,
            "score": round(self.score, 6),
            "action": self.action,
            "label_conflict": self.label_conflict,
            "crosses_given_splits": self.crosses_given_splits,
            "first": self.first.to_json(),
            "second": self.second.to_json(),
        }


def list_pairs(rows: pa.Table, duplicates: Duplicates, division: Division, settings: params.Split) -> list[Pair]:
    """Return every pair, in the order of its rows: test before validation before train, then by source and line.

    The number of pairs is linear in the rows. n rows of one content give n - 1 pairs, each row with the one that
    decides about it. A near or semantic pair of contents gives one pair of rows for each pair of given splits that they
    are in; in a family of more than `FAMILY` contents, each content is paired with the first of those it is near.
    Partial and group pairs are those of the division.
    """
    by_row = dict(_members(rows, duplicates, division))
    members = sorted(by_row.values(), key=attrgetter("content", "rank"))
    families = {content: list(family) for content, family in groupby(members, key=attrgetter("content"))}
    pairs = [pair for family in families.values() for pair in _same_content(family)]
    chosen = _listed(duplicates, {content: family[0].rank for content, family in families.items()})
    linked: list[tuple[Kind, NDArray[np.int64], NDArray[np.float64]]] = [
        ("near", duplicates.near[chosen], duplicates.similarity[chosen])
    ]
    if duplicates.semantic is not None:
        linked.append(("semantic", duplicates.semantic.pairs, duplicates.semantic.cosine))
    for kind, contents, values in linked:
        for (left, right), score in zip(contents.tolist(), values.tolist(), strict=True):
            for couple in product(_one_per_given_split(families[left]), _one_per_given_split(families[right])):
                first, second = sorted(couple, key=attrgetter("rank"))
                pairs.append(Pair(first=first, second=second, kind=kind, score=score))
    others: tuple[tuple[Kind, NDArray[np.int64]], ...] = (
        ("partial", division.partial),
        ("group", division.group_leaks),
    )
    for kind, found in others:
        scores = similarities(rows, found, settings.shingle_size)
        for (one, other), score in zip(found.tolist(), scores.tolist(), strict=True):
            pairs.append(Pair(first=by_row[one], second=by_row[other], kind=kind, score=score))
    return sorted(pairs, key=lambda pair: (pair.first.rank, pair.second.rank))


def _listed(duplicates: Duplicates, rank: dict[int, int]) -> NDArray[np.int64]:
    """Return which of the near pairs to list: all, but in large families one for each content."""
    family = duplicates.families()
    large = (np.bincount(family) > FAMILY)[family[duplicates.near[:, 0]]]
    places = np.flatnonzero(large)
    ends = duplicates.near[places]
    content, partner, place = np.append(ends[:, 0], ends[:, 1]), np.append(ends[:, 1], ends[:, 0]), np.tile(places, 2)
    ranks = np.array([rank[number] for number in partner.tolist()], np.int64)
    order = np.lexsort((ranks, content))
    _, first = np.unique(content[order], return_index=True)
    return np.union1d(np.flatnonzero(~large), place[order][first])


def _members(rows: pa.Table, duplicates: Duplicates, division: Division) -> Iterator[tuple[int, Member]]:
    """Yield all rows that are in some pair, each with its number."""
    content = duplicates.content
    repeated = np.bincount(content, minlength=len(duplicates.digests)) > 1
    repeated[duplicates.links] = True
    involved = repeated[content]
    involved[division.partial] = True
    involved[division.group_leaks] = True
    chosen = in_source_order(rows, np.flatnonzero(involved))
    chosen = chosen[np.argsort(TEST - division.given[chosen], kind="stable")]
    names = [*SPLIT_NAMES, None]  # NO_SPLIT is -1, the last
    values = zip(
        *(
            rows[column].take(pa.array(chosen)).to_pylist()
            for column in ("row_id", "source", "line", "text", "text_pair", "label")
        ),
        chosen.tolist(),
        strict=True,
    )
    for place, (row_id, source, line, text, text_pair, label, row) in enumerate(values):
        member = Member(
            row_id=row_id,
            source=source,
            line=line,
            text=text,
            text_pair=text_pair,
            label=label,
            given_split=names[division.given[row]],
            split=names[division.split[row]],
            fate=Fate(division.fate[row]),
            assigned=bool(division.assigned[row]),
            content=int(content[row]),
            rank=place,
        )
        yield row, member


def _same_content(family: list[Member]) -> Iterator[Pair]:
    """Pair each row of a content but the first with an earlier one.

    A row in another given split than the first row leaks: its partner is the row there with the same characters, or
    the first. Other rows go with the nearest relative before them: same label and characters, same label, any.
    """
    earliest: dict[tuple[object, ...], Member] = {}
    head = family[0]
    for member in family:
        if member.given_split != head.given_split:
            partner = earliest.get((member.raw,), head)
        else:
            places = ((member.label, member.raw), (member.label, None))
            partner = next((earliest[place] for place in places if place in earliest), head)
            for place in (*places, (member.raw,)):
                earliest.setdefault(place, member)
        if member is not head:
            kind: Kind = "exact" if member.raw == partner.raw else "normalized"
            yield Pair(first=partner, second=member, kind=kind, score=1.0)


def _one_per_given_split(family: list[Member]) -> list[Member]:
    first: dict[str | None, Member] = {}
    for member in family:
        first.setdefault(member.given_split, member)
    return list(first.values())


@dataclass(frozen=True, kw_only=True)
class Verification:
    """A second look at the finished splits.

    Attributes:
        near_pairs_rescored: near pairs whose similarity was computed again from the texts.
        near_pairs_refuted: those of them that are not near after all.
        semantic_pairs_rescored: semantic pairs whose texts were embedded again.
        semantic_pairs_refuted: those of them that are not alike after all.
        pairs_crossing_splits: pairs of duplicate contents with kept rows in different splits.
        groups_crossing_splits: groups of the user's with kept rows in different splits.
        sides_shared_with_train: pairs of rows, one in train, that still share a side; 0 where they may.
    """

    near_pairs_rescored: int
    near_pairs_refuted: int
    semantic_pairs_rescored: int
    semantic_pairs_refuted: int
    pairs_crossing_splits: int
    groups_crossing_splits: int
    sides_shared_with_train: int

    @property
    def passed(self) -> bool:
        """Whether every pair is one and nothing crosses splits."""
        return not (
            self.near_pairs_refuted
            or self.semantic_pairs_refuted
            or self.pairs_crossing_splits
            or self.groups_crossing_splits
            or self.sides_shared_with_train
        )

    @property
    def verdict(self) -> str:
        """The result in a line."""
        if self.passed:
            semantic = f" and {self.semantic_pairs_rescored:,} semantic" if self.semantic_pairs_rescored else ""
            again = f"{self.near_pairs_rescored:,} near{semantic} pairs scored again"
            return f"no verified duplicate crosses splits ({again})"
        return (
            f"{self.pairs_crossing_splits:,} duplicate pairs cross splits, "
            f"{self.near_pairs_refuted:,} of {self.near_pairs_rescored:,} near pairs are not near, "
            f"{self.semantic_pairs_refuted:,} of {self.semantic_pairs_rescored:,} semantic pairs are not alike, "
            f"{self.groups_crossing_splits:,} groups cross splits, "
            f"{self.sides_shared_with_train:,} sentences are shared with train"
        )


def verify(division: Division, duplicates: Duplicates, pairs: list[Pair], settings: params.Split) -> Verification:
    """Check the result, not the reasoning: where the rows of each content, and of any two linked ones, ended up."""
    kept = division.split != NO_SPLIT
    homes = np.zeros((len(duplicates.digests), len(SPLIT_NAMES)), bool)
    homes[duplicates.content[kept], division.split[kept]] = True
    left, right = (homes[side] for side in duplicates.links.T)
    scattered = left.any(axis=1) & right.any(axis=1) & ((left | right).sum(axis=1) > 1)
    grouped = kept & (division.group >= 0)
    groups = np.unique(np.stack([division.group[grouped], division.split[grouped]], axis=1), axis=0)[:, 0]
    shared = shared_sides(division.split, duplicates.side)
    near = [pair for pair in pairs if pair.kind == "near"]
    refuted = sum(
        similarity_of(
            (pair.first.text, pair.first.text_pair), (pair.second.text, pair.second.text_pair), settings.shingle_size
        )
        < settings.near_duplicate_threshold
        for pair in near
    )
    semantic = [
        ((pair.first.text, pair.first.text_pair), (pair.second.text, pair.second.text_pair))
        for pair in pairs
        if pair.kind == "semantic"
    ]
    return Verification(
        near_pairs_rescored=len(near),
        near_pairs_refuted=refuted,
        semantic_pairs_rescored=len(semantic),
        semantic_pairs_refuted=count_unlike(semantic, settings.semantic_threshold or 1.0, settings),
        pairs_crossing_splits=int((homes.sum(axis=1) > 1).sum() + scattered.sum()),
        groups_crossing_splits=int((groups[1:] == groups[:-1]).sum()),
        sides_shared_with_train=int((division.split[shared] == TRAIN).any(axis=1).sum())
        if settings.partial_overlap == "drop_from_train"
        else 0,
    )


def summary(
    division: Division, duplicates: Duplicates, pairs: list[Pair], verification: Verification, settings: params.Split
) -> Json:
    """Return leakage.json."""
    kinds = get_args(Kind)
    across: dict[bool, Counter[str]] = defaultdict(Counter)
    for pair in pairs:
        across[pair.crosses_given_splits][pair.kind] += 1
    actions = Counter(pair.action for pair in pairs)
    fates = Counter(Fate(fate).name.lower() for fate in division.fate[division.fate != Fate.KEPT].tolist())
    kept = Counter(division.split[division.split != NO_SPLIT].tolist())
    return {
        "checks": [asdict(near_duplicates(pairs, settings.near_duplicate_threshold))],
        "rows": {
            "input": len(division.split),
            "kept": {name: kept[place] for place, name in enumerate(SPLIT_NAMES)},
            "dropped": dict(fates),
        },
        "pairs": {
            "total": len(pairs),
            "across_given_splits": {kind: across[True][kind] for kind in kinds},
            "inside_given_splits": {kind: across[False][kind] for kind in kinds},
            "by_action": dict(actions),
            "label_conflicts": sum(pair.label_conflict for pair in pairs),
        },
        "partial_overlap": {
            "in_given_splits": _partial_rows(shared_sides(division.given, duplicates.side), division.given),
            "without_duplicates": _partial_rows(division.partial, division.split),
        },
        "search": {
            "near_duplicate_threshold": settings.near_duplicate_threshold,
            "shingle_size": settings.shingle_size,
            "bands": duplicates.banding.bands,
            "rows_per_band": duplicates.banding.rows,
            "recall_at_threshold": round(
                duplicates.banding.collision_probability(settings.near_duplicate_threshold), 6
            ),
            "candidates": duplicates.candidates,
            "semantic_threshold": settings.semantic_threshold,
            "semantic_model": None if duplicates.semantic is None else settings.semantic_model,
            "semantic_model_digest": None if duplicates.semantic is None else duplicates.semantic.encoder,
            "semantic_pairs_compared": 0 if duplicates.semantic is None else duplicates.semantic.compared,
        },
        "verification": {
            "near_pairs_rescored": verification.near_pairs_rescored,
            "near_pairs_refuted": verification.near_pairs_refuted,
            "semantic_pairs_rescored": verification.semantic_pairs_rescored,
            "semantic_pairs_refuted": verification.semantic_pairs_refuted,
            "pairs_crossing_splits": verification.pairs_crossing_splits,
            "groups_crossing_splits": verification.groups_crossing_splits,
            "sides_shared_with_train": verification.sides_shared_with_train,
            "verdict": verification.verdict,
        },
    }


def _partial_rows(pairs: NDArray[np.int64], split: NDArray[np.int8]) -> dict[str, int]:
    """Return, by split, the rows that share a side with a row of another split; those dropped were in train."""
    rows = np.unique(pairs)
    places = np.where(split[rows] == NO_SPLIT, TRAIN, split[rows])
    return {name: int((places == place).sum()) for place, name in enumerate(SPLIT_NAMES)}


def write_reports(
    folder: Path,
    division: Division,
    duplicates: Duplicates,
    pairs: list[Pair],
    verification: Verification,
    settings: params.Split,
) -> None:
    """Write leakage.json, duplicates.jsonl and label_distribution.csv."""
    write_json(folder / "leakage.json", summary(division, duplicates, pairs, verification, settings))
    with (
        replacing(folder / "duplicates.jsonl") as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as out,
    ):
        for pair in pairs:
            out.write(json.dumps(pair.to_json(), ensure_ascii=False) + "\n")
    distribution = io.StringIO()
    writer = csv.writer(distribution, lineterminator="\n")
    writer.writerow(["split", "label", "count", "bar"])  # bar: what dvc plots draws one for
    names, counts = rows_by_label(division)
    for place, split in enumerate(SPLIT_NAMES):
        for label, count in zip(names, counts[:, place].tolist(), strict=True):
            if count or label != UNLABELLED:
                writer.writerow([split, label, count, f"{label} ({split})"])
    write_text(folder / "label_distribution.csv", distribution.getvalue())


def rows_by_label(division: Division) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return labels and the rows of each by split, shape (labels, 3); the last label stands for none.

    Numbers, where there are more than a few, come in ranges of equal width, each without its upper end but the last.
    """
    names, counts = division.label_names, division.counts()
    if division.problem_type != "regression" or len(names) <= _NUMBER_RANGES:
        return (*names, UNLABELLED), counts
    values = np.array(names, np.float64)
    edges = np.histogram_bin_edges(values, _NUMBER_RANGES)
    place = np.clip(np.digitize(values, edges) - 1, 0, _NUMBER_RANGES - 1)
    ranges = np.zeros((_NUMBER_RANGES + 1, counts.shape[1]), np.int64)
    np.add.at(ranges, place, counts[:-1])
    ranges[-1] = counts[-1]
    told = [f"{edge:.6g}" for edge in edges]
    return (*(f"{low} to {high}" for low, high in pairwise(told)), UNLABELLED), ranges


ALWAYS_SHOWN: tuple[Kind, ...] = ("exact", "normalized", "near")
_NUMBER_RANGES = 10
_MOST_LABELS = 30  # lines of the table in the terminal; label_distribution.csv has all


def show(division: Division, pairs: list[Pair], verification: Verification) -> None:
    """Print split sizes by label, what became of the duplicates, warnings and the verdict."""
    names, counts = rows_by_label(division)
    lines = [(names[row], *(f"{count:,}" for count in counts[row])) for row in range(len(names)) if counts[row].any()]
    if len(lines) > _MOST_LABELS:
        lines = [*lines[:_MOST_LABELS], (f"... {len(lines) - _MOST_LABELS} more", "", "", "")]
    table("Splits", ["label", *SPLIT_NAMES], [*lines, ("all", *(f"{count:,}" for count in counts.sum(axis=0)))])
    by_kind = Counter(pair.kind for pair in pairs)
    across = Counter(pair.kind for pair in pairs if pair.crosses_given_splits)
    conflicts = Counter(pair.kind for pair in pairs if pair.label_conflict)
    table(
        "Duplicate pairs",
        ["kind", "pairs", "across given splits", "with different labels"],
        [
            (kind, f"{by_kind[kind]:,}", f"{across[kind]:,}", f"{conflicts[kind]:,}")
            for kind in get_args(Kind)
            if by_kind[kind] or kind in ALWAYS_SHOWN
        ],
    )
    if len(division.partial):
        shares = ", ".join(
            f"{count:,} in {name}" for name, count in _partial_rows(division.partial, division.split).items() if count
        )
        say(f"rows that share one sentence of a pair with another split: {shares}")
    fates = Counter(division.fate.tolist())
    dropped = [f"{fates[fate]:,} {fate.name.lower().replace('_', ' ')}" for fate in Fate if fate and fates[fate]]
    say(f"rows: {len(division.fate):,} read, {fates[Fate.KEPT]:,} kept" + "".join(f", {part}" for part in dropped))
    for sentence in missing_classes(division):
        say(f"warning: {sentence}")
    say(verification.verdict)
