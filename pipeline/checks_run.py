"""Asking the data as a whole: which checks apply, and what each of them gets to see.

Promises: works on numbers and a sample, and reads back no more of rows.parquet than a handful of examples; checks that
are off cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import paths
from pipeline.checks import Example, Finding, snippet
from pipeline.checks_distribution import imbalance, length, scripts, small_classes
from pipeline.checks_repeats import conflicting_labels, exact_duplicates, find_repeats
from pipeline.checks_shift import label_shift, length_shift
from pipeline.checks_words import label_in_text, vocabulary_shift
from pipeline.label_index import LabelIndex
from pipeline.row_facts import RowFacts
from pipeline.row_sample import SIZE, RowSampler
from pipeline.row_store import rows_at

COLUMNS = ("source", "line", "label", "text", "text_pair")


def findings_on_the_whole(
    facts: RowFacts, sampler: RowSampler, index: LabelIndex, rows: Path, wanted: Collection[str]
) -> dict[str, Finding]:
    """Ask the checks that no single row can answer.

    Args:
        facts: all rows, at least one.
        sampler: has seen the same rows.
        index: what their labels mean.
        rows: rows.parquet, with the same rows in the same order.
        wanted: names of the checks to ask.

    Returns:
        Findings by check name; those that do not apply to these data are not among them.
    """
    examples = partial(_examples, rows)
    repeats = find_repeats(facts)
    learn = facts.to_learn_from()
    place = "in train" if not learn.all() else "in all"
    classes = index.classes
    counts = index.class_counts(facts.label_counts(learn))
    checks: dict[str, Callable[[], Finding | None]] = {
        "length": lambda: length(facts, examples),
        "scripts": lambda: scripts(facts, examples),
        "exact_duplicates": lambda: exact_duplicates(facts, repeats, examples),
        "conflicting_labels": lambda: conflicting_labels(facts, repeats, examples),
        "length_shift": lambda: length_shift(facts),
        "label_shift": lambda: label_shift(facts, index),
        "vocabulary_shift": lambda: _vocabulary_shift(sampler),
    }
    if counts.any():
        checks |= {
            "small_classes": lambda: small_classes(classes, counts, place),
            "imbalance": lambda: imbalance(classes, counts, place),
            "label_in_text": lambda: label_in_text(sampler.labelled(), index),
        }
    found = {name: check() for name, check in checks.items() if name in wanted}
    return {name: finding for name, finding in found.items() if finding is not None}


def _vocabulary_shift(rows: RowSampler) -> Finding | None:
    train = rows.of_split("train", 2 * SIZE)
    others = {split: sampled for split in paths.SPLIT_NAMES[1:] if (sampled := rows.of_split(split))}
    return vocabulary_shift(train, others) if train and others else None


def _examples(rows: Path, positions: NDArray[np.int64]) -> tuple[Example, ...]:
    """Show the rows at these positions: place, label and the beginning of the text."""
    found = rows_at(rows, positions, COLUMNS).to_pylist()
    return tuple(
        Example(
            source=row["source"],
            line=row["line"],
            snippet=snippet(
                " | ".join(part for part in (row["label"], row["text"], row["text_pair"]) if part is not None)
            ),
        )
        for row in found
    )
