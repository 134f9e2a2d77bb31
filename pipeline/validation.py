"""Turning a user's files into canonical rows: the only place that decides whether a row is fit for use.

Promises: each row of each file is either written, its text exactly as given, or rejected with file, line and reason;
rows stream through in bounded memory; a mistake that spoils the whole raises before anything is in place.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import paths
from pipeline.columns import Columns, check_same_columns, find_columns, split_of_name, split_of_value
from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet, is_fraction, label_text, natural_order, spelled_twice
from pipeline.outputs import Json, sha256_file, write_manifest
from pipeline.params import Data, Validate
from pipeline.reading import Defect, Format, Row, Shape, find_files, format_of, shorten
from pipeline.rows import ROW_GROUP, SCHEMA, row_id

MAX_FRACTIONS: Final = 20  # more distinct labels such as 3.8 than this are a quantity, not classes


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file, understood but not yet read.

    Attributes:
        path: where it lies.
        name: its path relative to data.path, or its own name when data.path is a file.
        split: the split that its name means; None when it means none or the file has a split column.
    """

    path: Path
    name: str
    format: Format
    shape: Shape
    columns: Columns
    split: str | None


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """What came of one file. `split` is None where rows name their own or there is none."""

    source: str
    format: str
    notes: tuple[str, ...]
    columns: tuple[str, ...]
    split: str | None
    rows: int
    rejected: int
    rows_over_several_lines: int


