"""Sentences that stand in two splits: rows of pair data that share one side, in normal form, and are no duplicates.

Promises: every row that shares a side with a row of another split is named, with one such row; the number of pairs is
linear in the rows, however often a sentence recurs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rows_involved(split: NDArray[np.int8], side: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows that have a side which stands in two splits; arguments as of `shared_sides`."""
    row, sides = _incidences(split, side)
    homes = np.unique(sides * 128 + split[row]) >> 7  # each side once for each split
    sides_in_two = homes[1:][homes[1:] == homes[:-1]]
    return np.unique(row[np.isin(sides, sides_in_two)])


def shared_sides(split: NDArray[np.int8], side: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return rows that share a side across splits, shape (pairs, 2), sorted; the first is in the later split.

    Of the rows with one side, those outside the latest split that has it pair with its first row there, and the rest
    there pair with the first row elsewhere.

    Args:
        split: shape (rows,): an ascending number for each split, negative for rows to leave out. Rows are in the order
            in which the first is to be told.
        side: shape (rows, 2), or (0, 2): `Duplicates.side`.
    """
    row, sides = _incidences(split, side)
    order = np.lexsort((row, -split[row], sides))
    row, sides = row[order], sides[order]
    home = split[row]
    starts = np.flatnonzero(np.diff(sides, prepend=-1))
    sizes = np.diff(np.append(starts, len(sides)))
    head = np.repeat(starts, sizes)
    away = home != home[head]
    # The first row of each sentence in another split than its head's, where there is one.
    place = np.where(away, np.arange(len(row)), len(row))
    abroad = np.repeat(np.minimum.reduceat(place, starts), sizes) if len(row) else place
    shared = abroad < len(row)
    partner = np.where(away, head, abroad)[shared]
    mine = row[shared]
    theirs = row[partner]
    first = np.where(away[shared], theirs, mine)
    second = np.where(away[shared], mine, theirs)
    return np.unique(np.stack([first, second], axis=1), axis=0)


def _incidences(split: NDArray[np.int8], side: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each row with two sides twice, and its sides."""
    rows = np.flatnonzero((split[: len(side)] >= 0) & (side[:, 0] >= 0))
    return np.repeat(rows, 2), side[rows].ravel()
