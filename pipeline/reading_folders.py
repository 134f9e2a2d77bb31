"""Reading texts whose labels are the names of the folders they lie in.

Promises: a text file is one row, exactly as given but for its encoding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

from pipeline.outputs import sha256_file
from pipeline.params import Data
from pipeline.reading_base import MAX_FIELD, Defect, Format, Row, Shape
from pipeline.reading_bytes import encoding_of, explained, open_bytes, stem_and_suffix

_NOT_TEXT: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".gif", ".webp", ".wav", ".mp3", ".flac", ".mp4", ".pdf", ".doc", ".docx", ".zip", ".tar"}
    | {".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".py", ".bin", ".pt", ".safetensors"}
)


def label_folders(path: Path) -> list[Path]:
    """Return the sub-folders whose names are labels: those that hold text files and nothing else; none if any differs.

    Returns:
        The folders sorted by name; hidden ones are passed over.
    """
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    full = [folder for folder in folders if any(not file.name.startswith(".") for file in folder.iterdir())]
    return full if all(_holds_texts(folder) for folder in full) else []


def text_folders(data: Data) -> Format:
    """Return the format of a folder with one sub-folder of text files per label."""
    return Format(
        name="text files in a folder per label",
        shape=partial(_folders_shape, data=data),
        rows=partial(_folders_rows, data=data),
        digest=_folders_digest,
    )


def _holds_texts(folder: Path) -> bool:
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return all(entry.is_file() and stem_and_suffix(entry)[1] not in _NOT_TEXT for entry in entries)


def _files(path: Path) -> Iterator[Path]:
    for folder in label_folders(path):
        yield from sorted(file for file in folder.iterdir() if not file.name.startswith("."))


def _folders_shape(path: Path, data: Data) -> Shape:
    files = list(_files(path))
    labels = len({file.parent for file in files})
    encoding = f"data.encoding {data.encoding}" if data.encoding else "UTF-8 or as found in each"
    return Shape(columns=("text", "label", "file"), notes=(f"{len(files):,} files in {labels} folders", encoding))


def _folders_rows(path: Path, data: Data) -> Iterator[Row | Defect]:
    for file in _files(path):
        name = file.relative_to(path).as_posix()
        encoding = encoding_of(file, data)
        with explained(file), open_bytes(file) as stream:
            content = stream.read(4 * MAX_FIELD)[encoding.mark :]
        if b"\0" in content and not encoding.wide:
            yield Defect(1, "undecodable", "it holds NUL bytes: this is no text file", name)
            continue
        try:
            text = content.decode(encoding.codec)
        except UnicodeDecodeError as error:
            detail = f"byte 0x{content[error.start]:02x} at {error.start} is not {error.encoding.upper()}"
            yield Defect(1, "undecodable", detail, name)
            continue
        yield Row(1, max(1, len(text.splitlines())), {"text": text, "label": file.parent.name, "file": name}, name)


def _folders_digest(path: Path) -> str:
    whole = hashlib.sha256()
    for file in _files(path):
        with explained(file):
            whole.update(f"{file.relative_to(path).as_posix()}:{sha256_file(file)}\n".encode())
    return whole.hexdigest()
