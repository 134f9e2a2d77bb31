"""What differs between two trainings: params, rows, scores, and the rows whose prediction flipped.

Promises: scores are compared on the rows that both sides scored, paired by row_id; what cannot be compared is said in
words, with the reason, and all else still is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.decisions import Decisions, decide
from pipeline.labels import LabelSet, is_number
from pipeline.params import Evaluate
from pipeline.paths import ROWS, SPLIT_NAMES
from pipeline.revisions import Side
from pipeline.row_predictions import RowPredictions, SplitPredictions
from pipeline.rows import read_rows
from pipeline.significance import Difference, Outputs, differences, right_rows
from pipeline.targets import Targets, read_targets

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ParamDifference:
    """A params.yaml key with its value on each side; None where a side does not have it."""

    key: str
    a: str | None
    b: str | None


@dataclass(frozen=True, kw_only=True)
class Text:
    """A row's text or texts."""

    text: str
    text_pair: str | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row that only one side has; its texts are None where no side has them at hand."""

    row_id: str
    text: Text | None


@dataclass(frozen=True, kw_only=True)
class RowDifference:
    """How a split differs in its rows.

    Attributes:
        split: its name.
        rows_a, rows_b: how many; None where a side says nothing of the split.
        only_a, only_b: how many rows only one side has; None where the rows of a side are not known one by one.
        shown_a, shown_b: the first of them.
        scored: whether this is about the scored rows alone.
        same: whether the split is known to hold the same rows.
    """

    split: str
    rows_a: int | None
    rows_b: int | None
    only_a: int | None = None
    only_b: int | None = None
    shown_a: tuple[Row, ...] = ()
    shown_b: tuple[Row, ...] = ()
    scored: bool = False
    same: bool = False


@dataclass(frozen=True, kw_only=True)
class Flip:
    """A row whose prediction is another one.

    Attributes:
        row_id: of the row.
        text: its texts, None where no side has them at hand.
        label, a, b: what is right, and what each side says.
        weight: how sure B is of what it says (of several labels per row: of the surest decision that changed); in
            regression how much the absolute error changed.
    """

    row_id: str
    text: Text | None
    label: str
    a: str
    b: str
    weight: float


@dataclass(frozen=True, kw_only=True)
class Flips:
    """Rows with another prediction, surest first; in regression those that came closer or went away, most first.

    Attributes:
        fixed, broken, other: how many B put right, got wrong, and made wrong in another way.
        shown_fixed, shown_broken, shown_other: the first of them.
    """

    fixed: int
    broken: int
    other: int
    shown_fixed: tuple[Flip, ...]
    shown_broken: tuple[Flip, ...]
    shown_other: tuple[Flip, ...]


@dataclass(frozen=True, kw_only=True)
class SplitComparison:
    """Two models on the rows of a split that both scored.

    Attributes:
        split: its name.
        rows: how many both scored.
        only_a, only_b: scored rows that only one side has, left out.
        metrics: by name; those that evaluate recorded and that cannot be computed again have values alone.
        flips: None where nothing is known by row.
    """

    split: str
    rows: int
    only_a: int
    only_b: int
    metrics: dict[str, Difference]
    flips: Flips | None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How differences are judged, see `pipeline.significance.differences`; `limit`: rows shown of each kind."""

    samples: int
    confidence: float
    seed: int
    permutations: int
    limit: int

    @staticmethod
    def of(evaluate: Evaluate, *, permutations: int, limit: int) -> Settings:
        """Take resamples, confidence and seed from the section."""
        return Settings(
            samples=evaluate.bootstrap_samples,
            confidence=evaluate.confidence,
            seed=evaluate.seed,
            permutations=permutations,
            limit=limit,
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What differs between two sides.

    Attributes:
        a, b: the sides.
        settings: how they were judged.
        labels: the task; None where neither side's is known.
        params: keys with different values.
        rows: a line per split.
        splits: those that both scored.
        notes: what could not be compared, and why.
    """

    a: Side
    b: Side
    settings: Settings
    labels: LabelSet | None
    params: tuple[ParamDifference, ...]
    rows: tuple[RowDifference, ...]
    splits: tuple[SplitComparison, ...]
    notes: tuple[str, ...]


def compare(a: Side, b: Side, settings: Settings) -> Comparison:
    """Compare two sides.

    Raises:
        SeqtrackError: a file of a side is damaged.
    """
    notes = [*a.missing, *(line for line in b.missing if line not in a.missing)]
    texts = _Texts([_workspace_rows, a.rows, b.rows])
    refusal = _refusal(a.predictions, b.predictions)
    if refusal is not None and a.predictions is not None and b.predictions is not None:
        notes.append(refusal)
    splits: list[SplitComparison] = []
    for name in _scored_names(a, b):
        paired = None
        if refusal is None and a.predictions is not None and b.predictions is not None:
            paired = _paired(name, a.predictions, b.predictions)
        if paired is None:
            splits.append(_recorded_only(name, a, b))
        elif not len(paired.targets):
            notes.append(f"{name}: the two sides have scored no row in common")
        else:
            splits.append(_compared(paired, a, b, settings, texts))
    params, left_out = _params(a, b)
    if left_out:
        notes.append(f"{left_out} params that only one side records (one is an MLflow run) are not shown")
    known = a.predictions or b.predictions
    return Comparison(
        a=a,
        b=b,
        settings=settings,
        labels=None if known is None else known.labels,
        params=params,
        rows=tuple(_rows(name, a, b, settings.limit, texts) for name in SPLIT_NAMES),
        splits=tuple(splits),
        notes=tuple(notes),
    )


def _workspace_rows() -> Path | None:
    return ROWS if ROWS.is_file() else None


class _Texts:
    """Looks texts up by row_id. The id is made of the content, so any file that has the row has the same text."""

    def __init__(self, places: Iterable[Callable[[], Path | None]]) -> None:
        self._places = tuple(places)

    def find(self, wanted: Iterable[str]) -> dict[str, Text]:
        found: dict[str, Text] = {}
        left = set(wanted)
        for place in self._places:
            if not left:
                break
            if (file := place()) is not None:
                rows = read_rows(file, ["row_id", "text", "text_pair"])
                rows = rows.filter(pc.is_in(rows["row_id"], value_set=pa.array(sorted(left), pa.string())))
                for row in rows.to_pylist():
                    found[row["row_id"]] = Text(text=row["text"], text_pair=row["text_pair"])
                left -= found.keys()
        return found


@dataclass(frozen=True, kw_only=True)
class _Paired:
    """The rows of a split that both sides scored, in the first one's order."""

    split: str
    labels: LabelSet
    row_ids: list[str]
    targets: Targets
    a: Outputs
    b: Outputs
    only_a: int
    only_b: int


def _refusal(a: RowPredictions | None, b: RowPredictions | None) -> str | None:
    """Return why two models cannot be compared row by row, None where they can."""
    if a is None or b is None:
        return "a side has no predictions by row"
    if a.labels.problem_type != b.labels.problem_type:
        return f"not compared row by row: A does {a.labels.problem_type}, B {b.labels.problem_type}"
    if set(a.labels.names) != set(b.labels.names):
        only = ", ".join(sorted(set(a.labels.names) ^ set(b.labels.names)))
        return f"not compared row by row: only one side has the classes {only}"
    return None


def _scored_names(a: Side, b: Side) -> list[str]:
    """Return the splits that both sides have scores of, validation before test."""
    scored = [
        side.metrics.keys() | (side.predictions.splits.keys() if side.predictions is not None else set())
        for side in (a, b)
    ]
    common = scored[0] & scored[1]
    order = [name for name in ("validation", "test_as_given", "test") if name in common]
    return order + sorted(common - set(order))


def _paired(name: str, a: RowPredictions, b: RowPredictions) -> _Paired | None:
    one, other = a.splits.get(name), b.splits.get(name)
    if one is None or other is None:
        return None
    # A row_id is made of text and label, so rows with the same id have the same label.
    places = pc.index_in(one.row_ids, value_set=other.row_ids)
    in_a = np.flatnonzero(pc.is_valid(places).to_numpy(zero_copy_only=False))
    in_b = places.drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
    targets = read_targets(a.labels, one.labels.take(pa.array(in_a)))[1]
    return _Paired(
        split=name,
        labels=a.labels,
        row_ids=one.row_ids.take(pa.array(in_a)).to_pylist(),
        targets=targets,
        a=_outputs(a, one, in_a, a.labels),
        b=_outputs(b, other, in_b, a.labels),
        only_a=len(one.row_ids) - len(in_a),
        only_b=len(other.row_ids) - len(in_b),
    )


def _outputs(side: RowPredictions, split: SplitPredictions, places: Places, labels: LabelSet) -> Outputs:
    """Return a side's outputs with the classes in the order of `labels`."""
    logits = split.logits[places]
    if not labels.names:
        return Outputs(logits=logits)
    order = [side.labels.names.index(name) for name in labels.names]
    thresholds = None if side.thresholds is None else side.thresholds[order]
    return Outputs(logits=np.ascontiguousarray(logits[:, order]), thresholds=thresholds)


def _compared(paired: _Paired, a: Side, b: Side, settings: Settings, texts: _Texts) -> SplitComparison:
    metrics = differences(
        paired.labels,
        paired.a,
        paired.b,
        paired.targets,
        samples=settings.samples,
        confidence=settings.confidence,
        seed=settings.seed,
        permutations=settings.permutations,
    )
    if not paired.only_a and not paired.only_b:  # of other rows, recorded values could not be set side by side
        metrics |= {name: value for name, value in _recorded(paired.split, a, b).items() if name not in metrics}
    return SplitComparison(
        split=paired.split,
        rows=len(paired.targets),
        only_a=paired.only_a,
        only_b=paired.only_b,
        metrics=metrics,
        flips=_flips(paired, settings.limit, texts),
    )


def _recorded_only(name: str, a: Side, b: Side) -> SplitComparison:
    return SplitComparison(split=name, rows=0, only_a=0, only_b=0, metrics=_recorded(name, a, b), flips=None)


def _recorded(split: str, a: Side, b: Side) -> dict[str, Difference]:
    """Return what evaluate recorded on both sides: the user's own metrics, and those of a fitted temperature."""
    in_a, in_b = a.metrics.get(split, {}), b.metrics.get(split, {})
    return {name: Difference(a=in_a[name], b=in_b[name]) for name in in_a if name in in_b}


def _flips(paired: _Paired, limit: int, texts: _Texts) -> Flips:
    decided = [decide(paired.labels, each.logits, each.thresholds) for each in (paired.a, paired.b)]
    if paired.labels.problem_type == "regression":
        change = np.abs(decided[1].ids - paired.targets) - np.abs(decided[0].ids - paired.targets)
        weights = np.abs(change)
        fixed, broken, other = change < 0, change > 0, np.zeros(len(change), np.bool_)
    else:
        right_a, right_b = (right_rows(paired.labels, each, paired.targets) for each in (paired.a, paired.b))
        weights, changed = _sureness(paired.labels, *decided)
        fixed, broken, other = right_b & ~right_a, right_a & ~right_b, changed & ~right_a & ~right_b
    kinds = []
    for flags in (fixed, broken, other):
        places = np.flatnonzero(flags)
        kinds.append(places[np.argsort(-weights[places], kind="stable")][:limit])
    known = texts.find(paired.row_ids[place] for places in kinds for place in places)
    shown = [
        tuple(
            Flip(
                row_id=paired.row_ids[place],
                text=known.get(paired.row_ids[place]),
                label=_actual(paired.labels, paired.targets[place]),
                a=_told(decided[0].labels[place]),
                b=_told(decided[1].labels[place]),
                weight=float(weights[place]),
            )
            for place in places.tolist()
        )
        for places in kinds
    ]
    return Flips(
        fixed=int(fixed.sum()),
        broken=int(broken.sum()),
        other=int(other.sum()),
        shown_fixed=shown[0],
        shown_broken=shown[1],
        shown_other=shown[2],
    )


def _sureness(labels: LabelSet, a: Decisions, b: Decisions) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return how sure B is of what it says, float64 [rows], and whether it says something else than A, bool [rows]."""
    assert b.probabilities is not None
    if labels.problem_type == "multi_label_classification":
        apart = a.ids != b.ids
        surest = np.where(apart, np.maximum(b.probabilities, 1 - b.probabilities), 0)
        return surest.max(axis=1), apart.any(axis=1)
    return b.probabilities.max(axis=1), a.ids != b.ids


def _actual(labels: LabelSet, target: npt.NDArray[np.number] | np.number) -> str:
    if labels.problem_type == "regression":
        return _told(float(target))
    if labels.problem_type == "multi_label_classification":
        return _told([labels.names[place] for place in np.flatnonzero(target)])
    return labels.names[int(target)]


def _told(value: str | list[str] | float) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return f"{value:.4g}" if isinstance(value, float) else value


def _params(a: Side, b: Side) -> tuple[tuple[ParamDifference, ...], int]:
    """Return params with different values, and how many were left out because one side does not record them."""
    found, left_out = [], 0
    alike = (a.kind == "run") == (b.kind == "run")
    for key in sorted(a.params.keys() | b.params.keys()):
        one, other = a.params.get(key), b.params.get(key)
        if one is None or other is None:
            # dvc.lock holds what params.yaml says, a run what it means with all defaults.
            left_out += not alike
            if not alike:
                continue
        elif _same(one, other):
            continue
        found.append(ParamDifference(key=key, a=_shown(one), b=_shown(other)))
    return tuple(found), left_out


def _same(one: str, other: str) -> bool:
    return one == other or (is_number(one) and is_number(other) and float(one) == float(other))


def _shown(value: str | None) -> str | None:
    return {"None": "null", "True": "true", "False": "false"}.get(value, value) if value is not None else None


def _rows(name: str, a: Side, b: Side, limit: int, texts: _Texts) -> RowDifference:
    one, other = a.splits.get(name), b.splits.get(name)
    rows = (None if one is None else one.rows, None if other is None else other.rows)
    ids = (None if one is None else one.row_ids, None if other is None else other.row_ids)
    scored = False
    if one is not None and other is not None and one.digest == other.digest:
        return RowDifference(split=name, rows_a=rows[0], rows_b=rows[1], only_a=0, only_b=0, same=True)
    if ids[0] is None or ids[1] is None:
        # Of a run, the rows are known where it scored them.
        ids = (_scored_ids(a, name), _scored_ids(b, name))
        scored = True
    if ids[0] is None or ids[1] is None:
        return RowDifference(split=name, rows_a=rows[0], rows_b=rows[1])
    only = list(_apart(ids[0], ids[1]))
    known = texts.find(row_id for found in only for row_id in found[:limit])
    shown = [tuple(Row(row_id=row_id, text=known.get(row_id)) for row_id in found[:limit]) for found in only]
    return RowDifference(
        split=name,
        rows_a=len(ids[0]) if scored else rows[0],
        rows_b=len(ids[1]) if scored else rows[1],
        only_a=len(only[0]),
        only_b=len(only[1]),
        shown_a=shown[0],
        shown_b=shown[1],
        scored=scored,
        same=not scored and not only[0] and not only[1],
    )


def _scored_ids(side: Side, name: str) -> pa.Array | None:
    if side.predictions is None or name not in side.predictions.splits:
        return None
    return side.predictions.splits[name].row_ids


def _apart(one: pa.Array, other: pa.Array) -> Iterator[list[str]]:
    """Yield the ids that only the first has, then those that only the second has, each in its own order."""
    for mine, theirs in ((one, other), (other, one)):
        yield mine.filter(pc.invert(pc.is_in(mine, value_set=theirs))).to_pylist()
