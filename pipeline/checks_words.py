"""Checks of words, on a sample of rows: class names inside the texts, and words that train has never seen.

Promises: the sample has a fixed size (pipeline.row_sample), so the cost does not grow with the data.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa

from pipeline.checks import Example, Finding, snippet
from pipeline.label_index import LabelIndex
from pipeline.normalize import normal_forms, normalise
from pipeline.reading_base import shorten
from pipeline.row_sample import SampledRow

# A name that a third more of the texts of its class hold than of all others is a shortcut that a model will take;
# that some articles on sport say "sport" is how language is.
SHORTCUT_SHARE: Final = 0.3
SHORTCUT_ROWS: Final = 20  # of a class in the sample; below, shares mean little

# Ten words in a hundred that train lacks, over what train itself lacks of its own held-out rows.
VOCABULARY_SHIFT: Final = 0.1
VOCABULARY_WORDS: Final = 1_000


def label_in_text(rows: Sequence[SampledRow], index: LabelIndex) -> Finding:
    """Count the classes whose name stands, as a word, in far more texts of theirs than of others.

    Args:
        rows: sampled labelled rows.
        index: what their labels mean. Names without a letter are passed over: numbers have other reasons to be there.
    """
    words = {name: normalise(name) for name in index.classes}
    classes = [index.classes_of(str(row.label)) for row in rows]
    by_first: dict[str, list[str]] = defaultdict(list)  # classes, by the first word of their names
    for name, normal in words.items():
        if any(map(str.isalpha, normal)):
            by_first[normal.split(" ")[0]].append(name)
    inside: dict[str, list[int]] = defaultdict(list)  # rows with the name in them
    for row, normal in enumerate(_normals(rows)):
        for first in by_first.keys() & set(normal.split(" ")):
            for name in by_first[first]:
                if f" {words[name]} " in f" {normal} ":
                    inside[name].append(row)
    sizes = Counter(name for names in classes for name in names)
    told, examples = [], []
    for name in index.classes:
        own = [row for row in inside[name] if name in classes[row]]
        own_share = len(own) / max(sizes[name], 1)
        other_share = (len(inside[name]) - len(own)) / max(len(rows) - sizes[name], 1)
        if sizes[name] >= SHORTCUT_ROWS and own_share - other_share >= SHORTCUT_SHARE:
            told.append(f"{shorten(name, 30)} in {own_share:.0%} of its texts and {other_share:.0%} of the rest")
            shown = rows[min(own)]
            at = max(shown.texts.casefold().find(name.casefold()), 0)
            examples.append(Example(source=shown.source, line=shown.line, snippet=snippet(shown.texts, at)))
    if not told:
        return Finding(count=0, message="no class name gives its class away")
    return Finding(
        count=len(told),
        message="classes have their name in the texts: " + "; ".join(told[:5]) + ("; ..." if len(told) > 5 else ""),
        fix="take the names out if they were added with the labels: scores would say nothing about texts without them",
        examples=tuple(examples[:5]),
    )


def vocabulary_shift(train: Sequence[SampledRow], others: Mapping[str, Sequence[SampledRow]]) -> Finding:
    """Compare the share of words that train lacks in other splits with the same in rows of train held out for this.

    Args:
        train: sampled rows of train, in no order that means anything. The words of the first half are the vocabulary;
            the second half tells how many words are unknown when nothing has shifted.
        others: sampled rows of the other splits, by name.
    """
    half = (len(train) + 1) // 2
    vocabulary = {word for normal in _normals(train[:half]) for word in normal.split(" ")}

    def unknown(rows: Sequence[SampledRow]) -> tuple[int, Counter[str]]:
        """Return how many words there are, and how often each of the unknown ones occurs."""
        words = [word for normal in _normals(rows) for word in normal.split(" ")]
        return len(words), Counter(word for word in words if word not in vocabulary)

    usual_words, usual_strangers = unknown(train[half:])
    usual = usual_strangers.total() / max(usual_words, 1)
    told, shifted = [], []
    for name, rows in others.items():
        words, strangers = unknown(rows)
        share = strangers.total() / max(words, 1)
        line = f"{share:.1%} of the words of {name} are new to train, {usual:.1%} of those of its own held-out rows"
        told.append(line)
        if min(words, usual_words) >= VOCABULARY_WORDS and share - usual >= VOCABULARY_SHIFT:
            commonest = sorted(strangers, key=lambda word: (-strangers[word], word))[:5]
            shifted.append(f"{line}, such as {', '.join(shorten(word, 20) for word in commonest)}")
    return Finding(
        count=len(shifted),
        message="; ".join(shifted or told),
        fix="check that the splits come from one source; expect scores below those on rows like train's",
    )


def _normals(rows: Sequence[SampledRow]) -> list[str]:
    normals: list[str] = normal_forms(pa.array([row.texts for row in rows], pa.large_string())).to_pylist()
    return normals
