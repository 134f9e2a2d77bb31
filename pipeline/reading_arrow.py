"""Reading Parquet files, Arrow files and streams, and Hugging Face data sets saved to disk.

Promises: rows stream a batch at a time; class numbers become the names that the file's own features give them; values
are what JSON could hold: dates, decimals and the like come as text, NaN as no value.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import SeqtrackError
from pipeline.outputs import sha256_file
from pipeline.reading_base import Defect, Format, Row, Shape, shorten
from pipeline.reading_bytes import compression_of, explained

PARQUET_MAGIC: Final = b"PAR1"
ARROW_MAGICS: Final = (b"ARROW1", b"\xff\xff\xff\xff")  # file, stream
STATE, INFO, DICT = "state.json", "dataset_info.json", "dataset_dict.json"  # of `save_to_disk`

_BATCH: Final = 2_000  # rows held as Python values at once


def is_saved_dataset(path: Path) -> bool:
    """Tell whether a folder is what `datasets.Dataset.save_to_disk` wrote."""
    return (path / STATE).is_file()


def saved_splits(path: Path) -> list[Path] | None:
    """Return the folders of the splits that `datasets.DatasetDict.save_to_disk` wrote, None when it wrote none.

    Raises:
        SeqtrackError: the list of splits is damaged, or one of them is missing.
    """
    if not (path / DICT).is_file():
        return None
    match _json(path / DICT):
        case {"splits": [*names]} if all(isinstance(name, str) for name in names):
            folders = [path / name for name in names]
        case _:
            raise SeqtrackError("no list of splits", where=str(path / DICT), fix="save the data set again")
    missing = next((folder for folder in folders if not is_saved_dataset(folder)), None)
    if missing is not None:
        raise SeqtrackError(f"a split that {DICT} names is missing", where=str(missing), fix="save the data set again")
    return folders


def _parquet_shape(path: Path) -> Shape:
    _check_uncompressed(path)
    with explained(path), pq.ParquetFile(path) as file:
        return _shape(file.schema_arrow, f"Parquet, {file.metadata.num_rows:,} rows")


def _parquet_rows(path: Path) -> Iterator[Row | Defect]:
    with explained(path), pq.ParquetFile(path, pre_buffer=False) as file:
        yield from _rows(file.iter_batches(batch_size=_BATCH), _class_names(file.schema_arrow), None)


def _arrow_shape(path: Path) -> Shape:
    _check_uncompressed(path)
    with explained(path), pa.memory_map(str(path)) as source:
        reader, kind = _open_arrow(source)
        return _shape(reader.schema, f"Arrow {kind}")


def _arrow_rows(path: Path) -> Iterator[Row | Defect]:
    yield from _arrow_file_rows(path, {}, None)


def _arrow_file_rows(path: Path, names: Mapping[str, list[str]], file: str | None) -> Iterator[Row | Defect]:
    with explained(path), pa.memory_map(str(path)) as source:
        reader, kind = _open_arrow(source)
        if kind == "file":
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            batches = iter(reader)
        pieces = (batch[start : start + _BATCH] for batch in batches for start in range(0, batch.num_rows, _BATCH))
        yield from _rows(pieces, {**_class_names(reader.schema), **names}, file)


def _open_arrow(source: Any) -> tuple[Any, str]:
    start = source.read(6)
    source.seek(0)
    if start == ARROW_MAGICS[0]:
        return pa.ipc.open_file(source), "file"
    return pa.ipc.open_stream(source), "stream"


def _check_uncompressed(path: Path) -> None:
    if compression_of(path):
        raise SeqtrackError(
            "a compressed Parquet or Arrow file cannot be read",
            where=str(path),
            fix="decompress it; both compress what is inside by themselves",
        )


# --- data sets saved to disk -----------------------------------------------------------------------------------------


def _saved_shape(path: Path) -> Shape:
    files = _saved_files(path)
    with explained(files[0]), pa.memory_map(str(files[0])) as source:
        reader, _ = _open_arrow(source)
        return _shape(reader.schema, f"Hugging Face data set saved to disk, {len(files)} Arrow files")


def _saved_rows(path: Path) -> Iterator[Row | Defect]:
    names = _named_classes(_json(path / INFO).get("features")) if (path / INFO).is_file() else {}
    for file in _saved_files(path):
        yield from _arrow_file_rows(file, names, file.name)


def _saved_files(path: Path) -> list[Path]:
    match _json(path / STATE):
        case {"_data_files": [*entries]} if entries and all(
            isinstance(entry, dict) and isinstance(entry.get("filename"), str) for entry in entries
        ):
            files = [path / entry["filename"] for entry in entries]
        case _:
            raise SeqtrackError("no list of data files", where=str(path / STATE), fix="save the data set again")
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise SeqtrackError(f"a file that {STATE} names is missing", where=str(missing), fix="save the data set again")
    return files


def _saved_digest(path: Path) -> str:
    """Digest what is read; the state itself holds a fingerprint that is new for each process."""
    whole = hashlib.sha256()
    for file in [*_saved_files(path), *([path / INFO] if (path / INFO).is_file() else [])]:
        whole.update(f"{file.name}:{sha256_file(file)}\n".encode())
    return whole.hexdigest()


def _json(path: Path) -> Any:
    with explained(path):
        content = path.read_bytes()
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise SeqtrackError(f"invalid JSON: {error}", where=str(path), fix="save the data set again") from None
    return value if isinstance(value, dict) else {}


# --- schemas and values ----------------------------------------------------------------------------------------------


def _shape(schema: pa.Schema, note: str) -> Shape:
    names = tuple(schema.names)
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise SeqtrackError(f"column {shorten(repeated)!r} stands twice", fix="rename one of them")
    classes = _class_names(schema)
    named = f"class names of {', '.join(classes)} from the file's own features"
    return Shape(columns=names, notes=(note, named) if classes else (note,))


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return column to class names, from the features that Hugging Face datasets keeps in the schema."""
    try:
        features = orjson.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features")
    except (orjson.JSONDecodeError, AttributeError):
        return {}
    return _named_classes(features)


