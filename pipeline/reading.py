"""Reading data files as they are found: the one door to every format.

Promises: every row of a file comes out once, in order and in bounded memory, either as values under column names or as
a defect with its reason, each with its place; values are exactly what the file holds. What a file is its content
decides as much as its name; params.yaml decides over both.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from pipeline.columns import split_of_name
from pipeline.errors import SeqtrackError
from pipeline.params import Data
from pipeline.reading_arrow import ARROW, ARROW_MAGICS, PARQUET, PARQUET_MAGIC, SAVED, is_saved_dataset, saved_splits
from pipeline.reading_base import PLAIN, Defect, Format, Row, Shape, shorten
from pipeline.reading_bytes import head, stem_and_suffix
from pipeline.reading_delimited import delimited
from pipeline.reading_folders import label_folders, text_folders
from pipeline.reading_json import json_format, kind_of_json
from pipeline.reading_parallel import parallel, texts_with_labels

__all__ = ["Defect", "Format", "Row", "Shape", "find_files", "format_of", "shorten", "source_name"]

_DELIMITED: Final = {".csv": "CSV", ".tsv": "TSV", ".tab": "TSV", ".txt": "text"}
_JSON_LINES: Final = (".jsonl", ".ndjson", ".json-lines")
EXTENSIONS: Final = (*_DELIMITED, *_JSON_LINES, ".json", ".parquet", ".pq", ".arrow")
# Beside data there are often a README.txt, a labels.txt or a manifest.json: in a folder these kinds are data only
# where there are no others or where their name says which split they are.
_ALSO_NOTES: Final = (".json", ".txt")
_LFS_POINTER: Final = b"version https://git-lfs"
_REMEDIES: Final = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save each sheet as CSV (UTF-8)"),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar"), "unpack it, and point data.path at what is in it"),
    **dict.fromkeys((".pkl", ".pickle"), "save the rows as Parquet: reading a pickle would run what is in it"),
}
_NEVER_DATA: Final = {"manifest.json", "dataset_infos.json", "package.json", "config.json"}


def format_of(path: Path, data: Data = PLAIN) -> Format:
    """Return the format of a file or of a folder that is one source, by its name and its first bytes.

    Args:
        path: the file, which may be compressed.
        data: the settings that may fix parts of how it is read.

    Raises:
        SeqtrackError: neither name nor content tell, or it cannot be opened.
    """
    if path.is_dir():
        return SAVED if is_saved_dataset(path) else text_folders(data)
    if data.labels_path is not None:
        return parallel(data)
    start = head(path, len(_LFS_POINTER))
    if start == _LFS_POINTER:
        raise SeqtrackError("only a Git LFS pointer to the data is here", where=str(path), fix="run `git lfs pull`")
    if start.startswith(PARQUET_MAGIC):
        return PARQUET
    if start.startswith(ARROW_MAGICS):
        return ARROW
    suffix = stem_and_suffix(path)[1]
    if suffix in _DELIMITED or suffix in _JSON_LINES or suffix in {".json", ""}:
        kind = kind_of_json(path, data)
        if suffix in _JSON_LINES and kind != "array":
            kind = "lines"  # an object of lists is a row here, since the name says so
        if kind is not None:
            return json_format(kind, data)
        if suffix in _DELIMITED:
            return delimited(_DELIMITED[suffix], data)
        if suffix == ".json":
            if not start:
                raise SeqtrackError("the file is empty", where=str(path), fix="delete it or fill it")
            raise SeqtrackError(
                "not JSON, whatever its name says",
                where=f"{path}:1",
                expected="an array of objects, one object a line, or an object of columns",
                fix="rename the file to what it is, or mend it",
            )
    if suffix in {".parquet", ".pq"}:
        return PARQUET  # which says what is wrong with it
    if suffix == ".arrow":
        return ARROW
    raise SeqtrackError(
        "unknown file format",
        where=str(path),
        expected="a file that ends in " + ", ".join(EXTENSIONS) + ", or in one of these and .gz, .zst, .bz2 or .xz",
        found=path.suffix or "no extension",
        fix=_REMEDIES.get(suffix, "convert the file, or rename it to what it is"),
    )


def find_files(path: Path, data: Data = PLAIN) -> list[Path]:
    """Return what data.path stands for: files, and folders that are one source each.

    A folder may be: a Hugging Face data set saved to disk (one source, or one per split); a folder of data files; a
    folder per split with any of these; a folder per label with text files. With data.pattern it is the files in it
    that match, with data.labels_path those that have their labels in another file.

    Returns:
        The sources sorted by name; hidden files and those of other kinds are passed over.

    Raises:
        SeqtrackError: nothing is there, or nothing in it is data, or labels are not where data.labels_path says.
    """
    if not path.exists():
        raise SeqtrackError(
            "no such file or folder", where=str(path), fix="set data.path in params.yaml to your file or folder"
        )
    found = [path]
    if data.pattern is not None:
        found = _matching(path, data.pattern)
    elif path.is_dir():
        found = _in_folder(path)
    if not found:
        raise _nothing_in(path)
    if data.labels_path is not None:
        found = texts_with_labels(path, found, data.labels_path)
    return found


def _nothing_in(path: Path) -> SeqtrackError:
    """Return what to say of a folder without data in it, with a remedy for what is there instead."""
    names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    fix = "point data.path at your files, or let fetch.source (sample, hub) provide some"
    if below := next((file for file in sorted(path.rglob("*")) if stem_and_suffix(file)[1] in EXTENSIONS), None):
        example = f"**/*{below.name[len(stem_and_suffix(below)[0]) :]}"
        fix = f'choose the files in its folders by data.pattern, for example "{example}", or point data.path at one'
    for name in names:
        fix = _REMEDIES.get(stem_and_suffix(Path(name))[1], fix)
    return SeqtrackError(
        "no data file in this folder",
        where=str(path),
        expected="files that end in " + ", ".join(EXTENSIONS) + ", or a folder of text files for each label",
        found=shorten(", ".join(names), 200) or "no file at all",
        fix=fix,
    )


def source_name(path: Path, root: Path) -> str:
    """Return what to call a source: its path relative to data.path, or its own name when it is data.path."""
    return path.name if path == root or root.is_file() else path.relative_to(root).as_posix()


def _matching(path: Path, pattern: str) -> list[Path]:
    """Return the files in a folder that data.pattern chooses, at least one; hidden ones are passed over."""
    if path.is_file():
        raise SeqtrackError(
            "data.pattern chooses files in a folder, and data.path is a file",
            where=str(path),
            fix="set data.pattern to null, or data.path to the folder",
        )
    matches = [match for match in path.glob(pattern) if not _is_hidden(match.relative_to(path))]
    files = sorted(match for match in matches if match.is_file())
    if not files:
        raise SeqtrackError(
            f"no file matches data.pattern {pattern!r}",
            where=str(path),
            found=f"only folders, such as {sorted(matches)[0].name}" if matches else None,
            fix="correct it: * stands for any part of a name, ** for any folders, as in **/*.csv",
        )
    return files


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _in_folder(path: Path) -> list[Path]:
    """Return the sources in a folder, none when there is no data in it."""
    if (splits := saved_splits(path)) is not None:
        return sorted(splits)
    if is_saved_dataset(path):
        return [path]
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if entry.is_file() and entry.name not in _NEVER_DATA]
    known = [file for file in files if stem_and_suffix(file)[1] in EXTENSIONS]
    data_files = [file for file in known if stem_and_suffix(file)[1] not in _ALSO_NOTES or _names_split(file)]
    if data_files:
        return data_files
    folders = [entry for entry in entries if entry.is_dir()]
    of_splits = [folder for folder in folders if _names_split(folder)]
    if of_splits:
        return [source for folder in of_splits for source in _in_folder(folder)]
    if len(label_folders(path)) > 1:
        return [path]
    return [file for file in known if stem_and_suffix(file)[1] == ".json"] or known


def _names_split(path: Path) -> bool:
    return bool(re.search("[a-z]", path.name.lower())) and split_of_name(path) is not None
