"""What validate found, decided and concluded: as JSON, as tables and as two lines.

Promises: the report holds all that the tables show; equal files give equal bytes of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import paths
from pipeline.checks import CheckResult
from pipeline.checks_told import show_checks
from pipeline.columns import Columns, is_made_up
from pipeline.console import table
from pipeline.errors import SeqtrackError
from pipeline.input_files import InputFile
from pipeline.label_index import LabelIndex
from pipeline.outputs import Json
from pipeline.params import Data
from pipeline.reading_base import shorten
from pipeline.row_facts import SPLITS, UNLABELLED, RowFacts
from pipeline.tasks import ProblemType
from pipeline.validation_tally import FileCounts, Tally


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
    """Lengths of texts. Percentiles are lengths that occur (nearest rank)."""

    shortest: int
    mean: float
    median: int
    p95: int
    longest: int


@dataclass(frozen=True, kw_only=True)
class ValidationReport:
    """What validate found and decided.

    Attributes:
        rows: rows written, or that would have been, had no check failed.
        rejected: rows rejected, by reason.
        columns: which column plays which part, in the first file that has a label.
        problem_type: the task, transformers' name for it; None where a check failed before it was settled.
        classes: the label set in id order; none in regression.
        counts: rows by split and class; rows of several classes count in each, all numbers of regression as one.
        lengths: in characters, by column (`text`, and `text_pair` in pair data).
        words: lengths in words, by column; each character of a script without spaces is one.
        checks: all of them, in the order of checks.NAMES.
        inferred: what was concluded from what, a sentence each.
    """

    rows: int
    rejected: dict[str, int]
    files: tuple[FileReport, ...]
    columns: Columns
    problem_type: ProblemType | None
    classes: tuple[str, ...]
    counts: tuple[SplitLabelCount, ...]
    lengths: dict[str, Lengths]
    words: dict[str, Lengths]
    checks: tuple[CheckResult, ...]
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
        kind = "for regression" if self.problem_type == "regression" else f"of {len(self.classes)} classes"
        statuses = Counter(check.status for check in self.checks)
        checks = ", ".join(f"{statuses[status]} {status}" for status in ("fail", "warn", "pass", "off"))
        return (
            f"{self.rows:,} rows {kind}, text from column {text}, label from column {self.columns.label}: "
            f"{shares}{more}",
            f"checks: {checks}; rejected: {reasons}; details in {paths.REPORTS / 'validation.json'} and "
            f"{paths.REJECTED}",
        )


class ChecksFailedError(SeqtrackError):
    """The data are readable but not fit for use, as `report` tells in full.

    Args:
        report: all that was found.
        error: what to say in one line.
    """

    def __init__(self, report: ValidationReport, error: SeqtrackError) -> None:
        super().__init__(error.problem, where=error.where, expected=error.expected, found=error.found, fix=error.fix)
        self.report = report


def show(report: ValidationReport) -> None:
    """Print the files and the checks as tables, and the examples of the checks that fail."""
    table(
        "Files",
        ("file", "format", "split", "rows", "rejected"),
        [
            (file.source, file.format, file.split or "-", f"{file.rows:,}", f"{file.rejected:,}")
            for file in report.files
        ],
    )
    show_checks(report.checks)


def build_report(
    files: Sequence[InputFile],
    data: Data,
    tally: Tally,
    checks: tuple[CheckResult, ...],
    facts: RowFacts | None,
    index: LabelIndex | None,
) -> ValidationReport:
    """Put together what was found.

    Args:
        files: what data.path stands for.
        data: the settings they were read with.
        tally: has counted all rows.
        checks: all of them, judged.
        facts: of the accepted rows; None where too few were accepted to look at them as a whole.
        index: what their labels mean; None where facts is.
    """
    counts = {file.name: tally.file_counts(file) for file in files}
    columns = next((file.columns for file in files if file.columns.label is not None), files[0].columns)
    return ValidationReport(
        rows=tally.accepted,
        rejected=dict(tally.reasons),
        files=tuple(
            FileReport(
                source=file.name,
                format=file.format.name,
                notes=file.shape.notes,
                columns=file.shape.columns,
                split=file.split,
                rows=counts[file.name].rows,
                rejected=counts[file.name].rejected,
                rows_over_several_lines=counts[file.name].tall,
            )
            for file in files
        ),
        columns=columns,
        problem_type=None if index is None else index.task.problem_type,
        classes=() if index is None else index.classes,
        counts=() if facts is None or index is None else count_by_split_and_label(facts, index),
        lengths={} if facts is None else {name: lengths(sizes) for name, sizes in facts.sizes().items()},
        words={} if facts is None else {name: lengths(sizes) for name, sizes in facts.sizes_in_words().items()},
        checks=checks,
        inferred=(*inferred(files, columns, data, index), *spread(counts)),
    )


def lengths(sizes: NDArray[np.uint32]) -> Lengths:
    """Sum up lengths, shape (rows,), at least one."""
    ordered = np.sort(sizes)

    def percentile(percent: int) -> int:
        return int(ordered[-(-percent * len(ordered) // 100) - 1])

    return Lengths(
        shortest=int(ordered[0]),
        mean=round(int(ordered.sum(dtype=np.int64)) / len(ordered), 2),
        median=percentile(50),
        p95=percentile(95),
        longest=int(ordered[-1]),
    )


def count_by_split_and_label(facts: RowFacts, index: LabelIndex) -> tuple[SplitLabelCount, ...]:
    """Count rows by split and class, in their orders, unlabelled ones last; what has none is left out."""
    counts = []
    for number, split in enumerate(SPLITS):
        rows = facts.splits == number
        labelled = facts.label_counts(rows)
        if index.is_regression:
            by_class = {"any number": int(labelled.sum())}
        else:
            by_class = dict(zip(index.classes, index.class_counts(labelled).tolist(), strict=True))
        unlabelled = int((facts.labels[rows] == UNLABELLED).sum())
        for label, count in (*by_class.items(), (None, unlabelled)):
            if count:
                counts.append(SplitLabelCount(split=split, label=label, rows=count))
    return tuple(counts)


def inferred(files: Sequence[InputFile], columns: Columns, data: Data, index: LabelIndex | None) -> Iterator[str]:
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
            found = "told by its values" if is_made_up(name) else "found by its name"
            yield f"{part} is column {name!r}: " + (f"{key} says so" if mapped else found)
    used = {name for file in files for name in asdict(file.columns).values()}
    unused = {name: None for file in files for name in file.shape.columns if name not in used}
    if unused:
        yield f"columns not used: {', '.join(shorten(name, 30) for name in unused)}"
    if columns.split is not None:
        yield f"splits are read from column {columns.split!r}"
    elif files[0].split is not None:
        yield "splits are read from the file names"
    else:
        yield "no splits: neither the file names nor a column name them"
    if index is None or index.is_regression:
        pass
    elif data.label_names is not None:
        yield "classes and their order: data.label_names says so"
    else:
        yield "classes: the labels that occur, in natural order (numbers by value)"
    if index is not None:
        yield f"task: {index.task.problem_type.replace('_', ' ')}, since {index.task.reason}"


def spread(counts: Mapping[str, FileCounts]) -> Iterator[str]:
    """Say where parsed rows are fewer than physical lines: right for quoted line ends, wrong after a stray quote."""
    for name, file in counts.items():
        if file.tall:
            yield f"{name}: {file.tall:,} rows take several lines, their line ends quoted"
