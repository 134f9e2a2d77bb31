"""Finding out how delimited text is written: delimiter, quoting, header line, and what columns without names hold.

Promises: params.yaml decides where it speaks; else a sample from the start of the file does, always alike; columns
without names are given parts only where one reading alone makes sense, else the error holds the setting to write.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import dropwhile, islice
from pathlib import Path
from typing import Final

from pipeline.columns import KNOWN_NAMES, fold, made_up_name
from pipeline.errors import SeqtrackError
from pipeline.params import Data
from pipeline.reading_base import MAX_FIELD, shorten
from pipeline.reading_bytes import SAMPLE, Encoding, Lines, byte_lines, encoding_of, stem_and_suffix

MARKS: Final = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}
_SAMPLE_LINES: Final = 2_000
_MOST_CUT: Final = 50  # lines of a quoted field that a sample may end in
_MIN_SHARE: Final = 0.01  # of all rows: field counts rarer than this are stray delimiters, not a way of writing rows

# RFC 4180 with any delimiter: a sample that matches as a whole was written by something that quotes.
_QUOTED: Final = r'"(?:[^"]|"")*+"'
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?")
_HAN: Final = re.compile(r"[\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af]")
_SENTENCE: Final = re.compile(r"[.,;:!?\"()。，；：！？、…]")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a file of delimited text is written.

    Attributes:
        delimiter: one character; None where each line is one text.
        quoted: whether quotes delimit fields; else they are part of the text.
        header: whether the first line that is not blank holds column names.
        columns: their names, or made-up ones.
        widths: numbers of fields that a row may have; those beyond the columns are left out.
        notes: the same in words.
    """

    encoding: Encoding
    delimiter: str | None
    quoted: bool
    header: bool
    columns: tuple[str, ...]
    widths: frozenset[int]
    notes: tuple[str, ...]


def dialect_of(path: Path, data: Data) -> Dialect:
    """Find out how a file is written.

    Raises:
        SeqtrackError: it is empty, no text, its header cannot be used, or it has none and its columns cannot be told.
    """
    encoding = encoding_of(path, data)
    lines = Lines(path, encoding)
    sample = _sample(lines)
    first = next((line for line in sample if line.strip("\r\n")), None)
    if first is None:
        raise SeqtrackError("the file is empty", where=str(path), fix="delete it or fill it")
    if "\0" in first:
        raise SeqtrackError(
            "the first line holds NUL bytes; this is no text file",
            where=f"{path}:1",
            fix="if it is UTF-16 or UTF-32 set data.encoding, else convert it",
        )
    if "\r" in first.strip("\r\n"):
        raise SeqtrackError(
            "lines end in bare carriage returns", where=f"{path}:1", fix="save the file with LF or CRLF line ends"
        )
    named = KNOWN_NAMES.union(fold(name) for name in (data.text, data.text_pair, data.label) if name)
    suffix = stem_and_suffix(path)[1]
    delimiter = data.delimiter or _delimiter(sample, first, suffix, named)
    quoted = _quoted(path, data, encoding, delimiter, sample, whole=lines.exhausted)
    rows = _rows(sample, delimiter, quoted, whole=lines.exhausted)
    if not rows:
        raise SeqtrackError("the header cannot be read: a quote opened in it is never closed", where=f"{path}:1")
    if data.header is not None:
        header = data.header
    elif data.columns is not None and rows[0] == list(data.columns):
        header = True
    else:
        header = _has_header(rows, named, sure=data.columns is not None or delimiter is None)
    if header and quoted:
        _check_quotes(path, sample, delimiter)
    return _dialect(path, data, encoding, delimiter, quoted, rows, header)


