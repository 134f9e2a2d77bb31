"""The files behind data.path, understood before their rows are read.

Promises: formats, columns and splits are settled, and files that do not go together are an error, before any row is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.columns import Columns, check_same_columns, find_columns, split_of_source
from pipeline.errors import SeqtrackError
from pipeline.params import Data
from pipeline.reading import Format, Shape, find_files, format_of, source_name
from pipeline.reading_base import shorten
from pipeline.suggestions import nearest


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """A file, or a folder that is one source, understood but not yet read.

    Attributes:
        path: where it lies.
        name: its path relative to data.path, or its own name when it is data.path.
        split: the split that its name means; None when it means none or the file has a split column.
    """

    path: Path
    name: str
    format: Format
    shape: Shape
    columns: Columns
    split: str | None

    def source(self, inside: str | None) -> str:
        """Return what to call the source of a row: this file, or the one inside this folder."""
        return self.name if inside is None else f"{self.name}/{inside}"

    def place(self, source: str, line: int) -> str:
        """Return where a row is, for messages, given what `source` called its source."""
        return f"{self.path}{source.removeprefix(self.name)}:{line}"


def find_input_files(data: Data) -> list[InputFile]:
    """Understand the files behind data.path: formats, columns, splits.

    Raises:
        SeqtrackError: there are no files, one is unreadable as a whole, columns cannot be told or differ between
            files, a column that params.yaml names is not there, or some files say which split they are and some do not.
    """
    files = [_understood(path, data) for path in find_files(Path(data.path), data)]
    for key, name in (("data.group_by", data.group_by), ("data.time", data.time)):
        without = [file for file in files if name is not None and name not in file.shape.columns]
        if without:
            raise SeqtrackError(
                f"{key} names a column that is not there: {name!r}",
                where=str(without[0].path),
                found="columns " + ", ".join(shorten(column, 30) for column in without[0].shape.columns),
                fix=f"change {key} in params.yaml, or set it to null",
            )
    _check_kept(data.keep_columns, files, data.path)
    check_same_columns({file.name: file.columns for file in files})
    unsaid = [file.name for file in files if file.split is None and file.columns.split is None]
    if unsaid and len(unsaid) < len(files):
        having = next(file.name for file in files if file.name not in unsaid)
        raise SeqtrackError(
            "some files say which split they are and some do not",
            where=data.path,
            found=f"{having} does, {', '.join(unsaid)} not",
            fix="put train, validation or test into every file name, give all a column named split, or keep the "
            "files that belong together in a folder of their own",
        )
    return files


def _check_kept(names: Sequence[str], files: Sequence[InputFile], where: str) -> None:
    """Check that each column to keep is in one file at least: one that is in none is a mistake in writing."""
    found = list(dict.fromkeys(column for file in files for column in file.shape.columns))
    for name in names:
        if name not in found:
            near = nearest(name, found)
            raise SeqtrackError(
                f"data.keep_columns names a column that no file has: {name!r}",
                where=where,
                found="columns " + ", ".join(shorten(column, 30) for column in found),
                fix=f"did you mean {shorten(near)!r}?" if near else "change data.keep_columns in params.yaml",
            )


def _understood(path: Path, data: Data) -> InputFile:
    kind = format_of(path, data)
    shape = kind.shape(path)
    name = source_name(path, Path(data.path))
    split = split_of_source(name)
    columns = find_columns(shape.columns, data, where=str(path), label_needed=split != "test")
    # A split column speaks for each row, so it wins over the file name.
    split = split if columns.split is None else None
    return InputFile(path=path, name=name, format=kind, shape=shape, columns=columns, split=split)
