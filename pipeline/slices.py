"""Parts of a split that are scored on their own: rows of one length, file, group or writing system.

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
from pipeline.labels import natural_order
from pipeline.params import SliceKind
from pipeline.resampling import Ids

MOST_SLICES = 20  # of one kind; the rows of all others are one more
FEW_ROWS = 50  # scores of fewer rows say little, and are marked
OTHERS = "(others)"
NO_GROUP = "(none)"
COLUMNS = ("row_id", "text", "split", "source", "group")  # of canonical rows


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Some rows of a split.

    Attributes:
        kind: what the rows have in common.
        name: its value.
        rows: their positions in the split, ascending, int64 [rows].
    """

    kind: SliceKind
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
    kinds: Sequence[SliceKind], rows: pa.Table, lengths: npt.NDArray[np.integer], bounds: Sequence[int]
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


def _keys(kind: SliceKind, rows: pa.Table, lengths: npt.NDArray[np.integer], bounds: Sequence[int]) -> list[str]:
    if kind == "length":
        names = _length_names(bounds)
        return [names[bucket] for bucket in np.searchsorted(bounds, lengths, side="left")]
    if kind == "script":
        return [SCRIPT_NAMES[script] for script in text_facts(rows["text"].to_pylist()).scripts]
    return [value or NO_GROUP for value in rows[kind].to_pylist()]


def _order(kind: SliceKind, keys: Sequence[str], bounds: Sequence[int]) -> tuple[str, ...]:
    return _length_names(bounds) if kind == "length" else natural_order(keys)


def _length_names(bounds: Sequence[int]) -> tuple[str, ...]:
    lows = [0, *(bound + 1 for bound in bounds)]
    names = [
        f"{low} to {bound} tokens" if low else f"up to {bound} tokens" for low, bound in zip(lows, bounds, strict=False)
    ]
    return (*names, f"{lows[-1]} tokens or more")