def _dialect(
    path: Path, data: Data, encoding: Encoding, delimiter: str | None, quoted: bool, rows: list[list[str]], header: bool
) -> Dialect:
    """Name the columns and put all of it into words."""
    separated = "one text a line" if delimiter is None else f"{MARKS.get(delimiter, repr(delimiter))}-separated"
    notes = [encoding.note, f"{separated}, quotes {'delimit fields' if quoted else 'are part of the text'}"]
    if header:
        columns = _checked(path, rows[0])
        widths = frozenset({len(columns)})
    elif data.columns is not None:
        columns, widths, note = _named_columns(path, data.columns, encoding, delimiter, quoted, rows)
        notes.append(note)
    else:
        width = Counter(map(len, rows)).most_common(1)[0][0]
        columns = _made_up(path, data, [row for row in rows if len(row) == width])
        widths = frozenset({width})
        notes.append("no header line: what the columns hold is told by their values; data.columns overrides it")
    return Dialect(
        encoding=encoding,
        delimiter=delimiter,
        quoted=quoted,
        header=header,
        columns=columns,
        widths=widths,
        notes=tuple(notes),
    )


def split_line(line: str, delimiter: str | None) -> list[str]:
    """Split a line where quotes are text; a blank line has no field."""
    bare = line.removesuffix("\n").removesuffix("\r")
    if not bare:
        return []
    return [bare] if delimiter is None else bare.split(delimiter)


def _sample(lines: Lines) -> list[str]:
    sample: list[str] = []
    size = 0
    for line in lines:
        sample.append(line)
        size += len(line)
        if size > SAMPLE or len(sample) == _SAMPLE_LINES:
            break
    return sample


def _first_quotes(path: Path, encoding: Encoding) -> tuple[list[str], bool]:
    """Return the first line of a file that holds a quote with lines after it, and whether those are all there are."""
    lines = dropwhile(lambda line: b'"' not in line, byte_lines(path, encoding))
    sample = [line.decode(encoding.line_codec, "replace") for line in islice(lines, _SAMPLE_LINES)]
    return sample, len(sample) < _SAMPLE_LINES


def _rows(sample: Sequence[str], delimiter: str | None, quoted: bool, *, whole: bool) -> list[list[str]]:
    """Parse a sample; of one that does not reach the end of the file, without a last row that may be cut."""
    if not quoted:
        return [fields for line in sample if (fields := split_line(line, delimiter))]
    csv.field_size_limit(MAX_FIELD)
    reader = csv.reader(sample, delimiter=delimiter or ",")
    rows: list[list[str]] = []
    while True:
        try:
            if fields := next(reader):
                rows.append(fields)
        except csv.Error:
            continue  # reading the rows names it
        except StopIteration:
            break
    return rows if whole or len(rows) < 2 else rows[:-1]


def _delimiter(sample: Sequence[str], first: str, suffix: str, named: frozenset[str]) -> str | None:
    """Find the delimiter: one that parts the first line into known names, else one that parts all lines alike."""

    def names(mark: str) -> int:
        try:
            fields = next(csv.reader([first], delimiter=mark), [])
        except csv.Error:  # a bare carriage return, say: no header that this mark divides
            return 0
        return len(named.intersection(map(fold, fields))) if len(fields) > 1 else 0

    best = max(MARKS, key=names)
    if names(best):
        return best
    shares = {mark: _alike(sample, mark) for mark in MARKS}
    best = max(MARKS, key=lambda mark: shares[mark])
    if suffix == ".txt":  # prose has commas
        return "\t" if shares["\t"] > 0.5 else None
    own = "\t" if suffix in {".tsv", ".tab"} else ","
    if shares[best] > 0.5 and shares[best] > shares[own]:
        return best
    return own


def _alike(sample: Sequence[str], mark: str) -> float:
    """Return the share of rows with the commonest number of fields, 0 where that is one field."""
    rows = _rows(sample, mark, mark != "\t", whole=True)
    width, count = Counter(map(len, rows)).most_common(1)[0] if rows else (1, 0)
    return count / len(rows) if width > 1 else 0.0


