"""What is remembered of every row for the checks of the data as a whole: a few numbers, never a text.

Promises: fewer than 50 bytes a row, in numpy arrays, in the order of rows.parquet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.checks_text import TextFacts
from pipeline.normalize import normal_forms
from pipeline.paths import SPLIT_NAMES
from pipeline.row_store import Batch

SPLITS: Final[tuple[str | None, ...]] = (*SPLIT_NAMES, None)
UNLABELLED: Final = -1
_SPLIT_NUMBERS: Final = {split: number for number, split in enumerate(SPLITS)}
KEY: Final = np.dtype([("high", "<u8"), ("low", "<u8")])


@dataclass(frozen=True, kw_only=True, eq=False)
class RowFacts:
    """A column per fact, each of shape (rows,).

    Attributes:
        keys: KEY, 128 bits of the normal form of the text, or of both texts of a pair in their order.
        labels: int32, position in `label_names`, UNLABELLED where there is none.
        splits: uint8, position in SPLITS.
        characters: uint32, length of the text in code points.
        words: uint32, words of its normal form, in which each character of a script without spaces is one.
        pair_characters: uint32, as `characters` for the second text; None in single-text data, as is `pair_words`.
        scripts: uint8, of the text, position in checks_text.SCRIPT_NAMES.
        label_names: the labels, in order of appearance.
    """

    keys: NDArray[np.void]
    labels: NDArray[np.int32]
    splits: NDArray[np.uint8]
    characters: NDArray[np.uint32]
    words: NDArray[np.uint32]
    pair_characters: NDArray[np.uint32] | None
    pair_words: NDArray[np.uint32] | None
    scripts: NDArray[np.uint8]
    label_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def label_counts(self, rows: NDArray[np.bool_] | slice = slice(None)) -> NDArray[np.int64]:
        """Return how many of the selected rows have each label, shape (labels,)."""
        labels = self.labels[rows]
        return np.bincount(labels[labels != UNLABELLED], minlength=len(self.label_names))

    def sizes(self) -> dict[str, NDArray[np.uint32]]:
        """Return lengths in characters by column."""
        pair = self.pair_characters
        return {"text": self.characters} if pair is None else {"text": self.characters, "text_pair": pair}

    def sizes_in_words(self) -> dict[str, NDArray[np.uint32]]:
        """Return lengths in words by column."""
        pair = self.pair_words
        return {"text": self.words} if pair is None else {"text": self.words, "text_pair": pair}

    def to_learn_from(self) -> NDArray[np.bool_]:
        """Return which rows a model may learn from, shape (rows,): train where it is given, else all."""
        train = self.splits == SPLITS.index("train")
        return train if train.any() else np.ones(len(self), bool)


class FactsBuilder:
    """Gathers RowFacts batch by batch."""

    def __init__(self) -> None:
        self._chunks: list[dict[str, NDArray[Any]]] = []
        self._labels: dict[str | None, int] = {None: UNLABELLED}

    def add(self, batch: Batch, text: TextFacts, pair: TextFacts | None) -> None:
        """Remember the rows of a batch."""
        labels = self._labels
        for label in batch.labels:
            if label not in labels:
                labels[label] = len(labels) - 1
        normals = [normal_forms(pa.array(batch.texts, pa.large_string()))]
        chunk: dict[str, NDArray[Any]] = {
            "labels": np.fromiter(map(labels.__getitem__, batch.labels), np.int32, len(batch.labels)),
            "splits": np.fromiter(map(_SPLIT_NUMBERS.__getitem__, batch.splits), np.uint8, len(batch.splits)),
            "characters": text.characters,
            "words": _words(normals[0]),
            "scripts": text.scripts,
        }
        if pair is not None:
            normals.append(normal_forms(pa.array(batch.pairs, pa.large_string())))
            chunk |= {"pair_characters": pair.characters, "pair_words": _words(normals[1])}
        self._chunks.append({"keys": _keys(normals), **chunk})

    def build(self) -> RowFacts:
        """Return what was gathered, at least one batch."""
        columns = {name: np.concatenate([chunk[name] for chunk in self._chunks]) for name in self._chunks[0]}
        return RowFacts(
            label_names=tuple(name for name in self._labels if name is not None),
            pair_characters=columns.pop("pair_characters", None),
            pair_words=columns.pop("pair_words", None),
            **columns,
        )


def _words(normals: pa.LargeStringArray) -> NDArray[np.uint32]:
    words: NDArray[np.uint32] = (pc.count_substring(normals, " ").to_numpy() + 1).astype(np.uint32)
    return words


def _keys(normals: list[pa.LargeStringArray]) -> NDArray[np.void]:
    """Hash each row's normal forms, one array for each side, to 128 bits: shape (rows,) of KEY."""
    contents: Iterable[bytes] = normals[0].cast(pa.large_binary()).to_pylist()
    if len(normals) > 1:
        # The length of the first side keeps ("ab", "c") and ("a", "bc") apart.
        second = normals[1].cast(pa.large_binary()).to_pylist()
        contents = (b"%d:%b%b" % (len(one), one, other) for one, other in zip(contents, second, strict=True))
    return np.frombuffer(b"".join(blake2b(content, digest_size=16).digest() for content in contents), KEY)
