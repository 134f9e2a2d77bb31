"""A comparison shown: tables in the terminal, or one HTML page that needs no network.

Promises: both say the same things in the same words; texts are shown as text whatever they hold; what is not known is
said to be so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipeline.comparing import Comparison, Flip, Flips, RowDifference, SplitComparison, Text
from pipeline.comparison_page import PAGE
from pipeline.console import facts, say, table
from pipeline.outputs import write_text
from pipeline.paths import ROWS
from pipeline.significance import Difference

# Kept beside `pipeline.metrics`, which takes seconds to import.
HEADLINES: Final = (
    *("accuracy", "f1", "f1_macro", "mcc"),
    *("f1_micro", "map", "subset_accuracy"),
    *("pearson", "spearman", "mae", "r2"),
    *("roc_auc", "roc_auc_macro", "roc_auc_micro", "ece", "loss"),
)
LOWER_IS_BETTER: Final = ("loss", "mse", "mae", "ece", "mce", "brier")
SHOWN_CHARACTERS: Final = 70  # of a text in the terminal
UNKNOWN: Final = "-"


def show(comparison: Comparison) -> None:
    """Print a comparison: the metrics that matter most, and `settings.limit` rows of each kind."""
    facts("", [("A", _side(comparison, "a")), ("B", _side(comparison, "b"))])
    for note in comparison.notes:
        say(f"note: {note}")
    if comparison.params:
        lines = [[each.key, _value(each.a), _value(each.b)] for each in comparison.params]
        table("params that differ", ["param", "A", "B"], lines, left=3)
    else:
        say("params: no difference")
    for each in comparison.rows:
        say(row_line(each))
        for side, rows in (("A", each.shown_a), ("B", each.shown_b)):
            for row in rows:
                say(f"  only {side}: {_one_line(row.text, row.row_id)}")
    for split in comparison.splits:
        _show_split(comparison, split)
    say(method_line(comparison))
    for split in comparison.splits:
        say(verdict(comparison, split))


def write_page(comparison: Comparison, path: Path) -> None:
    """Write a comparison as one HTML file: all metrics, and `settings.limit` rows of each kind in full."""
    from jinja2 import Environment, StrictUndefined

    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.globals |= {
        "row_line": row_line,
        "flip_lists": flip_lists,
        "cells": metric_cells,
        "value": _value,
        "better": better,
        "verdict": verdict,
        "method": method_line,
        "unknown_text": _unknown_text,
        "metrics": lambda split: _ordered(split, every=True),
    }
    write_text(path, page.from_string(PAGE).render(c=comparison))


def row_line(difference: RowDifference) -> str:
    """Say how a split differs in its rows."""
    name = f"{difference.split} (scored rows)" if difference.scored else difference.split
    counts = [UNKNOWN if rows is None else f"{rows:,}" for rows in (difference.rows_a, difference.rows_b)]
    if difference.same:
        return f"rows of {name}: the same {counts[0]}"
    if difference.only_a is None or difference.only_b is None:
        return f"rows of {name}: A {counts[0]}, B {counts[1]}; which of them differ is not known"
    only = f"{difference.only_a:,} only in A, {difference.only_b:,} only in B"
    return f"rows of {name}: A {counts[0]}, B {counts[1]}; {only}"


def better(name: str, difference: Difference, comparison: Comparison) -> str:
    """Return which side is better by a metric, where that is clear; metrics of the user's own are not judged."""
    if not difference.clear(comparison.settings.confidence):
        return ""
    return "B" if (difference.difference < 0) == (name in LOWER_IS_BETTER) else "A"


def verdict(comparison: Comparison, split: SplitComparison) -> str:
    """Say in a line what came of a split, by its first metric."""
    if not split.metrics:
        return f"{split.split}: no metric in common"
    name, found = next(iter(_ordered(split, every=True)))
    line = f"{split.split}: {name} {found.a:.4f} (A), {found.b:.4f} (B): {found.difference:+.4f}"
    if found.p_value is None or found.low is None or found.high is None:
        return f"{line}; without predictions by row nobody can say whether that is chance"
    line += f" ({found.low:+.4f} to {found.high:+.4f}), p = {_p_value(found.p_value)}"
    winner = better(name, found, comparison)
    return f"{line}: {winner} is better" if winner else f"{line}: no clear difference"