@dataclass(frozen=True, kw_only=True)
class SplitLabelCount:
    """Rows of one class in one split; `split` None: the files name no splits, `label` None: unlabelled."""

    split: str | None
    label: str | None
    rows: int


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Lengths in characters. Percentiles are lengths that occur (nearest rank)."""

    shortest: int
    mean: float
    median: int
    p95: int
    longest: int


@dataclass(frozen=True, kw_only=True)
class ValidationReport:
    """What validate found and decided.

    Attributes:
        rows: rows written.
        rejected: rows rejected, by reason.
        columns: which column plays which part, in the first file that has a label.
        classes: the label set in id order.
        counts: rows by split and label.
        lengths: by column (`text`, and `text_pair` in pair data).
        inferred: what was concluded from what, a sentence each.
    """

    rows: int
    rejected: dict[str, int]
    files: tuple[FileReport, ...]
    columns: Columns
    classes: tuple[str, ...]
    counts: tuple[SplitLabelCount, ...]
    lengths: dict[str, Lengths]
    inferred: tuple[str, ...]

    def as_json(self) -> Json:
        """Return the report as JSON values."""
        return asdict(self)

    def summary(self) -> tuple[str, str]:
        """Return what came of it and where to look next, a line each."""
        text = " + ".join(name for name in (self.columns.text, self.columns.text_pair) if name)
        totals: Counter[str] = Counter()
        for count in self.counts:
            totals[count.label or "unlabelled"] += count.rows
        shares = ", ".join(f"{name} {rows:,}" for name, rows in list(totals.items())[:10])
        more = f" and {len(totals) - 10} more" if len(totals) > 10 else ""
        reasons = ", ".join(f"{name} {rows:,}" for name, rows in sorted(self.rejected.items())) or "none"
        return (
            f"{self.rows:,} rows of {len(self.classes)} classes, text from column {text}, label from column "
            f"{self.columns.label}: {shares}{more}",
            f"rejected: {reasons}; details in {paths.REPORTS / 'validation.json'} and {paths.REJECTED}",
        )


class _Accepted(NamedTuple):
    text: str
    text_pair: str | None
    label: str | None
    split: str | None


def find_sources(data: Data) -> list[Source]:
    """Understand the files behind data.path: formats, columns, splits.

    Raises:
        SeqtrackError: there are no files, one is unreadable as a whole, columns cannot be told or differ between
            files, or some files say which split they are and some do not.
    """
    root = Path(data.path)
    sources = [_source(path, data) for path in find_files(root)]
    check_same_columns({source.name: source.columns for source in sources})
    without = [source.name for source in sources if source.split is None and source.columns.split is None]
    if without and len(without) < len(sources):
        having = next(source.name for source in sources if source.name not in without)
        raise SeqtrackError(
            "some files say which split they are and some do not",
            where=data.path,
            found=f"{having} does, {', '.join(without)} not",
            fix="put train, validation or test into every file name, give all a column named split, or keep the "
            "files that belong together in a folder of their own",
        )
    return sources


def validate(data: Data, limits: Validate, folder: Path) -> ValidationReport:
    """Read what data.path stands for and write canonical rows.

    Args:
        data: which files, and what their columns mean.
        limits: how much may be rejected.
        folder: an empty folder; gets rows.parquet, labels.json, rejected.jsonl and manifest.json.

    Raises:
        SeqtrackError: `find_sources` does, too many rows are rejected, no row is left, the labels are no classes,
            fewer than two of them occur, or only some rows name a split.
    """
    sources = find_sources(data)
    if data.label_names is not None:
        _check_pinned(data.label_names)
    known = None if data.label_names is None else frozenset(data.label_names)
    tally = _Tally(known)
    with (
        _RowWriter(folder / paths.ROWS.name) as writer,
        (folder / paths.REJECTED.name).open("wb") as rejected,
    ):
        for source in sources:
            for row in source.format.rows(source.path):
                if isinstance(row, Row):
                    judged = _check(row, source, known)
                    if not isinstance(judged, Defect):
                        tally.accept(source, row, judged)
                        writer.write(judged, source.name, row.line)
                        continue
                    defect = judged
                else:
                    defect = row
                tally.reject(source, defect)
                entry = {"source": source.name, **defect._asdict()}
                rejected.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
    tally.check(limits, data.path)
    labels = LabelSet(
        problem_type="single_label_classification",
        names=data.label_names or natural_order(tally.label_places),
    )
    labels.write(folder / paths.LABELS.name)
    write_manifest(
        folder,
        inputs={source.name: sha256_file(source.path) for source in sources},
        # Neither data.path nor max_rejected_ratio: they shape no byte of the rows, so that moving the files or
        # loosening the limit re-runs this stage but none after it.
        params=data.model_dump(mode="json", exclude={"path"}),
        rows={"accepted": tally.accepted, "rejected": tally.rejected},
    )
    return tally.report(sources, labels, data)


def _source(path: Path, data: Data) -> Source:
    kind = format_of(path)
    shape = kind.shape(path)
    split = split_of_name(path)
    columns = find_columns(shape.columns, data, where=str(path), label_needed=split != "test")
    # A split column speaks for each row, so it wins over the file name.
    split = split if columns.split is None else None
    return Source(path=path, name=path.name, format=kind, shape=shape, columns=columns, split=split)


def _check_pinned(names: Sequence[str]) -> None:
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise SeqtrackError(f"data.label_names has {repeated!r} twice", where=str(paths.PARAMS_FILE))


def _check(row: Row, source: Source, known: frozenset[str] | None) -> _Accepted | Defect:
    """Judge one row by itself."""
    columns = source.columns
    text = _text(row, columns.text, "text")
    if isinstance(text, Defect):
        return text
    pair = None if columns.text_pair is None else _text(row, columns.text_pair, "text_pair")
    if isinstance(pair, Defect):
        return pair
    split = source.split
    if columns.split is not None:
        value = row.values.get(columns.split)
        if value is not None and value != "":
            split = split_of_value(value) if isinstance(value, str) else None
            if split is None:
                detail = f"column {columns.split}: {_shown(value)} is none of {', '.join(paths.SPLIT_NAMES)}"
                return Defect(row.line, "unknown_split", detail)
    try:
        label = None if columns.label is None else label_text(row.values.get(columns.label))
    except TypeError as error:
        return Defect(row.line, "wrong_type", f"column {columns.label}: {error}, a label is one value")
    if label is None and split != "test":
        return Defect(row.line, "missing_label", "no value; only rows of the test split may go without")
    if label is not None and known is not None and label not in known:
        return Defect(row.line, "unknown_label", f"column {columns.label}: {_shown(label)} is not in data.label_names")
    return _Accepted(text, pair, label, split)


def _text(row: Row, column: str, part: str) -> str | Defect:
    value = row.values.get(column)
    if isinstance(value, str):
        if value and not value.isspace():
            return value
        return Defect(row.line, f"empty_{part}", f"column {column}: {'only whitespace' if value else 'empty'}")
    if value is None:
        return Defect(row.line, f"empty_{part}", f"column {column}: no value")
    return Defect(row.line, "wrong_type", f"column {column}: {_shown(value)} is not a string")


def _shown(value: object) -> str:
    return shorten(orjson.dumps(value).decode())


class _RowWriter:
    """Writes canonical rows a row group at a time, so that memory does not grow with the texts."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetWriter(path, SCHEMA, compression="zstd", store_schema=True)
        self._columns: dict[str, list[str | int | None]] = {name: [] for name in SCHEMA.names}
        self._append = [self._columns[name].append for name in SCHEMA.names]
        self._seen: Counter[bytes] = Counter()  # rows so far with the same content

    def __enter__(self) -> _RowWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._file.close()

    def write(self, row: _Accepted, source: str, line: int) -> None:
        identity = row_id(*row, 0)
        key = bytes.fromhex(identity)
        if (before := self._seen[key]) > 0:
            identity = row_id(*row, before)
        self._seen[key] = before + 1
        for append, value in zip(self._append, (identity, *row, source, line), strict=True):
            append(value)
        if len(self._columns["line"]) == ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._columns["line"]:
            self._file.write_table(pa.table(self._columns, schema=SCHEMA), row_group_size=ROW_GROUP)
            for column in self._columns.values():
                column.clear()


