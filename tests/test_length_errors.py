"""Errors by length: every row in one bin, errors that are means, intervals around them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.length_errors import MOST_BINS, ROWS_PER_BIN, errors_by_length


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 700), st.integers(1, 200), st.booleans(), st.integers(0, 9))
def test_bins_divide_the_rows_by_length(rows: int, longest: int, shares: bool, seed: int) -> None:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, longest + 1, rows)
    errors = (generator.random(rows) < 0.2).astype(float) if shares else generator.exponential(3, rows)
    bins = errors_by_length(lengths, errors, shares=shares, confidence=0.95)
    assert 1 <= len(bins) <= min(MOST_BINS, max(1, rows // ROWS_PER_BIN))
    assert sum(each.rows for each in bins) == rows
    assert (bins[0].shortest, bins[-1].longest) == (lengths.min(), lengths.max())
    for each, after in pairwise(bins):
        assert each.longest < after.shortest
    for each in bins:
        inside = (lengths >= each.shortest) & (lengths <= each.longest)
        assert each.rows == inside.sum()
        assert each.error == pytest.approx(errors[inside].mean())
        assert 0 <= each.low <= each.error <= each.high


def test_the_interval_of_a_share_is_wilsons() -> None:
    errors = np.array([1.0] * 4 + [0.0] * 16)
    (found,) = errors_by_length(np.full(20, 7), errors, shares=True, confidence=0.95)
    # Newcombe, Statistics in Medicine 17, 1998, gives the formula; 4 of 20.
    assert (found.low, found.high) == (pytest.approx(0.0807, abs=5e-5), pytest.approx(0.4160, abs=5e-5))
