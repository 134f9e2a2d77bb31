"""Parts of a split that are scored on their own: rows of one length, file, group or writing system, or alike in a
column of the user's.

Promises: every labelled row of a split is in exactly one part of each kind; parts are few, in a fixed order, and the
bounds of lengths are the same for all splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.checks_text import SCRIPT_NAMES, text_facts
from pipeline.errors import SeqtrackError
from pipeline.labels import natural_order
from pipeline.params import BUILT_IN_SLICES
from pipeline.resampling import Ids

MOST_SLICES = 20  # of one kind; the rows of all others are one more
FEW_ROWS = 50  # scores of fewer rows say little, and are marked
OTHERS = "(others)"
NO_VALUE = "(none)"
COLUMNS = ("row_id", "text", "split", "source", "group", "kept")  # of canonical rows


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Some rows of a split.

    Attributes:
        kind: what the rows have in common: one of BUILT_IN_SLICES, or a name of data.keep_columns.
        name: its value.
        rows: their positions in the split, ascending, int64 [rows].
    """

    kind: str
    name: str
    rows: Ids


def length_bounds(lengths: npt.NDArray[np.integer]) -> tuple[int, ...]:
    """Return the highest length of each bucket but the last: the quartiles, without repeats.

    Args:
        lengths: tokens before truncation, [rows], at least one.
    """
    quartiles = np.quantile(lengths, [0.25, 0.5, 0.75], method="inverted_cdf")
    return tuple(int(bound) for bound in np.unique(quartiles) if bound < lengths.max())


def slices(
    kinds: Sequence[str], rows: pa.Table, lengths: npt.NDArray[np.integer], bounds: Sequence[int]
) -> tuple[Slice, ...]:
    """Divide a split by each kind; a kind of which it has a single value is left out.

    Args:
        kinds: by what.
        rows: canonical rows of the split, with COLUMNS.
        lengths: tokens before truncation, [rows].
        bounds: what `length_bounds` returned for all splits together.
    """
    found = []
    for kind in kinds:
        keys = _keys(kind, rows, lengths, bounds)
        names = [name for name in _order(kind, keys, bounds) if name in set(keys)]
        if len(names) > MOST_SLICES:
            largest = sorted(names, key=lambda name: -keys.count(name))[:MOST_SLICES]
            names = [name for name in names if name in largest]
            keys = [key if key in largest else OTHERS for key in keys]
            names.append(OTHERS)
        if len(names) > 1:
            values = np.array(keys, dtype=object)
            found += [Slice(kind=kind, name=name, rows=np.flatnonzero(values == name)) for name in names]
    return tuple(found)


def is_given(rows: pa.Table, split: str) -> bool:
    """Return whether the user's files say of every row that it belongs to this split."""
    return set(rows["split"].to_pylist()) == {split}


def check_kept(kinds: Sequence[str], rows: pa.Table) -> None:
    """Check that rows have the columns of the user's that they are to be divided by.

    Args:
        kinds: by what.
        rows: canonical rows with `kept`; the first speaks for all.

    Raises:
        SeqtrackError: a column was not kept when the rows were written.
    """
    if not rows.num_rows:
        return
    kept = dict(rows["kept"][0].as_py() or ())
    missing = next((kind for kind in kinds if kind not in BUILT_IN_SLICES and kind not in kept), None)
    if missing is not None:
        raise SeqtrackError(
            f"the rows have no column {missing!r}",
            where="evaluate.slices in params.yaml",
            fix="run `dvc repro`: validate carries along what data.keep_columns names",
        )


def _keys(kind: str, rows: pa.Table, lengths: npt.NDArray[np.integer], bounds: Sequence[int]) -> list[str]:
    if kind == "length":
        names = _length_names(bounds)
        return [names[bucket] for bucket in np.searchsorted(bounds, lengths, side="left")]
    if kind == "script":
        return [SCRIPT_NAMES[script] for script in text_facts(rows["text"].to_pylist()).scripts]
    values = rows[kind].to_pylist() if kind in BUILT_IN_SLICES else _values_of(kind, rows)
    return [value or NO_VALUE for value in values]


def _values_of(column: str, rows: pa.Table) -> list[str | None]:
    """Return what rows have in a column of the user's."""
    return [dict(kept)[column] for kept in rows["kept"].to_pylist()]


def _order(kind: str, keys: Sequence[str], bounds: Sequence[int]) -> tuple[str, ...]:
    return _length_names(bounds) if kind == "length" else natural_order(keys)


def _length_names(bounds: Sequence[int]) -> tuple[str, ...]:
    lows = [0, *(bound + 1 for bound in bounds)]
    names = [
        f"{low} to {bound} tokens" if low else f"up to {bound} tokens" for low, bound in zip(lows, bounds, strict=False)
    ]
    return (*names, f"{lows[-1]} tokens or more")
