"""Reading delimited text: CSV, TSV and files with one text a line.

Promises: values are exactly what the file holds; a row that is not like the others is a defect with its line, and a
quote that hides the rest of the file is an error.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from pipeline import reading_base
from pipeline.errors import SeqtrackError
from pipeline.params import Data
from pipeline.reading_base import Defect, Format, Row, Shape
from pipeline.reading_bytes import Lines
from pipeline.reading_dialect import Dialect, dialect_of, split_line


def delimited(name: str, data: Data) -> Format:
    """Return the format of delimited text.

    Args:
        name: what to call it in reports.
        data: the settings that may fix parts of the dialect.
    """
    return Format(name=name, shape=partial(_shape, data=data), rows=partial(_rows, data=data))


def _shape(path: Path, data: Data) -> Shape:
    dialect = dialect_of(path, data)
    return Shape(columns=dialect.columns, notes=dialect.notes)


def _rows(path: Path, data: Data) -> Iterator[Row | Defect]:
    dialect = dialect_of(path, data)
    lines = Lines(path, dialect.encoding)
    return _quoted_rows(path, dialect, lines) if dialect.quoted else _plain_rows(dialect, lines)


def _plain_rows(dialect: Dialect, lines: Lines) -> Iterator[Row | Defect]:
    header = dialect.header
    for line in lines:
        if fields := split_line(line, dialect.delimiter):
            if header:
                header = False
            else:
                yield _row(dialect, fields, lines.count, lines)
        lines.undecodable = None


def _quoted_rows(path: Path, dialect: Dialect, lines: Lines) -> Iterator[Row | Defect]:
    csv.field_size_limit(reading_base.MAX_FIELD)
    # Strict: half-quoted fields are defects to name, where the default silently changes the text.
    reader = csv.reader(lines, delimiter=dialect.delimiter or ",", strict=True)
    header = dialect.header
    while True:
        line = lines.count + 1
        lines.undecodable = None
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if lines.exhausted or "field limit" in str(error):
                raise SeqtrackError(
                    "a quote opened in this row is never closed, which hides every row after it",
                    where=f"{path}:{line}",
                    fix='close it, write quotes that belong to the text as "" inside a quoted field, or set '
                    "data.quoting: none if quotes are part of the text in all of the file",
                ) from None
            span = f"line {line}" if lines.count == line else f"lines {line} to {lines.count}"
            yield Defect(line, "malformed_csv", f"{span}: {error}")
            continue
        if fields and header:
            header = False
        elif fields:
            yield _row(dialect, fields, line, lines)


def _row(dialect: Dialect, fields: Sequence[str], line: int, lines: Lines) -> Row | Defect:
    if lines.undecodable:
        return Defect(line, "undecodable", lines.undecodable)
    columns = dialect.columns
    if len(fields) != len(columns) and len(fields) not in dialect.widths:
        than = "the header has" if dialect.header else "most rows have"
        return Defect(line, "ragged", f"{len(fields)} fields, {than} {len(columns)}")
    return Row(line, lines.count - line + 1, dict(zip(columns, fields, strict=False)))
