"""Turning a user's files into canonical rows: the only place that decides whether a row is fit for use.

Promises: each row of each file is either written, its text exactly as given, or rejected with file, line and reason;
rows stream through in bounded memory; a mistake that spoils the whole raises before anything is in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from pipeline import paths
from pipeline.checks import REJECTING, judge
from pipeline.checks_run import findings_on_the_whole
from pipeline.checks_text import TextFacts, mojibake_snippet, text_facts, unusual_snippet
from pipeline.checks_told import failed, failure
from pipeline.columns import split_of_value, write_columns
from pipeline.errors import SeqtrackError
from pipeline.input_files import InputFile, find_input_files
from pipeline.label_index import LabelIndex, settle, with_canonical_numbers
from pipeline.labels import is_number, joined, label_text, label_texts, written_list
from pipeline.outputs import write_manifest
from pipeline.params import Data, Policy, Validate
from pipeline.reading import Defect, Row, shorten
from pipeline.row_facts import FactsBuilder, RowFacts
from pipeline.row_sample import RowSampler
from pipeline.row_store import Batch, Kept, RowWriter, relabel
from pipeline.validation_report import ChecksFailedError, ValidationReport, build_report
from pipeline.validation_tally import Tally

BATCH: Final = 8_192  # rows looked at together: enough for vectorised checks, little enough for long texts


class _Accepted(NamedTuple):
    """A row that is fit by itself; the fields are Batch's columns."""

    source: str
    text: str
    text_pair: str | None
    label: str | None
    split: str | None
    line: int
    group: str | None
    time: str | None
    kept: Kept | None


class _Rejected(NamedTuple):
    """A row that is not: the how manieth of its chunk, and why."""

    position: int
    source: str
    defect: Defect


