"""Reading data files as they are found: CSV, TSV and JSON Lines, in UTF-8 with or without a byte order mark.

Promises: every row of a file comes out once, in order and in bounded memory, either as values under column names or as
a defect with its reason, each with the physical line it starts on; values are exactly what the file holds. A format is
one entry in FORMATS: a function that describes a file and one that iterates over its rows.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from pipeline.errors import SeqtrackError

# A quote that is never closed swallows the rest of its file: this many characters in, it is an error. No text that an
# encoder reads is as long. The default of 131,072 is not out of reach for a contract or a book chapter.
MAX_FIELD: Final = 2**24


# Named tuples here, where all else is a frozen dataclass: there is one for each row of the data, and they cost a third.
class Row(NamedTuple):
    """Values under column names.

    Attributes:
        line: the first physical line of the row in its file, from 1.
        lines: physical lines it takes; more than 1 where a quoted CSV field holds line ends.
        values: str in CSV and TSV, any JSON value in JSON Lines.
    """

    line: int
    lines: int
    values: dict[str, Any]


class Defect(NamedTuple):
    """A row that cannot be used.

    Attributes:
        line: the first physical line of the row in its file, from 1.
        reason: a name to count by, for example `ragged`.
        detail: what is wrong with this very row.
    """

    line: int
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a file is, known before its rows are read.

    Attributes:
        columns: column names as written, in file order (JSON Lines: in order of first appearance in any row).
        notes: how the file is read, in words, for the report.
    """

    columns: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Format:
    """How files of one kind are read.

    Attributes:
        shape: describes a file. Raises SeqtrackError when the file as a whole is unreadable.
        rows: iterates over a file that `shape` accepted. Raises SeqtrackError where nothing after a row can be read.
    """

    name: str
    shape: Callable[[Path], Shape]
    rows: Callable[[Path], Iterator[Row | Defect]]


def format_of(path: Path) -> Format:
    """Return the format of a file, by its extension.

    Raises:
        SeqtrackError: no format has this extension.
    """
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise SeqtrackError(
            "unknown file format",
            where=str(path),
            expected="a file that ends in " + ", ".join(FORMATS),
            found=path.suffix or "no extension",
            fix="convert the file, or rename it to what it is",
        ) from None


def find_files(path: Path) -> list[Path]:
    """Return the data files that a path stands for: itself, or those directly in it that have a known extension.

    Returns:
        The files sorted by name; hidden ones and those of other kinds are passed over.

    Raises:
        SeqtrackError: nothing is there, or no file in the folder has a known extension.
    """
    if path.is_file():
        format_of(path)
        return [path]
    if not path.is_dir():
        raise SeqtrackError(
            "no such file or folder", where=str(path), fix="set data.path in params.yaml to your file or folder"
        )
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    known = [file for file in files if file.suffix.lower() in FORMATS]
    if not known:
        raise SeqtrackError(
            "no data file in this folder",
            where=str(path),
            expected="files that end in " + ", ".join(FORMATS),
            found=shorten(", ".join(file.name for file in files), 200) or "no file at all",
            fix="point data.path at your files, or let fetch.source (sample, hub) provide some",
        )
    return known


def shorten(text: str, width: int = 60) -> str:
    """Return at most `width` characters of a text, for use inside a message."""
    return text if len(text) <= width else text[: width - 1] + "…"


class _Lines:
    """The physical lines of a file as text, line ends included; an iterator that csv.reader can pull from.

    Bytes that are not UTF-8 become lone surrogates and set `undecodable`, which the reader of rows clears; so a bad
    byte costs the one row it stands in.
    """

    def __init__(self, path: Path) -> None:
        self.count = 0  # lines handed out
        self.exhausted = False
        self.undecodable: str | None = None
        self._lines = _byte_lines(path)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        try:
            line = next(self._lines)
        except StopIteration:
            self.exhausted = True
            raise
        self.count += 1
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            self.undecodable = f"byte 0x{line[error.start]:02x} at {error.start} of line {self.count} is not UTF-8"
            return line.decode("utf-8", "surrogateescape")


def _byte_lines(path: Path) -> Iterator[bytes]:
    """Yield lines that end in LF, the byte order mark left out.

    Raises:
        SeqtrackError: the file is UTF-16.
    """
    with path.open("rb") as stream:
        first = stream.readline()
        if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise SeqtrackError(
                "the file is UTF-16", where=f"{path}:1", expected="UTF-8", fix="save it as UTF-8 and run again"
            )
        if first:
            yield first.removeprefix(codecs.BOM_UTF8)
        yield from stream


def _has_bom(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(3) == codecs.BOM_UTF8


def _encoding_note(path: Path) -> str:
    return "UTF-8 with a byte order mark" if _has_bom(path) else "UTF-8"


# --- CSV and TSV -----------------------------------------------------------------------------------------------------


def _delimiter(path: Path) -> str:
    """Tell by the first line that is not blank: a comma, or else a tab or a semicolon, as spreadsheets write."""
    header = next((line for line in _Lines(path) if line.strip()), "")
    return next((mark for mark in ",\t;" if mark in header), ",")


def _csv_shape(path: Path) -> Shape:
    delimiter = _delimiter(path)
    if delimiter == "\t":
        return _tsv_shape(path)
    lines = _Lines(path)
    try:
        header = next((fields for fields in _csv_reader(lines, delimiter) if fields), [])
    except csv.Error as error:
        raise SeqtrackError(f"the header cannot be read: {error}", where=f"{path}:1") from None
    names = {",": "comma", ";": "semicolon"}
    return Shape(
        columns=_checked_header(path, header, lines),
        notes=(_encoding_note(path), f"{names[delimiter]}-separated, quotes delimit fields"),
    )


def _csv_reader(lines: _Lines, delimiter: str) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_FIELD)
    # Strict: half-quoted fields are defects to name, where the default silently changes the text.
    return csv.reader(lines, delimiter=delimiter, strict=True)