class _Tally:
    """Counts what passes by, in memory that grows with files, labels and distinct lengths but not with rows."""

    def __init__(self, known: frozenset[str] | None) -> None:
        self.accepted = 0
        self.reasons: Counter[str] = Counter()
        self.label_places: dict[str, str] = {}
        self._known = known
        self._first_place: dict[str, tuple[str, str]] = {}  # reason to place and detail
        self._split_places: dict[str | None, str] = {}
        self._counts: Counter[tuple[str | None, str | None]] = Counter()
        self._lengths: dict[str, Counter[int]] = defaultdict(Counter)
        self._rows: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._tall: Counter[str] = Counter()
        self._fractions = 0

    @property
    def rejected(self) -> int:
        return sum(self.reasons.values())

    def reject(self, source: Source, defect: Defect) -> None:
        self.reasons[defect.reason] += 1
        self._rejected[source.name] += 1
        self._first_place.setdefault(defect.reason, (f"{source.path}:{defect.line}", defect.detail))

    def accept(self, source: Source, origin: Row, row: _Accepted) -> None:
        self.accepted += 1
        self._rows[source.name] += 1
        self._tall[source.name] += origin.lines > 1
        self._counts[row.split, row.label] += 1
        self._lengths["text"][len(row.text)] += 1
        if row.text_pair is not None:
            self._lengths["text_pair"][len(row.text_pair)] += 1
        if row.split not in self._split_places:
            self._split_places[row.split] = f"{source.path}:{origin.line}"
        if row.label is not None and row.label not in self.label_places:
            self.label_places[row.label] = f"{source.path}:{origin.line}"
            self._fractions += self._known is None and is_fraction(row.label)
            if self._fractions > MAX_FRACTIONS:
                raise SeqtrackError(
                    "the labels are numbers on a scale, which is regression; this version does classification only",
                    where=self.label_places[row.label],
                    found=f"{self._fractions} different labels such as {row.label}, in column {source.columns.label}",
                    fix="if they are classes all the same, list them in data.label_names",
                )

    def check(self, limits: Validate, where: str) -> None:
        """Raise when the data as a whole cannot be used."""
        total = self.accepted + self.rejected
        if total == 0:
            raise SeqtrackError("no rows found, only headers", where=where)
        if self.rejected > limits.max_rejected_ratio * total or self.accepted == 0:
            reason, count = min(self.reasons.items(), key=lambda item: (-item[1], item[0]))
            place, detail = self._first_place[reason]
            raise SeqtrackError(
                f"{self.rejected:,} of {total:,} rows ({self.rejected / total:.1%}) are rejected, most of them "
                f"({count:,}) as {reason}; the first of those: {detail}",
                where=place,
                expected=f"at most {limits.max_rejected_ratio:.1%} (validate.max_rejected_ratio)",
                found=", ".join(f"{name} {n:,}" for name, n in sorted(self.reasons.items())),
                fix="mend the files, or raise the limit to go on without these rows",
            )
        if None in self._split_places and len(self._split_places) > 1:
            raise SeqtrackError(
                "some rows name a split and some do not",
                where=self._split_places[None],
                found="no split here, one at " + next(at for split, at in self._split_places.items() if split),
                fix="fill the split column for all rows or for none",
            )
        if twins := spelled_twice(self.label_places):
            raise SeqtrackError(
                f"labels {twins[0]!r} and {twins[1]!r} mean the same",
                where=self.label_places[twins[1]],
                found=f"the first at {self.label_places[twins[0]]}",
                fix="write them alike in all files",
            )
        if len(self.label_places) < 2:
            raise SeqtrackError(
                "a classifier needs rows of at least 2 classes",
                where=where,
                found=", ".join(f"only {name!r}" for name in self.label_places) or "no labelled row",
                fix="check the label column (data.label), or add rows of another class",
            )

    def report(self, sources: Sequence[Source], labels: LabelSet, data: Data) -> ValidationReport:
        """Sum up."""
        files = tuple(
            FileReport(
                source=source.name,
                format=source.format.name,
                notes=source.shape.notes,
                columns=source.shape.columns,
                split=source.split,
                rows=self._rows[source.name],
                rejected=self._rejected[source.name],
                rows_over_several_lines=self._tall[source.name],
            )
            for source in sources
        )
        order: list[str | None] = [*labels.names, None]
        counts = tuple(
            SplitLabelCount(split=split, label=label, rows=self._counts[split, label])
            for split in (*paths.SPLIT_NAMES, None)
            for label in order
            if self._counts[split, label]
        )
        columns = next(source.columns for source in sources if source.columns.label is not None)
        return ValidationReport(
            rows=self.accepted,
            rejected=dict(self.reasons),
            files=files,
            columns=columns,
            classes=labels.names,
            counts=counts,
            lengths={name: _lengths(lengths) for name, lengths in self._lengths.items()},
            inferred=(*_inferred(sources, columns, data), *_spread(files)),
        )