def _quoted(
    path: Path, data: Data, encoding: Encoding, delimiter: str | None, sample: Sequence[str], *, whole: bool
) -> bool:
    """Tell whether quotes delimit fields: with commas yes; with tabs, only where every quote in sight shows it."""
    if data.quoting is not None:
        return data.quoting == "minimal"
    if delimiter is None:
        return False
    if delimiter != "\t":
        return True
    every_name = all(re.fullmatch(_QUOTED, name) for name in split_line(sample[0], delimiter))
    if not any('"' in line for line in sample):
        sample, whole = _first_quotes(path, encoding)
    text = "".join(sample)
    field = rf'(?:{_QUOTED}|[^"\t\r\n]*+)'
    match = re.match(rf"(?:{field}(?:\t{field})*+(?:\r?\n|\Z))*+", text)
    end = match.end() if match else 0
    # What is left over may be a row that the sample cuts in a quoted field; it is not long then.
    cut = not whole and re.fullmatch(rf'(?:{field}\t)*+"(?:[^"]|"")*+', text[end:])
    if end < len(text) and not (cut and text.count("\n", end) < _MOST_CUT):
        return False
    fields = re.findall(_QUOTED, text[:end])
    needed = any('""' in field[1:-1] or "\t" in field or "\n" in field for field in fields)
    return bool(fields) and (needed or every_name)


def _has_header(rows: Sequence[Sequence[str]], named: frozenset[str], *, sure: bool) -> bool:
    """Tell whether the first row names columns: by known names, else by how unlike the values below it is.

    Args:
        rows: the sample.
        named: folded names that mean a column.
        sure: only known names will do.
    """
    first, rest = rows[0], [row for row in rows[1:] if list(row) != list(rows[0])]
    known = [index for index, cell in enumerate(first) if fold(cell) in named]
    values = [{row[index] for row in rest if index < len(row)} for index in range(len(first))]
    # A class may be called `question`: one name that is a value below as well says nothing.
    if len(known) > 1 or any(first[index] not in values[index] for index in known):
        return True
    if sure:
        return False
    for index, cell in enumerate(first):
        if rest and cell in values[index] and len(values[index]) <= max(2, len(rest) // 4):
            return False  # a value of a column with few values
        if len(values[index]) > 1 and cell and not _is_number(cell) and all(map(_is_number, values[index])):
            return True
    return all(map(_like_a_name, first)) and len(set(first)) == len(first)


def _like_a_name(cell: str) -> bool:
    """Tell whether a cell could be a column's name: short, few words, no sentence."""
    limit = 6 if _HAN.search(cell) else 30
    return len(cell) <= limit and len(cell.split()) <= 3 and not _SENTENCE.search(cell) and not _is_number(cell)


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell.strip()) is not None


def _check_quotes(path: Path, sample: Sequence[str], delimiter: str | None) -> None:
    try:
        next(fields for fields in csv.reader(sample, delimiter=delimiter or ",", strict=True) if fields)
    except csv.Error as error:
        raise SeqtrackError(f"the header cannot be read: {error}", where=f"{path}:1") from None


def _checked(path: Path, header: Sequence[str]) -> tuple[str, ...]:
    where = f"{path}:1"
    if any("\ufffd" in name for name in header):
        raise SeqtrackError("the header cannot be decoded", where=where, fix="set data.encoding")
    names = [name for name in header if name]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise SeqtrackError(
            f"column {shorten(repeated)!r} stands twice in the header",
            where=where,
            fix="rename one of them; if this line is no header, set data.columns",
        )
    return tuple(header)


def _named_columns(
    path: Path,
    names: Sequence[str],
    encoding: Encoding,
    delimiter: str | None,
    quoted: bool,
    rows: Sequence[Sequence[str]],
) -> tuple[tuple[str, ...], frozenset[int], str]:
    """Apply data.columns to a file without a header line; columns beyond the names are left out.

    Files of one data set may differ: test files lack the label, which stands last in most.
    """
    repeated = next((name for name in names if list(names).count(name) > 1), None)
    if repeated is not None:
        raise SeqtrackError(f"data.columns has {repeated!r} twice", where="params.yaml")
    counts: Counter[int] = Counter(map(len, rows))
    if not quoted:  # counting is cheap then, and rows with more fields may all come late
        codec = delimiter and delimiter.encode(encoding.line_codec)
        lines = Lines(path, encoding)
        counts = Counter(len(fields) for line in lines if (fields := split_line(line, delimiter))) if codec else counts
    width = counts.most_common(1)[0][0]
    columns = tuple(names[:width])
    wider = {n: count for n, count in counts.items() if n > len(columns) and count >= _MIN_SHARE * counts.total()}
    note = "no header line: columns named by data.columns"
    if width < len(names):
        note += f", of which the first {width} are there"
    for n, count in sorted(wider.items()):
        note += f"; {count:,} rows have {n} fields, read as their first {len(columns)}"
    return columns, frozenset({len(columns), *wider}), note