def _csv_rows(path: Path) -> Iterator[Row | Defect]:
    delimiter = _delimiter(path)
    if delimiter == "\t":
        yield from _tsv_rows(path)
        return
    lines = _Lines(path)
    reader = _csv_reader(lines, delimiter)
    header = next(fields for fields in reader if fields)
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
                    fix='close it, or write quotes that belong to the text as "" inside a quoted field',
                ) from None
            span = f"line {line}" if lines.count == line else f"lines {line} to {lines.count}"
            yield Defect(line, "malformed_csv", f"{span}: {error}")
            continue
        if fields:
            yield _row(header, fields, line, lines)


def _tsv_shape(path: Path) -> Shape:
    lines = _Lines(path)
    header = next((fields for fields in map(_tsv_fields, lines) if fields), [])
    return Shape(
        columns=_checked_header(path, header, lines),
        notes=(_encoding_note(path), "tab-separated, quotes are part of the text"),
    )


def _tsv_fields(line: str) -> list[str]:
    """Split at tabs and nothing else: in GLUE's files a quote is a character of the text. A blank line has no field."""
    bare = line.removesuffix("\n").removesuffix("\r")
    return bare.split("\t") if bare else []


def _tsv_rows(path: Path) -> Iterator[Row | Defect]:
    lines = _Lines(path)
    header = next(fields for fields in map(_tsv_fields, lines) if fields)
    lines.undecodable = None
    for line in lines:
        if fields := _tsv_fields(line):
            yield _row(header, fields, lines.count, lines)
        lines.undecodable = None


def _row(header: Sequence[str], fields: Sequence[str], line: int, lines: _Lines) -> Row | Defect:
    if lines.undecodable:
        return Defect(line, "undecodable", lines.undecodable)
    if len(fields) != len(header):
        return Defect(line, "ragged", f"{len(fields)} fields, the header has {len(header)}")
    return Row(line, lines.count - line + 1, dict(zip(header, fields, strict=True)))


def _checked_header(path: Path, header: Sequence[str], lines: _Lines) -> tuple[str, ...]:
    where = f"{path}:{max(lines.count, 1)}"
    if not header:
        raise SeqtrackError("the file is empty", where=str(path), fix="delete it or fill it")
    if lines.undecodable:
        raise SeqtrackError(
            "the header is not UTF-8", where=where, found=lines.undecodable, fix="save the file as UTF-8 and run again"
        )
    if any("\0" in name for name in header):
        raise SeqtrackError("the header holds NUL bytes; this is no text file, or UTF-16", where=where)
    if any("\r" in name for name in header):
        raise SeqtrackError(
            "lines end in bare carriage returns", where=where, fix="save the file with LF or CRLF line ends"
        )
    names = [name for name in header if name]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise SeqtrackError(
            f"column {shorten(repeated)!r} stands twice in the header",
            where=where,
            fix="rename one of them; a file without a header line needs one",
        )
    return tuple(header)


# --- JSON Lines ------------------------------------------------------------------------------------------------------


def _jsonl_rows(path: Path) -> Iterator[Row | Defect]:
    for number, line in enumerate(_byte_lines(path), start=1):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield _why_not_json(number, line, error)
            continue
        if isinstance(value, dict):
            yield Row(number, 1, value)
        else:
            yield Defect(number, "not_an_object", f"a JSON {_json_type(value)}: {shorten(line.decode().strip())}")


def _why_not_json(number: int, line: bytes, error: orjson.JSONDecodeError) -> Defect:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as bad:
        return Defect(number, "undecodable", f"byte 0x{line[bad.start]:02x} at {bad.start} of the line is not UTF-8")
    return Defect(number, "invalid_json", f"{error.msg} at column {error.colno}")


def _json_type(value: Any) -> str:
    names = {list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _jsonl_shape(path: Path) -> Shape:
    """Read the whole file for its keys: a key may first appear in the last row, and skipping it would lose labels."""
    columns: dict[str, None] = {}
    defect: Defect | None = None
    for row in _jsonl_rows(path):
        if isinstance(row, Row):
            columns.update(dict.fromkeys(row.values))
        else:
            defect = defect or row
    if not columns:
        raise SeqtrackError(
            f"no row can be read ({defect.reason}: {defect.detail})" if defect else "the file is empty",
            where=f"{path}:{defect.line}" if defect else str(path),
            expected="one JSON object a line",
        )
    return Shape(columns=tuple(columns), notes=(_encoding_note(path), "one JSON object a line"))


_CSV = Format(name="CSV", shape=_csv_shape, rows=_csv_rows)
_TSV = Format(name="TSV", shape=_tsv_shape, rows=_tsv_rows)
_JSONL = Format(name="JSON Lines", shape=_jsonl_shape, rows=_jsonl_rows)

FORMATS: Final[dict[str, Format]] = {
    ".csv": _CSV,
    ".tsv": _TSV,
    ".jsonl": _JSONL,
    ".ndjson": _JSONL,
    ".json-lines": _JSONL,
}