def _named_classes(features: Any) -> dict[str, list[str]]:
    found = {}
    for column, feature in features.items() if isinstance(features, dict) else ():
        # A list of classes is [feature], or an object with the feature inside, by the library's version.
        inner = feature[0] if isinstance(feature, list) and feature else feature
        if isinstance(inner, dict) and inner.get("_type") in {"Sequence", "List", "LargeList"}:
            inner = inner.get("feature")
        match inner:
            case {"_type": "ClassLabel", "names": [*names]}:
                found[str(column)] = [str(name) for name in names]
    return found


def _rows(batches: Iterator[Any], names: Mapping[str, list[str]], file: str | None) -> Iterator[Row | Defect]:
    number = 0
    for batch in batches:
        _check_buffers(batch)
        bad: dict[int, str] = {}  # position in the batch to what is wrong
        columns = []
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            values = _values(column, name, bad)
            if name in names:
                values = [_named(value, names[name], name, bad, at) for at, value in enumerate(values)]
            columns.append(values)
        for at, row in enumerate(zip(*columns, strict=True)):
            number += 1
            if at in bad:
                yield Defect(number, "undecodable", bad[at], file)
            else:
                yield Row(number, 1, dict(zip(batch.schema.names, row, strict=True)), file)


def _check_buffers(batch: Any) -> None:
    """Check that what a damaged file says about its own layout stays within it: Arrow would read past the end.

    Raises:
        pyarrow.ArrowInvalid: it does not.
    """
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        for column in batch.columns:
            # Bytes that are no UTF-8 are invalid, too, but cost only their row.
            as_bytes = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(column.type)
            (column if as_bytes is None else column.view(as_bytes)).validate(full=True)


def _values(column: Any, name: str, bad: dict[int, str]) -> list[Any]:
    """Return a column as values that JSON could hold; notes the positions of those that are no text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _values(column.dictionary_decode(), name, bad)
    if _is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        # Old writers leave strings unmarked; and what is marked as a string need not be UTF-8.
        try:
            return list(column.to_pylist() if _is_text(kind) else column.cast(pa.large_string()).to_pylist())
        except (UnicodeDecodeError, pa.ArrowInvalid):
            return [_decoded(value, name, bad, at) for at, value in enumerate(column.cast(pa.large_binary()))]
    if pa.types.is_floating(kind):
        return [None if value is None or math.isnan(value) else float(value) for value in column.to_pylist()]
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind):
        return list(column.to_pylist())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [value if value is None else [_plain(item) for item in value] for value in column.to_pylist()]
    return [_plain(value) for value in column.to_pylist()]


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _decoded(value: Any, name: str, bad: dict[int, str], at: int) -> str | None:
    content = value.as_py()
    if content is None:
        return None
    try:
        return bytes(content).decode()
    except UnicodeDecodeError as error:
        bad[at] = f"column {name}: byte 0x{content[error.start]:02x} at {error.start} is not UTF-8"
        return None


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value)


def _named(value: Any, names: list[str], column: str, bad: dict[int, str], at: int) -> Any:
    """Return the name of a class number; -1 is how Hugging Face datasets mark unlabelled rows."""
    if isinstance(value, list):
        return [_named(item, names, column, bad, at) for item in value]
    if not isinstance(value, int) or value == -1:
        return None if value == -1 else value
    if 0 <= value < len(names):
        return names[value]
    bad[at] = f"column {column}: class {value} has no name, there are {len(names)}"
    return None


PARQUET: Final = Format(name="Parquet", shape=_parquet_shape, rows=_parquet_rows)
ARROW: Final = Format(name="Arrow", shape=_arrow_shape, rows=_arrow_rows)
SAVED: Final = Format(name="Hugging Face data set", shape=_saved_shape, rows=_saved_rows, digest=_saved_digest)