# --- columns without names -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Column:
    """What the values of a column look like: `text`, `classes`, `score`, `number` or `other`."""

    kind: str
    seen: str


def _made_up(path: Path, data: Data, rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Name columns by what they hold.

    Raises:
        SeqtrackError: several could be the label, or there is not one text or two.
    """
    width = len(rows[0])
    if width == 1:
        return (made_up_name(1, "text"),)
    if any((data.text, data.text_pair, data.label)):  # params.yaml names them, by number
        return tuple(made_up_name(number) for number in range(1, width + 1))
    columns = [_look([row[index] for row in rows]) for index in range(width)]
    texts = [index for index, column in enumerate(columns) if column.kind == "text"]
    labels = [index for index, column in enumerate(columns) if column.kind in {"classes", "score"}]
    parts: dict[int, str] = dict(zip(texts, ("text", "text_pair"), strict=False))
    if 1 <= len(texts) <= 2 and len(labels) <= 1 and all(column.kind != "other" for column in columns):
        parts.update((index, "label") for index in labels)
        return tuple(made_up_name(index + 1, parts.get(index)) for index in range(width))
    raise SeqtrackError(
        "what the columns hold cannot be told: there is no header line",
        where=f"{path}:1",
        found="; ".join(f"column {index + 1}: {column.seen}" for index, column in enumerate(columns)),
        fix=f"name them in params.yaml, for example data.columns: [{', '.join(_suggested(columns, parts))}]",
    )


def _suggested(columns: Sequence[_Column], parts: dict[int, str]) -> list[str]:
    """Return names that find_columns understands, the likeliest label among them: a score, or classes as numbers."""
    order = {"score": 0, "classes of numbers": 1, "classes": 2}
    candidates = [
        (order["classes of numbers" if column.seen.startswith("numbers") else column.kind], index)
        for index, column in enumerate(columns)
        if column.kind in {"classes", "score"}
    ]
    if candidates:
        parts = {**parts, min(candidates)[1]: "label"}
    return [parts.get(index, f"column_{index + 1}") for index in range(len(columns))]


def _look(values: Sequence[str]) -> _Column:
    """Tell what the values of one column are, from a sample of them."""
    filled = [value for value in values if value.strip()]
    distinct = sorted(set(filled))
    length = sum(map(len, filled)) / max(len(filled), 1)
    shown = ", ".join(shorten(value, 20) for value in distinct[:4])
    if len(filled) < 0.95 * len(values):
        return _Column(kind="other", seen=f"often empty, else {shown}" if filled else "always empty")
    few = len(distinct) <= 100 and (len(distinct) <= 0.1 * len(filled) or (len(filled) < 50 and length < 20))
    if all(map(_is_number, filled)):
        if any(not float(value).is_integer() for value in distinct):
            return _Column(kind="score", seen=f"numbers with fractions such as {shown}")
        if few and len(distinct) <= max(2, len(filled) // 2):
            return _Column(kind="classes", seen=f"numbers {shown}" + ("" if len(distinct) < 5 else ", ..."))
        return _Column(kind="number", seen=f"numbers such as {shown}")
    repeats = len(distinct) <= max(2, len(filled) // 2)
    if few and repeats and not any(" " in value.strip() and len(value) > 40 for value in distinct):
        return _Column(kind="classes", seen=f"few values such as {shown}")
    if length >= 8 or len(distinct) > 0.5 * len(filled):
        if length < 8 or all(" " not in value and not _HAN.search(value) for value in filled):
            return _Column(kind="other", seen=f"many short values such as {shown}")
        return _Column(kind="text", seen=f"texts such as {shorten(distinct[0], 30)!r}")
    return _Column(kind="other", seen=f"values such as {shown}")
