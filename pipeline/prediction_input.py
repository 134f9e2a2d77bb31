"""What predict reads: rows of a split, or of any file or folder that validate can read, checked before the model loads.

Promises: rows in their order, in memory that does not grow with a data file; which column is the text comes from
params.yaml, else from the model's training, else from the names people use; a row that cannot be classified stops with
its file and line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Final, NamedTuple

from pipeline.columns import Columns, find_columns, fold, is_made_up
from pipeline.errors import SeqtrackError
from pipeline.outputs import sha256_file
from pipeline.params import Data
from pipeline.reading import Defect, Format, find_files, format_of, shorten
from pipeline.reading_bytes import stem_and_suffix
from pipeline.rows import read_row_ids, select_rows

ID_NAMES: Final = ("id", "idx", "index", "guid")  # best first, whatever their case


class Example(NamedTuple):
    """A row to classify. The id is what the file says (a JSON value), or the row's number from 0."""

    id: Any
    text: str
    text_pair: str | None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Rows to classify, checked.

    Attributes:
        path: the file or folder they come from.
        name: what to call their predictions, without an ending.
        rows: how many there are.
        integer_ids: whether every id is an integer of 64 bits.
        described: how the file is read, in words.
        inputs: name to sha256 of what is read.
        examples: starts a pass over the rows, in order.
    """

    path: Path
    name: str
    rows: int
    integer_ids: bool
    described: str
    inputs: Mapping[str, str]
    examples: Callable[[], Iterator[Example]]


def open_sources(
    path: Path, data: Data, *, rows: Path, pattern: str | None = None, trained: Columns | None = None
) -> list[Source]:
    """Find out what predict.path holds and check every row of it.

    Args:
        path: a split file (row ids, `.parquet`), or any file or folder that validate can read, labelled or not.
        data: the section that may name columns.
        rows: canonical rows, for a split file.
        pattern: which files in the folder `path`; None takes its data files.
        trained: the columns of the model's training data, where known.

    Returns:
        One source per file.

    Raises:
        SeqtrackError: a file is missing or unreadable, its columns are unclear, or a row has no text.
    """
    if not path.exists():
        raise SeqtrackError("file not found", where=f"params.yaml: predict.path: {path}")
    if _is_split(path):
        return [_split_source(path, rows)]
    # Where the labels of the training files are, and which files those were, is nothing to this one.
    data = data.model_copy(update={"labels_path": None, "pattern": pattern})
    files = find_files(path, data)
    stems = [stem_and_suffix(file)[0] if file.is_file() else file.name for file in files]
    names = [
        stem if stems.count(stem) == 1 else file.relative_to(path).as_posix().replace("/", "_")
        for stem, file in zip(stems, files, strict=True)
    ]
    return [_file_source(file, name, data, trained) for file, name in zip(files, names, strict=True)]


def _is_split(path: Path) -> bool:
    # Other Parquet files are left to the reader, damaged ones included, which says what is wrong with them.
    if path.suffix != ".parquet" or not path.is_file():
        return False
    with path.open("rb") as stream:
        if stream.read(4) != b"PAR1":
            return False
    return format_of(path).shape(path).columns == ("row_id",)


def _split_source(path: Path, rows: Path) -> Source:
    row_ids = read_row_ids(path)
    chosen = select_rows(rows, row_ids, ["row_id", "text", "text_pair"])

    def examples() -> Iterator[Example]:
        for batch in chosen.to_batches(max_chunksize=1_000):
            yield from map(Example, *(batch[name].to_pylist() for name in ("row_id", "text", "text_pair")))

    return Source(
        path=path,
        name=path.stem,
        rows=len(row_ids),
        integer_ids=False,
        described="a split; id: row_id",
        inputs={"split": sha256_file(path), "rows": sha256_file(rows)},
        examples=examples,
    )


def _file_source(path: Path, name: str, data: Data, trained: Columns | None) -> Source:
    kind = format_of(path, data)
    found = kind.shape(path).columns
    columns = _columns(found, data, trained, str(path))
    id_column = _id_column(found, columns)
    parts = {"text": columns.text, "text_pair": columns.text_pair, "id": id_column or "row number from 0"}

    def examples() -> Iterator[Example]:
        return _read(kind, path, columns, id_column)

    number, integers = 0, True
    for example in examples():
        number += 1
        integers = integers and type(example.id) is int and abs(example.id) < 2**63
    return Source(
        path=path,
        name=name,
        rows=number,
        integer_ids=integers,
        described=", ".join(f"{part}: {column}" for part, column in parts.items() if column),
        inputs={"file": kind.digest(path)},
        examples=examples,
    )


def _columns(found: tuple[str, ...], data: Data, trained: Columns | None, where: str) -> Columns:
    """Tell which columns hold the texts: as params.yaml says, else as in training, else by their names.

    Raises:
        SeqtrackError: `find_columns` does, or the model reads pairs and the file has single texts, or the reverse.
    """
    settings = data
    if trained is not None and data.text is None:
        # Columns without names are told by what they hold, here as in training.
        known = {fold(name) for name in found if not is_made_up(name)}
        if fold(trained.text) in known:
            settings = settings.model_copy(update={"text": trained.text})
        if trained.text_pair and fold(trained.text_pair) in known and data.text_pair is None:
            settings = settings.model_copy(update={"text_pair": trained.text_pair})
    columns = find_columns(found, settings, where=where, label_needed=False)
    if trained is None or (columns.text_pair is None) == (trained.text_pair is None):
        return columns
    if columns.text_pair is None:
        raise SeqtrackError(
            "the model reads pairs of texts, and this file has one text a row",
            where=where,
            expected=f"two columns, such as {trained.text} and {trained.text_pair}",
            found="columns " + ", ".join(shorten(name, 30) for name in found),
            fix="set data.text and data.text_pair in params.yaml",
        )
    if data.text is None and settings.text is not None:  # the model's own column; what else there is, it never read
        return replace(columns, text_pair=None)
    raise SeqtrackError(
        "the model reads single texts, and this file has pairs",
        where=where,
        expected=f"a column such as {trained.text}",
        found=f"columns {columns.text} and {columns.text_pair}",
        fix="rename the column that the model should read to text, and drop the other",
    )


def _id_column(found: tuple[str, ...], columns: Columns) -> str | None:
    taken = {columns.text, columns.text_pair, columns.label}
    by_name = {name.strip().lower(): name for name in reversed(found) if name not in taken}
    return next((by_name[name] for name in ID_NAMES if name in by_name), None)


def _read(kind: Format, path: Path, columns: Columns, id_column: str | None) -> Iterator[Example]:
    numbers = count()
    for row in kind.rows(path):
        where = f"{path}:{row.line}" if row.file is None else f"{path / row.file}:{row.line}"
        if isinstance(row, Defect):
            raise SeqtrackError(f"the row cannot be read: {row.reason}: {row.detail}", where=where)
        number = next(numbers)
        text, pair = _texts(row.values, columns, where)
        name = number if id_column is None else row.values.get(id_column)
        if name is None or name == "":
            raise SeqtrackError(
                f"no value in the id column {id_column!r}", where=where, fix="fill it or drop the column"
            )
        yield Example(name, text, pair)


def _texts(values: Mapping[str, Any], columns: Columns, where: str) -> tuple[str, str | None]:
    """Return a row's text or texts. One text of a pair may be blank, as some of QQP's test set are.

    Raises:
        SeqtrackError: there is none, or it is no text: leaving the row out would shift every line after it.
    """
    names = [columns.text] if columns.text_pair is None else [columns.text, columns.text_pair]
    texts = [_text(values.get(name), name, where) for name in names]
    if not any(text.strip() for text in texts):
        raise _no_text(columns.text, "blank text", where)
    return texts[0], texts[1] if len(texts) > 1 else None


def _text(value: Any, column: str, where: str) -> str:
    if isinstance(value, str):
        return value
    shown = "nothing" if value is None else f"{shorten(json.dumps(value, ensure_ascii=False))}, not a string"
    raise _no_text(column, shown, where)


def _no_text(column: str, found: str, where: str) -> SeqtrackError:
    return SeqtrackError(
        f"no text in column {column!r}",
        where=where,
        found=found,
        fix="fill it or remove the row: every row gets a prediction",
    )
