"""100,000 rows with planted duplicates: all of them are found, nothing else is touched, no leak is left."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from canonical import Row, settings, table

from pipeline.duplicates import Duplicates, find_duplicates, similarity_of
from pipeline.leakage import list_pairs, verify
from pipeline.splitting import NO_SPLIT, Division, Fate, divide

ROWS, EXACT, NORMALISED, NEAR, CONFLICTS = 100_000, 2_000, 2_000, 2_000, 500
BASES = ROWS - EXACT - NORMALISED - NEAR - CONFLICTS
THRESHOLD = settings().near_duplicate_threshold


def corpus() -> list[Row]:
    """BASES texts of 30 words; after them copies of the first of them, each in a split and of a label at random."""
    rng = np.random.default_rng(20)
    words = np.array([f"word{number}" for number in range(30_000)])
    drawn = words[(rng.pareto(0.7, (BASES, 30)) * 20).astype(np.int64) % len(words)]
    splits = rng.choice(["train", "validation", "test"], ROWS, p=[0.8, 0.1, 0.1]).tolist()
    labels = rng.choice(["yes", "no"], ROWS).tolist()
    texts = [" ".join(row) for row in drawn.tolist()]
    for number in range(EXACT):
        texts.append(texts[number])
        labels[BASES + number] = labels[number]
    for number in range(EXACT, EXACT + NORMALISED):
        texts.append(f"“{texts[number].capitalize().replace(' ', ', ', 3)}”!")
    for number in range(EXACT + NORMALISED, EXACT + NORMALISED + NEAR):
        row = drawn[number].copy()
        row[rng.choice(30, rng.integers(1, 4), replace=False)] = "another"
        texts.append(" ".join(row))
    for number in range(EXACT + NORMALISED + NEAR, EXACT + NORMALISED + NEAR + CONFLICTS):
        texts.append(texts[number])
        labels[BASES + number] = "no" if labels[number] == "yes" else "yes"
    return [Row(text, label, split) for text, label, split in zip(texts, labels, splits, strict=True)]


Planted = tuple[list[Row], Duplicates, dict[tuple[int, int], float]]


@pytest.fixture(scope="module")
def planted() -> Planted:
    """The rows, what is found among them, and the near pairs that are there to be found."""
    rows = corpus()
    places = range(EXACT + NORMALISED, EXACT + NORMALISED + NEAR)
    scores = {
        (number, BASES + number): similarity_of((rows[number].text, None), (rows[BASES + number].text, None), 3)
        for number in places
    }
    return rows, find_duplicates(table(rows), settings()), {p: s for p, s in scores.items() if s >= THRESHOLD}


def test_all_that_is_planted_is_found_and_nothing_else(planted: Planted) -> None:
    _, found, near = planted
    content = found.content
    copies = np.array([number for number in range(ROWS - BASES) if not 4_000 <= number < 6_000])
    assert (content[copies] == content[BASES + copies]).all()
    assert len(found.digests) == ROWS - EXACT - NORMALISED - CONFLICTS
    row = {number: place for place, number in enumerate(content.tolist())}
    pairs = {tuple(sorted((row[a], row[b]))): score for (a, b), score in zip(found.near, found.similarity, strict=True)}
    assert len(near) > 500
    assert pairs.items() <= near.items()
    assert len(pairs) >= 0.99 * len(near)


@pytest.mark.parametrize(("given", "on_leak"), [(True, "drop_from_train"), (True, "drop_from_test"), (False, "fail")])
def test_no_leak_is_left_and_no_row_is_dropped_without_reason(planted: Planted, given: bool, on_leak: str) -> None:
    rows, found, near = planted
    as_table = table(rows)
    if not given:
        nobody = pa.nulls(ROWS, pa.string())
        as_table = as_table.set_column(4, as_table.schema.field("split"), nobody)
    options = settings(on_leak=on_leak)
    division = divide(as_table, found, options)
    pairs = list_pairs(as_table, found, division, options)
    assert verify(division, found, pairs, options).passed
    left = [
        (one, other)
        for one in range(ROWS - BASES)
        for other in [BASES + one]
        if not 4_000 <= one < 6_000 or (one, other) in near
        if NO_SPLIT != division.split[one] != division.split[other] != NO_SPLIT
    ]
    assert set(left) <= near.keys()
    assert len(left) <= 0.01 * len(near)
    involved = {row for pair in pairs for row in (pair.first.line - 1, pair.second.line - 1)}
    dropped = np.flatnonzero(division.fate)
    assert set(dropped.tolist()) <= involved
    check_reasons(rows, division, near)


def check_reasons(rows: list[Row], division: Division, near: dict[tuple[int, int], float]) -> None:
    """Whatever was dropped is one of two planted rows, and the other one is kept."""
    for row in np.flatnonzero(division.fate).tolist():
        partner = row - BASES if row >= BASES else row + BASES
        assert 0 <= partner < ROWS
        assert division.fate[partner] == Fate.KEPT
        pair = (min(row, partner), max(row, partner))
        assert not 4_000 <= pair[0] < 6_000 or pair in near
        if division.fate[row] == Fate.DROPPED:
            assert rows[row].label == rows[partner].label
