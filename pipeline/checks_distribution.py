"""Checks of how rows are distributed: over lengths, over writing systems, over classes.

Promises: each threshold stands here with its reason; a check counts rows or classes and names the extremes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.checks import MOST_EXAMPLES, Finding
from pipeline.checks_repeats import ExamplesAt
from pipeline.checks_text import SCRIPT_NAMES
from pipeline.reading_base import shorten
from pipeline.row_facts import RowFacts

# A text ten times as long as the 99th percentile, and no mere paragraph, is another thing than the rest: a quote never
# closed, a whole document in one field.
FAR_LONGER: Final = 10
LONG: Final = 1_000  # characters
# Lengths of texts that nobody cut thin out towards the longest: a twentieth of them at that very length, and three
# times as many as in the tenth below it, were cut there.
CUT_SHARE: Final = 0.05
CUT_SPIKE: Final = 3
CUT_ROWS: Final = 20
CUT_LENGTH: Final = 50  # characters: below, short answers and ids may well be of one length

# In corpora meant to be of one language, a hundredth in another writing system is worth a look.
STRANGE_SHARE: Final = 0.01

# What test files have in place of labels that are kept secret: GLUE's have -1.
NO_LABEL: Final = frozenset({"-1", "-100", "?", "-", "na", "n/a", "nan", "none", "null", "unknown", "unlabelled"})

SMALL_CLASS: Final = 10  # rows; with fewer, a tenth of them for a test is none
# "Highly imbalanced" in the literature: A. Fernandez et al., Learning from Imbalanced Data Sets, Springer 2018; data
# sets of KEEL (J. Alcala-Fdez et al., J. Mult.-Valued Log. Soft Comput. 17, 2011) with a ratio above 9.
IMBALANCE_RATIO: Final = 9.0


def length(facts: RowFacts, examples_at: ExamplesAt) -> Finding:
    """Count texts far longer than the rest, and texts that were cut before they got here.

    Truncation at tokenize.max_length is the tokenize stage's to count: it has the tokenizer.
    """
    sides = list(facts.sizes().values())
    outliers = np.zeros(len(facts), bool)
    cut = np.zeros(len(facts), bool)
    messages = []
    for side in sides:
        usual = max(int(np.percentile(side, 99, method="inverted_cdf")) * FAR_LONGER, LONG)
        outliers |= side > usual
        longest = side.max()
        ends = side == longest
        below = int(((side >= 0.9 * longest) & ~ends).sum())
        enough = max(CUT_ROWS, CUT_SHARE * len(side), CUT_SPIKE * below)
        if longest >= CUT_LENGTH and enough <= ends.sum() < len(side):
            cut |= ends
            messages.append(f"{ends.sum():,} texts end at exactly {longest:,} characters, as if cut there")
    if outliers.any():
        messages.insert(0, f"{outliers.sum():,} texts are more than {FAR_LONGER} times as long as 99 in 100")
    if not messages:
        return Finding(count=0, message=f"the longest text has {max(int(side.max()) for side in sides):,} characters")
    return Finding(
        count=int((outliers | cut).sum()),
        message="; ".join(messages),
        fix="look at the examples: a quote that is never closed joins rows, an export may have cut texts",
        examples=examples_at(np.flatnonzero(outliers if outliers.any() else cut)[:MOST_EXAMPLES]),
    )


def scripts(facts: RowFacts, examples_at: ExamplesAt) -> Finding:
    """Count rows in another writing system than most rows.

    Writing systems, not languages: German among English goes unseen. Han rows count as Japanese where kana prevail.
    """
    counts = np.bincount(facts.scripts, minlength=len(SCRIPT_NAMES))
    counts[0] = 0
    total = int(counts.sum())
    if not total:
        return Finding(count=0, message="no text has a letter")
    main = int(counts.argmax())
    at_home = {main, 0} | ({SCRIPT_NAMES.index("Han")} if SCRIPT_NAMES[main] == "kana" else set())
    strange = ~np.isin(facts.scripts, list(at_home))
    order = sorted(np.flatnonzero(counts), key=lambda number: (-counts[number], number))
    shares = ", ".join(f"{SCRIPT_NAMES[number]} {counts[number] / total:.1%}" for number in order)
    rows = int(strange.sum())
    if rows <= STRANGE_SHARE * total:
        return Finding(count=0, message=f"rows by writing system: {shares}")
    return Finding(
        count=rows,
        message=f"rows are in another writing system than most: {shares}",
        fix="check that the encoder knows all of them, or take out the rows that do not belong",
        examples=examples_at(np.flatnonzero(strange)[:MOST_EXAMPLES]),
    )


def small_classes(names: Sequence[str], counts: NDArray[np.int64], place: str) -> Finding:
    """Count the classes with fewer than SMALL_CLASS rows.

    Args:
        names: the classes, in order.
        counts: rows of each to learn from, shape (classes,).
        place: where those rows are, for the message.
    """
    small = [(int(count), name) for name, count in zip(names, counts, strict=True) if count < SMALL_CLASS]
    if not small:
        return Finding(count=0, message=f"the smallest class has {int(counts.min()):,} rows {place}")
    shown = ", ".join(f"{shorten(name, 30)} {count}" for count, name in sorted(small)[:10])
    more = f" and {len(small) - 10:,} more" if len(small) > 10 else ""
    stand_in = next((name for count, name in small if count == 0 and name.casefold() in NO_LABEL), None)
    return Finding(
        count=len(small),
        message=f"classes have fewer than {SMALL_CLASS} rows {place}: {shown}{more}",
        fix="add rows, or merge these classes: with so few, scores of theirs mean little and a split may get none"
        + (f"; if {stand_in!r} stands for no label, leave the label empty in the test file" if stand_in else ""),
    )


def imbalance(names: Sequence[str], counts: NDArray[np.int64], place: str) -> Finding:
    """Compare the largest class with the smallest that has a row.

    Args:
        names: the classes, in order.
        counts: rows of each to learn from, shape (classes,), two of them at least not 0.
        place: where those rows are, for the message.
    """
    largest = int(counts.argmax())
    smallest = int(np.where(counts > 0, counts, counts.max() + 1).argmin())
    ratio = counts[largest] / counts[smallest]
    told = (
        f"{shorten(names[largest], 30)} has {int(counts[largest]):,} rows {place}, {shorten(names[smallest], 30)} "
        f"{int(counts[smallest]):,} ({ratio:.1f} to 1)"
    )
    if ratio == 1:
        told = f"all classes have {int(counts[largest]):,} rows {place}"
    if ratio <= IMBALANCE_RATIO:
        return Finding(count=0, message=told)
    share = counts[largest] / counts.sum()
    return Finding(
        count=int((counts[largest] > IMBALANCE_RATIO * counts[counts > 0]).sum()),
        message=f"classes are more than {IMBALANCE_RATIO:g} times smaller than the largest: {told}",
        fix=f"judge by f1_macro or mcc: always saying {shorten(names[largest], 30)} has an accuracy of {share:.1%}",
    )
