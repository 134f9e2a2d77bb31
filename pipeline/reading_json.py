"""Reading JSON: one object a line, one array of objects, or one object that holds columns or records.

Promises: lines and arrays stream, in memory bounded by the longest row; only an object of columns or records is read
whole, since its first row may need its last byte. Values keep their JSON types.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final, Literal

import orjson

from pipeline.columns import KNOWN_NAMES, fold
from pipeline.errors import SeqtrackError
from pipeline.params import Data
from pipeline.reading_base import MAX_FIELD, Defect, Format, Row, Shape, shorten
from pipeline.reading_bytes import byte_lines, encoding_of, explained, head, not_decodable, open_bytes

_PIECE: Final = 2**18  # characters of an array read at once
_SPACE: Final = " \t\r\n"
_SPACES: Final = re.compile(r"[ \t\r\n]*")


JsonKind = Literal["lines", "array", "object"]


def json_format(kind: JsonKind, data: Data) -> Format:
    """Return the format of one object a line, of one array of objects, or of one object of columns or records."""
    readers = {
        "lines": ("JSON Lines", _lines_shape, _line_rows),
        "array": ("JSON", _array_shape, _array_rows),
        "object": ("JSON", _object_shape, _object_rows),
    }
    name, shape, rows = readers[kind]
    return Format(name=name, shape=partial(shape, data=data), rows=partial(rows, data=data))


def kind_of_json(path: Path, data: Data) -> JsonKind | None:
    """Tell by its start which kind of JSON a file is, None when it is none."""
    encoding = encoding_of(path, data)
    start = head(path)[encoding.mark :].decode(encoding.codec, "replace").lstrip(_SPACE)
    if start.startswith("[") and start[1:].lstrip(_SPACE)[:1] in {"{", "]", ""}:
        return "array"
    if not start.startswith("{") or start[1:].lstrip(_SPACE)[:1] not in {'"', "}"}:
        return None
    first, _, more = start.partition("\n")
    try:
        value = orjson.loads(first.encode("utf-8", "replace"))
    except orjson.JSONDecodeError:
        # An object over several lines, or a first line that is damaged and followed by others.
        return "lines" if more.lstrip(_SPACE).startswith("{") else "object"
    return "object" if _holds_rows(value) and not more.strip(_SPACE) else "lines"


# --- one object a line -----------------------------------------------------------------------------------------------


def _line_rows(path: Path, data: Data) -> Iterator[Row | Defect]:
    encoding = encoding_of(path, data)
    codec = encoding.line_codec
    for number, line in enumerate(byte_lines(path, encoding), start=1):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line if codec == "utf-8" else line.decode(codec))
        except UnicodeDecodeError as error:
            yield Defect(number, "undecodable", not_decodable(line, error, number))
            continue
        except orjson.JSONDecodeError as error:
            yield _why_not_json(number, line, codec, error)
            continue
        yield _row(number, 1, value)


def _row(line: int, lines: int, value: Any) -> Row | Defect:
    if isinstance(value, dict):
        return Row(line, lines, value)
    return Defect(line, "not_an_object", f"a JSON {_json_type(value)}: {shorten(orjson.dumps(value).decode())}")


def _why_not_json(number: int, line: bytes, codec: str, error: orjson.JSONDecodeError) -> Defect:
    try:
        line.decode(codec)
    except UnicodeDecodeError as bad:
        return Defect(number, "undecodable", not_decodable(line, bad, number))
    return Defect(number, "invalid_json", f"{error.msg} at column {error.colno}")


def _json_type(value: Any) -> str:
    names = {list: "list", dict: "object", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _lines_shape(path: Path, data: Data) -> Shape:
    columns = _columns(path, _line_rows(path, data), "one JSON object a line")
    return Shape(columns=columns, notes=(encoding_of(path, data).note, "one JSON object a line"))


def _columns(path: Path, rows: Iterator[Row | Defect], expected: str) -> tuple[str, ...]:
    """Read the whole file for its keys: a key may first appear in the last row, and skipping it would lose labels."""
    columns: dict[str, None] = {}
    defect: Defect | None = None
    for row in rows:
        if isinstance(row, Row):
            if not row.values.keys() <= columns.keys():
                columns.update(dict.fromkeys(row.values))
        else:
            defect = defect or row
    if not columns:
        raise SeqtrackError(
            f"no row can be read ({defect.reason}: {defect.detail})" if defect else "the file is empty",
            where=f"{path}:{defect.line}" if defect else str(path),
            expected=expected,
        )
    return tuple(columns)


# --- one array of objects --------------------------------------------------------------------------------------------


def _array_shape(path: Path, data: Data) -> Shape:
    columns = _columns(path, _array_rows(path, data), "an array of objects")
    return Shape(columns=columns, notes=(encoding_of(path, data).note, "one JSON array of objects"))


def _array_rows(path: Path, data: Data) -> Iterator[Row | Defect]:
    encoding = encoding_of(path, data)
    with explained(path), open_bytes(path) as stream:
        stream.read(encoding.mark)
        text = TextIOWrapper(stream, encoding.codec, newline="\n")
        try:
            yield from _elements(path, text)
        except UnicodeDecodeError as error:
            raise SeqtrackError(
                f"a byte is not {error.encoding.upper()}", where=str(path), fix="set data.encoding, or mend the file"
            ) from None


def _elements(path: Path, text: TextIOWrapper) -> Iterator[Row | Defect]:
    """Yield the elements of the array that a text holds, the text read a piece at a time."""
    buffer = _Buffer(path, text)
    buffer.expect("[")
    if buffer.peek() == "]":
        buffer.expect("]")
    else:
        while True:
            buffer.peek()
            line = buffer.line
            element = buffer.element()
            try:
                yield _row(line, buffer.line - line + 1, orjson.loads(element))
            except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
                yield Defect(line, "invalid_json", str(error))
            if buffer.expect(",]") == "]":
                break
    if rest := buffer.peek():
        raise buffer.error(f"{rest!r} after the end of the array")


class _Buffer:
    """A window on a JSON text that moves forward, counting lines."""

    def __init__(self, path: Path, text: TextIOWrapper) -> None:
        self.line = 1
        self._path = path
        self._stream = text
        self._text = ""
        self._at = 0
        self._decoder = json.JSONDecoder(strict=False)

    def error(self, problem: str) -> SeqtrackError:
        """Return the error for a problem here; nothing after it can be read, since rows can no longer be told apart."""
        return SeqtrackError(f"invalid JSON: {problem}", where=f"{self._path}:{self.line}", fix="mend the file")

    def peek(self) -> str:
        """Skip white space and return the next character, "" at the end."""
        while True:
            self._move(_SPACES.match(self._text, self._at).end())  # type: ignore[union-attr]  # it matches anywhere
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def expect(self, marks: str) -> str:
        """Take one of some characters."""
        mark = self.peek()
        if not mark:
            raise self.error("the array is not closed: the file is cut off")
        if mark not in marks:
            raise self.error(f"expected {' or '.join(marks)}, found {mark!r}")
        self._move(self._at + 1)
        return mark

    def element(self) -> str:
        """Take one JSON value."""
        while True:
            try:
                _, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # A value cut by the end of the piece fails there, or, as a string, where it starts.
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - 16
                if cut and len(self._text) - self._at < MAX_FIELD and self._more():
                    continue
                self._move(min(error.pos, len(self._text)))
                raise self.error("the file is cut off" if cut else error.msg) from None
            except RecursionError:
                raise self.error("values are nested too deeply") from None
            # A number at the end of the piece may go on in the next.
            if end < len(self._text) or not self._more():
                taken = self._text[self._at : end]
                self._move(end)
                return taken

    def _move(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to

    def _more(self) -> bool:
        # As much again as is held: a long value is then scanned a bounded number of times for its length.
        piece = self._stream.read(max(_PIECE, len(self._text) - self._at))
        self._text = self._text[self._at :] + piece
        self._at = 0
        return bool(piece)


# --- one object ------------------------------------------------------------------------------------------------------


def _object_shape(path: Path, data: Data) -> Shape:
    columns = _columns(path, _object_rows(path, data), "columns of values or records by key")
    return Shape(columns=columns, notes=(encoding_of(path, data).note, "one JSON object of columns or records"))


def _object_rows(path: Path, data: Data) -> Iterator[Row | Defect]:
    """Yield the rows of {"text": [...], ...}, {"text": {"0": ...}, ...} or {"0": {"text": ...}, ...}, numbered from 1.

    Raises:
        SeqtrackError: the object is neither, or its columns differ in length.
    """
    encoding = encoding_of(path, data)
    with explained(path), open_bytes(path) as stream:
        content = stream.read()[encoding.mark :]
    try:
        value = orjson.loads(content if encoding.codec == "utf-8" else content.decode(encoding.codec))
    except UnicodeDecodeError as error:
        raise SeqtrackError(
            f"a byte is not {error.encoding.upper()}", where=str(path), fix="set data.encoding, or mend the file"
        ) from None
    except orjson.JSONDecodeError as error:
        raise SeqtrackError(f"invalid JSON: {error.msg}", where=f"{path}:{error.lineno}", fix="mend the file") from None
    values = list(value.values()) if isinstance(value, dict) else []
    if not isinstance(value, dict) or not _holds_rows(value):
        raise SeqtrackError(
            "the JSON object holds neither columns nor records",
            where=str(path),
            expected='{"text": [...], "label": [...]} or {"0": {"text": ..., "label": ...}, ...}',
            found=f"keys {shorten(', '.join(value), 80)}" if isinstance(value, dict) else _json_type(value),
        )
    if all(isinstance(column, list) for column in values):
        if all(isinstance(item, dict) for column in values for item in column[:1]) and any(values):
            raise SeqtrackError(
                "the rows stand under keys of an object",
                where=str(path),
                expected="an array of objects, or an object of columns",
                found=f"keys {shorten(', '.join(value), 80)}, arrays of objects",
                fix="write each array into a file of its own, named train.json or test.json where it is one split",
            )
        _check_lengths(path, {name: len(column) for name, column in value.items()})
        for number, row in enumerate(zip(*values, strict=True), start=1):
            yield Row(number, 1, dict(zip(value, row, strict=True)))
    elif _is_columns(value):
        keys = list(dict.fromkeys(key for column in values for key in column))
        for number, key in enumerate(keys, start=1):
            yield Row(number, 1, {name: column.get(key) for name, column in value.items()})
    else:
        for number, row in enumerate(values, start=1):
            yield _row(number, 1, row)


def _holds_rows(value: Any) -> bool:
    """Tell whether an object holds columns or records rather than being one row itself."""
    if not isinstance(value, dict) or not value:
        return False
    values = list(value.values())
    if all(isinstance(column, list) for column in values):
        return True
    return isinstance(values[0], dict) and all(isinstance(row, dict) for row in values[: len(values) // 2 + 1])


def _is_columns(value: dict[str, Any]) -> bool:
    """Tell {"text": {"0": ...}} from {"0": {"text": ...}}: by where the names of columns stand."""
    if not all(isinstance(column, dict) for column in value.values()):
        return False
    inner = {fold(name) for column in list(value.values())[:100] for name in list(column)[:100]}
    return any(fold(name) in KNOWN_NAMES for name in value) and not inner & KNOWN_NAMES


def _check_lengths(path: Path, lengths: dict[str, int]) -> None:
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{shorten(name, 30)} {length:,}" for name, length in lengths.items())
        raise SeqtrackError("columns differ in length", where=str(path), expected="equally many values", found=found)
