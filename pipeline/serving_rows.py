"""From the body of a request to rows, in the forms that MLflow's scoring servers take: JSON and CSV.

Promises: all rows or a `RefusedError` that says which row or column is wrong and what it should have been; no more
rows or characters than `serve` allows; no text is guessed at: "NA" and "1" in a CSV file are texts.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from pipeline.params import Serve
from pipeline.prediction_input import Example
from pipeline.suggestions import did_you_mean

FORMS: Final = ("inputs", "instances", "dataframe_split", "dataframe_records")
TEXT: Final = "text"
PAIR: Final = "text_pair"
_SHOWN: Final = 40  # characters of what was found


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        reason: for the caller, as a sentence without a full stop.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What rows must be like.

    Attributes:
        serve: the sizes.
        pairs: whether the model reads pairs; None where that is not known: then it takes both.
    """

    serve: Serve
    pairs: bool | None


def read_rows(body: bytes, content_type: str, limits: Limits) -> list[Example]:
    """Read the rows of a request; their ids are their numbers from 0.

    Args:
        body: what was sent.
        content_type: the header, `application/json` or `text/csv`.
        limits: what rows must be like.

    Raises:
        RefusedError: it cannot be answered: 400, 413 or 415.
    """
    kind, *parameters = [part.strip().lower() for part in content_type.split(";")]
    read: Callable[[bytes], tuple[Sequence[str], Iterable[Sequence[Any]]]]
    if kind == "application/json":
        read = _read_json
    elif kind == "text/csv":
        read = _read_csv
    else:
        raise RefusedError(415, f"Content-Type is {kind or 'missing'}; send application/json or text/csv")
    for parameter in parameters:
        if parameter.startswith("charset=") and parameter.removeprefix("charset=").strip('"') not in {"utf-8", "utf8"}:
            raise RefusedError(415, f"{parameter}: only UTF-8 is read")
    columns, values = read(body)
    return _checked(columns, values, limits)


def read_object(body: bytes, names: Sequence[str]) -> dict[str, Any]:
    """Read a JSON object that has some of these names and no others.

    Raises:
        RefusedError: it is none.
    """
    found = _json(body)
    if not isinstance(found, dict):
        raise RefusedError(400, f"expected a JSON object with {', '.join(names)}; found {_shown(found)}")
    _check_known(found, names, "key")
    return found


def one_row(text: object, pair: object, limits: Limits) -> Example:
    """Check a single row; a pair that is None is none.

    Raises:
        RefusedError: as `read_rows` does.
    """
    columns, values = ([TEXT], [text]) if pair is None else ([TEXT, PAIR], [text, pair])
    return _checked(columns, [values], limits)[0]


def _checked(columns: Sequence[str], rows: Iterable[Sequence[Any]], limits: Limits) -> list[Example]:
    _check_known(columns, (TEXT, PAIR), "column")
    if twice := next((name for name in columns if list(columns).count(name) > 1), None):
        raise RefusedError(400, f"two columns are called {twice!r}")
    if TEXT not in columns:
        raise RefusedError(400, "no column 'text'")
    paired = PAIR in columns
    if limits.pairs and not paired:
        raise RefusedError(400, "no column 'text_pair': the model reads pairs of texts")
    if paired and limits.pairs is False:
        raise RefusedError(400, "column 'text_pair': the model reads single texts, not pairs")
    found = []
    for number, row in enumerate(rows):
        if number >= limits.serve.max_rows:
            raise RefusedError(413, f"more than {limits.serve.max_rows:,} rows: send several requests")
        if len(row) != len(columns):
            raise RefusedError(400, f"row {number}: expected {len(columns)} values, found {len(row)}")
        texts = dict(zip(columns, row, strict=True))
        for name, text in texts.items():
            if not isinstance(text, str):
                raise RefusedError(400, f"row {number}: {name} is {_shown(text)}, not a string")
            if len(text) > limits.serve.max_characters:
                raise RefusedError(
                    413,
                    f"row {number}: {name} has {len(text):,} characters, more than {limits.serve.max_characters:,}",
                )
        if not any(text.strip() for text in texts.values()):
            raise RefusedError(400, f"row {number}: no text")
        found.append(Example(number, texts[TEXT], texts.get(PAIR)))
    if not found:
        raise RefusedError(400, "no rows")
    return found


def _read_json(body: bytes) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    document = _json(body)
    if not isinstance(document, dict):
        raise RefusedError(400, f"expected a JSON object with one of {', '.join(FORMS)}; found {_shown(document)}")
    _check_known(document, FORMS, "key")
    if len(document) != 1:
        raise RefusedError(400, f"expected exactly one of {', '.join(FORMS)}; found {', '.join(document) or 'none'}")
    ((form, value),) = document.items()
    if form == "dataframe_split":
        return _split(value)
    if form == "dataframe_records" and not isinstance(value, list):
        raise RefusedError(400, f"dataframe_records: expected a list of objects, found {_shown(value)}")
    if isinstance(value, dict) and any(isinstance(column, list) for column in value.values()):
        return _columns(form, value)
    rows = value if isinstance(value, list) else [value]
    if form != "dataframe_records" and not any(isinstance(row, dict) for row in rows):
        return [TEXT], [[row] for row in rows]
    return _records(form, rows)


def _split(value: object) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    if not isinstance(value, dict) or not all(isinstance(value.get(name), list) for name in ("columns", "data")):
        raise RefusedError(400, "dataframe_split: expected an object with the lists columns and data")
    _check_known(value, ("columns", "data", "index"), "key of dataframe_split")
    columns, data = value["columns"], value["data"]
    for number, row in enumerate(data):
        if not isinstance(row, list):
            raise RefusedError(400, f"row {number}: expected a list of values, found {_shown(row)}")
    return columns, data


def _columns(form: str, value: Mapping[str, Any]) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    for name, column in value.items():
        if not isinstance(column, list):
            raise RefusedError(400, f"{form}: {name} is {_shown(column)}; the other columns are lists")
    if len({len(column) for column in value.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(column)}" for name, column in value.items())
        raise RefusedError(400, f"{form}: columns of unequal lengths: {lengths}")
    return list(value), zip(*value.values(), strict=True)


def _records(form: str, rows: Sequence[Any]) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    columns: list[str] | None = None
    values = []
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise RefusedError(400, f"{form}: row {number}: expected an object, found {_shown(row)}")
        columns = list(row) if columns is None else columns
        if row.keys() != set(columns):
            _check_known(row, (TEXT, PAIR), "column")
            raise RefusedError(400, f"{form}: row {number} has {_listed(row)}, those before it {_listed(columns)}")
        values.append([row[name] for name in columns])
    return [TEXT] if columns is None else columns, values


def _read_csv(body: bytes) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RefusedError(400, f"not UTF-8: byte {body[error.start]:#04x} at {error.start}") from None
    try:
        columns, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as error:
        raise RefusedError(400, f"not CSV: {error}") from None
    except ValueError:
        raise RefusedError(400, "no rows: expected a line of column names and a line per row") from None
    return columns, rows


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RefusedError(400, f"not JSON: {error}") from None


def _check_known(names: Iterable[object], known: Sequence[str], what: str) -> None:
    for name in names:
        if name not in known:
            meant = did_you_mean(str(name), known, shown=repr)
            raise RefusedError(400, f"unknown {what} {_shown(name)}{meant}; known are {', '.join(known)}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(_shown(name) for name in names) or "nothing"


def _shown(value: object) -> str:
    """Return a JSON value as it was written, shortened; of lists and objects, which may be deep, what they are."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = orjson.dumps(value).decode()
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
