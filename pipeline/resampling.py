"""Resamples of rows as weights, and sums under them: what lets any metric be scored on a thousand resamples at once.

Promises: the draws depend on the seed and the number of rows alone, so all metrics of a split, and two models scored on
the same rows, see the same resamples (they are paired).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

Weights = npt.NDArray[np.float64]  # [rows, resamples]: how often a resample holds a row
Values = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]

CELLS = 4_000_000  # of weights held at once: 32 MB


def resamples(rows: int, samples: int, seed: int) -> Iterator[Weights]:
    """Draw rows with replacement, as many as there are, `samples` times; yield weights for some resamples at a time.

    Args:
        rows: how many rows there are, at least one.
        samples: how many resamples to draw.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    width = max(1, CELLS // rows)
    for start in range(0, samples, width):
        count = min(width, samples - start)
        drawn = [np.bincount(generator.integers(rows, size=rows), minlength=rows) for _ in range(count)]
        yield np.ascontiguousarray(np.stack(drawn, axis=1), dtype=np.float64)


def once(rows: int) -> Weights:
    """Return the weights that count every row once: the data as they are, float64 [rows, 1]."""
    return np.ones((rows, 1))


def group_sums(
    groups: Ids, rows: Ids, weights: Weights, num_groups: int, values: npt.NDArray[np.float64] | None = None
) -> Values:
    """Sum values by group under each resample.

    Args:
        groups: the group of each entry, [entries].
        rows: the row that each entry belongs to, [entries]; its weight is that row's.
        weights: [rows, resamples].
        num_groups: how many groups there are.
        values: of the entries, [entries]; None counts entries.

    Returns:
        float64 [groups, resamples].
    """
    data = np.ones(len(groups)) if values is None else values
    # Sparse, so the cost is that of the entries, however many groups there are.
    result: Values = csr_array((data, (groups, rows)), shape=(num_groups, len(weights))) @ weights
    return result


def ratio(
    numerator: npt.NDArray[np.floating | np.integer], denominator: npt.NDArray[np.floating | np.integer]
) -> Values:
    """Divide, with 0 where the denominator is 0: scikit-learn's zero_division=0."""
    result: Values = np.divide(
        numerator, denominator, out=np.zeros(np.broadcast(numerator, denominator).shape), where=denominator != 0
    )
    return result