@dataclass(kw_only=True)
class _Chunk:
    """Some rows of one file, judged.

    Attributes:
        batch: the accepted ones. Columns, not rows: so many small objects at once would keep the garbage collector
            busy for a quarter of the time that all else takes.
        positions: how manieth of the chunk each of them is.
        rejected: the others, by position.
        tall: how many rows take several lines.
    """

    batch: Batch
    positions: list[int]
    rejected: list[_Rejected]
    tall: int


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What is remembered of the rows that passed by; `lists` has the labels that stand for several classes."""

    tally: Tally
    facts: FactsBuilder
    sampler: RowSampler
    lists: set[str]


def validate(data: Data, limits: Validate, folder: Path) -> ValidationReport:
    """Read what data.path stands for, check it and write canonical rows.

    Args:
        data: which files, and what their columns mean.
        limits: how much may be rejected, and what each check does when it finds something.
        folder: an empty folder; gets rows.parquet, labels.json, columns.json, rejected.jsonl and manifest.json.

    Raises:
        ChecksFailedError: too many rows are rejected, or a check finds something under policy error.
        SeqtrackError: `find_input_files` or `label_index.settle` does, there is no row, or only some rows name a split.
    """
    files = find_input_files(data)
    if data.label_names is not None:
        _check_pinned(data.label_names)
    seen = _stream(files, data, limits.policy, folder)
    tally = seen.tally
    if tally.accepted + tally.rejected == 0:
        raise SeqtrackError("no rows found, only headers", where=data.path)
    findings = tally.findings()
    if too_many := tally.too_many_rejected(limits):
        checks = judge(findings, limits.policy)
        raise ChecksFailedError(build_report(files, data, tally, checks, None, None), too_many)
    tally.check_splits()
    facts, index = _settle(seen, data, folder / paths.ROWS.name)
    wanted = {name for name, action in limits.policy.model_dump(by_alias=True).items() if action != "off"}
    findings |= findings_on_the_whole(facts, seen.sampler, index, folder / paths.ROWS.name, wanted)
    report = build_report(files, data, tally, judge(findings, limits.policy), facts, index)
    if failures := failed(report.checks):
        name = failures[0].name
        setting = f"validate.policy.{name}: {'drop' if name in REJECTING else 'warn'}"
        raise ChecksFailedError(report, failure(failures, data.path, setting))
    index.label_set().write(folder / paths.LABELS.name)
    write_columns(folder / paths.COLUMNS.name, report.columns)
    write_manifest(
        folder,
        inputs={file.name: file.format.digest(file.path) for file in files},
        # Neither data.path and data.pattern nor the limits: what they do to the rows shows in the digests, and moving
        # the files or loosening a limit re-runs this stage but none after it.
        params=data.model_dump(mode="json", exclude={"path", "pattern"}),
        rows={"accepted": tally.accepted, "rejected": tally.rejected},
    )
    return report


def _settle(seen: _Seen, data: Data, rows: Path) -> tuple[RowFacts, LabelIndex]:
    """Tell what the labels mean, at least one row being accepted; numbers of regression are then written alike."""
    facts = seen.facts.build()
    index = settle(facts, seen.lists, data, seen.tally.label_places)
    if index.is_regression:
        facts, renamed = with_canonical_numbers(facts)
        if any(old != new for old, new in renamed.items()):
            relabel(rows, renamed)
    return facts, index


def _stream(files: Iterable[InputFile], data: Data, policy: Policy, folder: Path) -> _Seen:
    """Read, judge and write all rows; return what is remembered of them."""
    known = None if data.label_names is None else frozenset(data.label_names)
    seen = _Seen(tally=Tally(), facts=FactsBuilder(), sampler=RowSampler(), lists=set())
    with (
        RowWriter(folder / paths.ROWS.name) as writer,
        (folder / paths.REJECTED.name).open("wb") as rejected,
    ):
        for file in files:
            for chunk in _chunks(file, data, known, seen.lists):
                looks = _look(chunk, policy, seen.tally)
                for _, source, defect in chunk.rejected:
                    seen.tally.reject(file, source, defect)
                    entry = {"source": source, "line": defect.line, "reason": defect.reason, "detail": defect.detail}
                    rejected.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
                if looks is not None:
                    seen.tally.accept(file, looks.batch, chunk.tall)
                    seen.facts.add(looks.batch, looks.text, looks.pair)
                    seen.sampler.add(looks.batch)
                    writer.write(looks.batch)
    return seen


def _chunks(file: InputFile, data: Data, known: frozenset[str] | None, lists: set[str]) -> Iterator[_Chunk]:
    """Read a file and judge its rows one by one; `lists` gets the labels that stand for several classes."""
    rows = file.format.rows(file.path)
    while True:
        batch = Batch([], [], [], [], [], [], [], [], [])
        appends: list[Callable[[Any], None]] = [column.append for column in batch]
        chunk = _Chunk(batch=batch, positions=[], rejected=[], tall=0)
        for position, row in enumerate(islice(rows, BATCH)):
            verdict = row if isinstance(row, Defect) else _check(row, file, data, known, lists)
            if isinstance(verdict, Defect):
                chunk.rejected.append(_Rejected(position, file.source(row.file), verdict))
                continue
            for append, value in zip(appends, verdict, strict=True):
                append(value)
            chunk.positions.append(position)
            chunk.tall += isinstance(row, Row) and row.lines > 1
        if not chunk.positions and not chunk.rejected:
            return
        yield chunk


class _Looks(NamedTuple):
    """Rows that are fit for use, at least one, and how their texts look."""

    batch: Batch
    text: TextFacts
    pair: TextFacts | None


def _look(chunk: _Chunk, policy: Policy, tally: Tally) -> _Looks | None:
    """Look at the texts of accepted rows, all at once; those that policy drops join the rejected ones."""
    batch = chunk.batch
    if not batch.texts:
        return None
    text = text_facts(batch.texts)
    pairs = [side for side in batch.pairs if side is not None]  # all of them or none
    pair = text_facts(pairs) if pairs else None
    keep = np.ones(len(batch.texts), bool)
    for check, action, flag, show in (
        ("mojibake", policy.mojibake, "mojibake", mojibake_snippet),
        ("characters", policy.characters, "unusual", unusual_snippet),
    ):
        if action == "off":
            continue
        in_text = getattr(text, flag)
        mask = in_text if pair is None else in_text | getattr(pair, flag)
        for number in np.flatnonzero(mask & keep).tolist():
            found = batch.texts[number] if in_text[number] else pairs[number]
            source, line = batch.sources[number], batch.lines[number]
            if action == "drop":
                defect = Defect(line, check, show(found))
                chunk.rejected.append(_Rejected(chunk.positions[number], source, defect))
                keep[number] = False
            else:
                tally.notice(check, source, line, partial(show, found))
    chunk.rejected.sort(key=itemgetter(0))
    if keep.all():
        return _Looks(batch, text, pair)
    if not keep.any():
        return None
    return _Looks(batch.where(keep), text.where(keep), pair and pair.where(keep))


def _check_pinned(names: Sequence[str]) -> None:
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise SeqtrackError(f"data.label_names has {repeated!r} twice", where=str(paths.PARAMS_FILE))


def _check(row: Row, file: InputFile, data: Data, known: frozenset[str] | None, lists: set[str]) -> _Accepted | Defect:
    """Judge one row by itself."""
    columns = file.columns
    values = row.values
    text = _text(row, columns.text, "text")
    if isinstance(text, Defect):
        return text
    pair = None if columns.text_pair is None else _text(row, columns.text_pair, "text_pair")
    if isinstance(pair, Defect):
        return pair
    split = file.split
    if columns.split is not None:
        value = values.get(columns.split)
        if value is not None and value != "":
            split = split_of_value(value) if isinstance(value, str) else None
            if split is None:
                detail = f"column {columns.split}: {_shown(value)} is none of {', '.join(paths.SPLIT_NAMES)}"
                return Defect(row.line, "unknown_split", detail, row.file)
    label = None if columns.label is None else _label(row, columns.label, data, known, lists)
    if isinstance(label, Defect):
        return label
    if label is None and split != "test":
        return Defect(row.line, "missing_label", "no value; only rows of the test split may go without", row.file)
    group = time = None
    if data.group_by is not None or data.time is not None:
        try:
            group = None if data.group_by is None else label_text(values.get(data.group_by))
            time = None if data.time is None else label_text(values.get(data.time))
        except TypeError as error:
            return Defect(row.line, "wrong_type", f"data.group_by or data.time: {error}, not one value", row.file)
    kept = _kept(row, data.keep_columns) if data.keep_columns else None
    if isinstance(kept, Defect):
        return kept
    return _Accepted(file.source(row.file), text, pair, label, split, row.line, group, time, kept)


def _label(row: Row, column: str, data: Data, known: frozenset[str] | None, lists: set[str]) -> str | Defect | None:
    value = row.values.get(column)
    if data.label_delimiter is None and data.problem_type in {None, "multi_label_classification"}:
        value = written_list(value)
    try:
        said = label_texts(value, data.label_delimiter)
    except TypeError as error:
        return Defect(row.line, "wrong_type", f"column {column}: {error} is no label", row.file)
    if said is None:
        return None
    if data.problem_type == "multi_label_classification":
        said = (said,) if isinstance(said, str) else said
    elif data.problem_type is not None and isinstance(said, tuple):
        return Defect(row.line, "wrong_type", f"column {column}: a list, and the task takes one label", row.file)
    if known is not None:
        for name in (said,) if isinstance(said, str) else said:
            if name not in known:
                detail = f"column {column}: {_shown(name)} is not in data.label_names"
                return Defect(row.line, "unknown_label", detail, row.file)
    if isinstance(said, tuple):
        label = joined(said)
        lists.add(label)
        return label
    if data.problem_type == "regression" and not is_number(said):
        return Defect(
            row.line, "not_a_number", f"column {column}: {_shown(said)}, and the task is regression", row.file
        )
    return said


def _kept(row: Row, names: Sequence[str]) -> Kept | Defect:
    kept = []
    for name in names:
        try:
            kept.append((name, label_text(row.values.get(name))))
        except TypeError as error:
            detail = f"data.keep_columns: column {name}: {error}, not one value"
            return Defect(row.line, "wrong_type", detail, row.file)
    return kept


def _text(row: Row, column: str, part: str) -> str | Defect:
    value = row.values.get(column)
    if isinstance(value, str):
        if value and not value.isspace():
            return value
        detail = f"column {column}: {'only whitespace' if value else 'empty'}"
    elif value is None:
        detail = f"column {column}: no value"
    else:
        return Defect(row.line, "wrong_type", f"column {column}: {_shown(value)} is not a string", row.file)
    return Defect(row.line, f"empty_{part}", detail, row.file)


def _shown(value: object) -> str:
    return shorten(orjson.dumps(value).decode())