def method_line(comparison: Comparison) -> str:
    """Say how intervals and p-values came about."""
    settings = comparison.settings
    return (
        f"differences are B - A on the rows that both scored; {settings.confidence:.0%} intervals from "
        f"{settings.samples:,} paired bootstrap resamples; p: McNemar's exact test for (subset) accuracy, else paired "
        f"permutation with {settings.permutations:,} swaps; seed {settings.seed}"
    )


def metric_cells(difference: Difference) -> tuple[str, str, str, str, str]:
    """Return a metric's cells: A, B, difference, interval, p."""
    interval = UNKNOWN
    if difference.low is not None and difference.high is not None:
        interval = f"{difference.low:+.4f} to {difference.high:+.4f}"
    p_value = UNKNOWN if difference.p_value is None else _p_value(difference.p_value)
    return f"{difference.a:.4f}", f"{difference.b:.4f}", f"{difference.difference:+.4f}", interval, p_value


def flip_lists(comparison: Comparison, flips: Flips) -> list[tuple[str, int, tuple[Flip, ...], str]]:
    """Return titles, counts, rows and what their weight is, for each kind of flip that there is."""
    if comparison.labels is not None and comparison.labels.problem_type == "regression":
        weight = "error changed by"
        kinds = [
            ("closer in B", flips.fixed, flips.shown_fixed),
            ("further off in B", flips.broken, flips.shown_broken),
        ]
    else:
        weight = "B's confidence"
        kinds = [
            ("fixed by B", flips.fixed, flips.shown_fixed),
            ("broken by B", flips.broken, flips.shown_broken),
            ("wrong in both, differently", flips.other, flips.shown_other),
        ]
    return [(title, count, shown, weight) for title, count, shown in kinds if count]


def _show_split(comparison: Comparison, split: SplitComparison) -> None:
    lines = [
        [name, *metric_cells(found), better(name, found, comparison)] for name, found in _ordered(split, every=False)
    ]
    about = f"{split.rows:,} rows that both scored" if split.rows else "as recorded"
    columns = ["metric", "A", "B", "B - A", f"{comparison.settings.confidence:.0%} interval", "p", "better"]
    table(f"{split.split}: {about}", columns, lines)
    if split.flips is None:
        return
    found = flip_lists(comparison, split.flips)
    if not found:
        say(f"{split.split}: no prediction flipped")
    for title, count, shown, weight in found:
        if shown:
            table(
                f"{split.split}: {count:,} {title}" + (f", first {len(shown)}" if len(shown) < count else ""),
                ["text", "label", "A", "B", weight],
                [
                    [_one_line(flip.text, flip.row_id), flip.label, flip.a, flip.b, f"{flip.weight:.3f}"]
                    for flip in shown
                ],
                left=4,
            )
        else:
            say(f"{split.split}: {count:,} {title}")


def _ordered(split: SplitComparison, *, every: bool) -> Sequence[tuple[str, Difference]]:
    """Return metrics, those that matter most first; not every one: those, and the user's own."""
    first = [(name, split.metrics[name]) for name in HEADLINES if name in split.metrics]
    rest = [(name, found) for name, found in split.metrics.items() if name not in HEADLINES]
    if every or not split.rows:
        return first + rest
    return first + [(name, found) for name, found in rest if found.p_value is None and not name.endswith("_scaled")]


def _side(comparison: Comparison, name: str) -> str:
    side = comparison.a if name == "a" else comparison.b
    return f"{side.name}: {side.described}"


def _value(value: str | None) -> str:
    return "(not there)" if value is None else value or '""'


def _p_value(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.1e}"


def _one_line(text: Text | None, row_id: str) -> str:
    if text is None:
        return _unknown_text(row_id)
    whole = text.text if text.text_pair is None else f"{text.text} | {text.text_pair}"
    line = " ".join(whole.split())
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"


def _unknown_text(row_id: str) -> str:
    return f"row {row_id} (its text is not in {ROWS.as_posix()} here)"
