"""Rows made of words drawn at random, as many and as long as a benchmark of speed asks for; there is nothing to learn.

Promises: a text has exactly the number of tokens asked for with the vocabulary of BERT's uncased models, special tokens
included; rows are a function of the seed, and no two alike but by chance.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.model_source import resolve
from pipeline.params import Model

# Tokens of MRPC's training pairs, both sentences and three special tokens, at every tenth of the rows.
MRPC_LENGTHS = (19, 36, 41, 45, 49, 53, 57, 61, 64, 70, 103)
SPECIAL_TOKENS = 2  # of a single text


def mrpc_lengths(count: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Draw lengths that are distributed as MRPC's, straight between tenths."""
    drawn = np.random.default_rng([seed, 1]).random(count)
    return np.interp(drawn, np.linspace(0, 1, len(MRPC_LENGTHS)), MRPC_LENGTHS).round().astype(np.int64)


def even_lengths(count: int, low: int, high: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Draw lengths that are all equally likely, both ends included."""
    return np.random.default_rng([seed, 2]).integers(low, high + 1, count)


def write_rows(path: Path, lengths: Sequence[int] | npt.NDArray[np.int64], model: Model, seed: int = 0) -> None:
    """Write JSON Lines with a text of each length, in tokens, and one of two labels."""
    generator = np.random.default_rng([seed, 3])
    words = np.array(whole_words(resolve(model, weights=False).folder))
    with path.open("w", encoding="utf-8") as out:
        for number, length in enumerate(lengths):
            text = " ".join(generator.choice(words, length - SPECIAL_TOKENS).tolist())
            out.write(json.dumps({"text": text, "label": "yes" if number % 2 else "no"}) + "\n")


def whole_words(folder: Path) -> list[str]:
    """Return the words of more than two letters a-z that are a single token of the tokenizer in a folder."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    return sorted(word for word in vocabulary if len(word) > 2 and word.isascii() and word.isalpha())
