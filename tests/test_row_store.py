from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.row_sample import SIZE, RowSampler
from pipeline.row_store import Batch, RowWriter, relabel, rows_at
from pipeline.rows import read_rows


def batch(first: int, count: int, split: str | None = None) -> Batch:
    numbers = range(first, first + count)
    return Batch(
        sources=["all.csv"] * count,
        texts=[f"text {number}" for number in numbers],
        pairs=[None] * count,
        labels=["ab"[number % 2] for number in numbers],
        splits=[split] * count,
        lines=[number + 2 for number in numbers],
        groups=[None] * count,
        times=[None] * count,
        kept=[[("shop", f"{number % 3}"), ("stars", None)] for number in numbers],
    )


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("pipeline.row_store.ROW_GROUP", 4)
    path = tmp_path / "rows.parquet"
    with RowWriter(path) as writer:
        for first, count in ((0, 3), (3, 6), (9, 1), (10, 4)):
            writer.write(batch(first, count))
    return path


def test_batches_of_any_size_make_the_same_bytes(rows: Path, tmp_path: Path) -> None:
    with RowWriter(tmp_path / "whole.parquet") as writer:
        writer.write(batch(0, 14))
    assert (tmp_path / "whole.parquet").read_bytes() == rows.read_bytes()


def test_rows_by_position(rows: Path) -> None:
    found = rows_at(rows, np.array([0, 3, 4, 12]), ["line", "text"])
    assert found.to_pydict() == {"line": [2, 5, 6, 14], "text": ["text 0", "text 3", "text 4", "text 12"]}
    assert rows_at(rows, np.array([], np.int64), ["line"]).num_rows == 0


def test_relabelling_is_as_writing_with_those_labels(rows: Path, tmp_path: Path) -> None:
    relabel(rows, {"a": "x", "b": "y"})
    other = batch(0, 14)
    with RowWriter(tmp_path / "other.parquet") as writer:
        writer.write(other._replace(labels=["xy"["ab".index(str(label))] for label in other.labels]))
    assert rows.read_bytes() == (tmp_path / "other.parquet").read_bytes()
    assert set(read_rows(rows)["label"].to_pylist()) == {"x", "y"}


def test_a_sample_is_even_and_the_same_for_any_batches() -> None:
    one, other = RowSampler(), RowSampler()
    total = 12 * SIZE
    for first in range(0, total, 1000):
        one.add(batch(first, 1000, "train"))
    for first in range(0, total, 4000):
        other.add(batch(first, 4000, "train"))
    chosen = one.of_split("train")
    assert chosen == other.of_split("train")
    assert len(chosen) == SIZE
    assert one.of_split("test") == []
    # Alternating labels, and both halves of the file, are hit alike: within five standard deviations.
    spread = 5 * np.sqrt(SIZE / 4)
    assert abs(sum(row.label == "a" for row in chosen) - SIZE / 2) < spread
    assert abs(sum(row.line < total / 2 for row in chosen) - SIZE / 2) < spread