def _lengths(counts: Counter[int]) -> Lengths:
    total = counts.total()
    ordered = sorted(counts)

    def percentile(percent: int) -> int:
        rank, below = -(-total * percent // 100), 0
        for length in ordered:
            below += counts[length]
            if below >= rank:
                return length
        raise AssertionError(percent)

    return Lengths(
        shortest=ordered[0],
        mean=round(sum(length * count for length, count in counts.items()) / total, 2),
        median=percentile(50),
        p95=percentile(95),
        longest=ordered[-1],
    )


def _spread(files: Sequence[FileReport]) -> Iterator[str]:
    """Say where parsed rows are fewer than physical lines: right for quoted line ends, wrong after a stray quote."""
    for file in files:
        if file.rows_over_several_lines:
            yield f"{file.source}: {file.rows_over_several_lines:,} rows take several lines, their line ends quoted"


def _inferred(sources: Sequence[Source], columns: Columns, data: Data) -> Iterator[str]:
    """Say what was concluded, and from what."""
    for part, key, mapped in (
        ("text", "data.text", data.text),
        ("text_pair", "data.text_pair", data.text_pair),
        ("label", "data.label", data.label),
    ):
        name = getattr(columns, part)
        if name is None:
            yield f"no {part}: no column has a name that means it"
        else:
            yield f"{part} is column {name!r}: " + (f"{key} says so" if mapped else "found by its name")
    used = {name for source in sources for name in asdict(source.columns).values()}
    unused = {name: None for source in sources for name in source.shape.columns if name not in used}
    if unused:
        yield f"columns not used: {', '.join(shorten(name, 30) for name in unused)}"
    if columns.split is not None:
        yield f"splits are read from column {columns.split!r}"
    elif sources[0].split is not None:
        yield "splits are read from the file names"
    else:
        yield "no splits: neither the file names nor a column name them"
    if data.label_names is not None:
        yield "classes and their order: data.label_names says so"
    else:
        yield "classes: the labels that occur, in natural order (numbers by value)"
    yield "task: single-label classification"
