"""What every reader of data files agrees on: rows, defects, shapes and formats.

Promises: a format is a value: what describes a file, what iterates over it and what its identity is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from pipeline.outputs import sha256_file
from pipeline.params import Data

# A quote that is never closed swallows the rest of its file: this many characters in, it is an error. No text that an
# encoder reads is as long. The csv module's default of 131,072 is not out of reach for a contract or a book chapter.
MAX_FIELD: Final = 2**24

PLAIN: Final = Data(path=".", text=None, text_pair=None, label=None, label_names=None)
"""Settings that leave everything to what is found in a file."""


# Named tuples here, where all else is a frozen dataclass: there is one for each row of the data, and they cost a third.
class Row(NamedTuple):
    """Values under column names.

    Attributes:
        line: the first physical line of the row in its file, from 1; in files that have no lines (Parquet, Arrow, one
            JSON object of columns), the number of the row from 1.
        lines: physical lines it takes; more than 1 where a quoted field holds line ends.
        values: str in delimited text; any JSON value in JSON, Parquet and Arrow.
        file: where the source is a folder, the file in it that `line` counts in.
    """

    line: int
    lines: int
    values: dict[str, Any]
    file: str | None = None


class Defect(NamedTuple):
    """A row that cannot be used.

    Attributes:
        line: as in Row.
        reason: a name to count by, for example `ragged`.
        detail: what is wrong with this very row.
        file: as in Row.
    """

    line: int
    reason: str
    detail: str
    file: str | None = None


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a file is, known before its rows are read.

    Attributes:
        columns: column names in file order (JSON Lines: in order of first appearance in any row); made up where a file
            has no header line, see pipeline.columns.made_up_name.
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
        digest: the hex sha256 of all that is read.
    """

    name: str
    shape: Callable[[Path], Shape]
    rows: Callable[[Path], Iterator[Row | Defect]]
    digest: Callable[[Path], str] = sha256_file


def shorten(text: str, width: int = 60) -> str:
    """Return at most `width` characters of a text, for use inside a message."""
    return text if len(text) <= width else text[: width - 1] + "…"
