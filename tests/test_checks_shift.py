from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, ks_2samp

from pipeline.checks_shift import KS_FACTOR, LEVEL, chi_square, kolmogorov_smirnov

SIZES = st.lists(st.integers(0, 50), min_size=1, max_size=40)
COUNTS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=2, max_size=6)


@given(SIZES, SIZES)
def test_kolmogorov_smirnov_is_scipys(first: list[int], second: list[int]) -> None:
    ours = kolmogorov_smirnov(np.sort(first), np.sort(second))
    assert np.isclose(ours, ks_2samp(first, second, method="asymp").statistic)


@given(COUNTS.filter(lambda counts: all(sum(side) for side in zip(*counts, strict=True))))
def test_chi_square_is_scipys(counts: list[tuple[int, int]]) -> None:
    table = np.array([pair for pair in counts if sum(pair)]).T
    theirs = chi2_contingency(table, correction=False).pvalue if table.shape[1] > 1 else 1.0
    assert np.isclose(chi_square(*np.array(counts).T), theirs)


def test_the_factor_is_that_of_the_level() -> None:
    assert np.isclose(KS_FACTOR, np.sqrt(-np.log(LEVEL / 2) / 2), atol=1e-3)
