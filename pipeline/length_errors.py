"""How often a model errs on short rows and on long ones.

Promises: every row is in one bin, bins hold about as many rows each, and few rows make few bins; intervals are
Wilson's for shares (Journal of the American Statistical Association 22, 1927) and the normal approximation for means.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

MOST_BINS = 10
ROWS_PER_BIN = 30  # at least, on average: fewer say little


@dataclass(frozen=True, kw_only=True)
class LengthBin:
    """Rows of like lengths.

    Attributes:
        shortest, longest: their lengths in tokens, before truncation.
        rows: how many they are.
        error: share of them that is wrong; in regression their mean absolute error.
        low, high: its interval.
    """

    shortest: int
    longest: int
    rows: int
    error: float
    low: float
    high: float


def errors_by_length(
    lengths: npt.NDArray[np.integer], errors: npt.NDArray[np.float64], *, shares: bool, confidence: float
) -> tuple[LengthBin, ...]:
    """Return bins from short to long.

    Args:
        lengths: in tokens, [rows], at least one row.
        errors: of each row, [rows]: 1 or 0, or how far off a number is.
        shares: whether errors are 1 or 0.
        confidence: of the intervals.
    """
    wanted = max(1, min(MOST_BINS, len(lengths) // ROWS_PER_BIN))
    bounds = np.unique(np.quantile(lengths, np.arange(1, wanted) / wanted, method="inverted_cdf"))
    bins = np.searchsorted(bounds, lengths, side="left")
    return tuple(
        _bin(lengths[bins == place], errors[bins == place], shares, confidence) for place in np.unique(bins).tolist()
    )


def _bin(
    lengths: npt.NDArray[np.integer], errors: npt.NDArray[np.float64], shares: bool, confidence: float
) -> LengthBin:
    rows, error = len(errors), float(errors.mean())
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    if shares:
        centre = (error + z**2 / (2 * rows)) / (1 + z**2 / rows)
        half = z * float(np.sqrt(error * (1 - error) / rows + z**2 / (4 * rows**2))) / (1 + z**2 / rows)
    else:
        centre, half = error, z * float(errors.std()) / float(np.sqrt(rows))
    return LengthBin(
        shortest=int(lengths.min()),
        longest=int(lengths.max()),
        rows=rows,
        error=error,
        low=max(0.0, min(error, centre - half)),  # rounding must not put the error itself outside
        high=max(error, centre + half),
    )
