"""When two texts count as the same: a normal form, and the shingles by which nearly equal texts are compared.

Promises: the normal form ignores case, width, punctuation, symbols and spacing, never depends on other texts, and keeps
texts without a letter or digit apart. `shingles` is the definition; `shingle_hashes` computes the same sets in bulk.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# Scripts written without spaces between words: each character is a word of its own, so that word shingles become
# character shingles exactly where they have to. Han, kana, bopomofo, Thai, Lao, Myanmar, Khmer.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff]"
)
_VARIATION_SELECTOR = re.compile("[\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
# What NFKC leaves of a free-standing accent (´ becomes a space and U+0301): punctuation, not text.
_LONE_ACCENT = re.compile("(?<!\\S)[\u0300-\u036f\u3099\u309a]+")


class _CharacterTable(dict[int, str]):
    """For `str.translate`: what becomes of each code point, worked out when first met."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        if category in {"Cf", "Me"} or _VARIATION_SELECTOR.match(char):
            result = ""  # invisible, or the frame of a keycap
        elif category[0] in "PSZ" or category == "Cc":
            result = " "
        elif _UNSPACED.match(char):
            result = f" {char} "
        else:
            result = char
        self[code] = result
        return result


_TABLE = _CharacterTable()


def normalise(text: str) -> str:
    """Return the normal form: words, lower-cased and without punctuation, joined by single spaces.

    Unicode NFKC (which folds full- and half-width forms) and case folding; punctuation, symbols and control characters
    part words; each character of a script without spaces is a word. A text of nothing but those, such as a row of
    emoji, stays as it is apart from its spacing, so that such texts do not all become one. White space alone gives "".
    """
    if text.isascii():
        words = text.casefold().translate(_TABLE).split()
    else:
        folded = unicodedata.normalize("NFKC", text).casefold()
        # Once more: case folding can undo a composition, and a removed invisible can make one possible.
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", folded).translate(_TABLE))
        words = _LONE_ACCENT.sub("", folded).split()
    normal = " ".join(words)
    return normal if any(map(str.isalnum, normal)) else " ".join(text.split())


def shingles(normal: str, size: int) -> frozenset[tuple[str, ...]]:
    """Return the set of runs of `size` words of a normal form.

    A text with fewer words is its own single shingle, so it equals no text but itself; "" has none.
    """
    words = normal.split(" ") if normal else []
    if not words:
        return frozenset()
    return frozenset(tuple(words[start : start + size]) for start in range(max(1, len(words) - size + 1)))


def jaccard(first: frozenset[tuple[str, ...]], second: frozenset[tuple[str, ...]]) -> float:
    """Return |A and B| / |A or B|; 1 for two empty sets."""
    if not first and not second:
        return 1.0
    common = len(first & second)
    return common / (len(first) + len(second) - common)


@dataclass(frozen=True, kw_only=True, eq=False)
class ShingleHashes:
    """The shingles of many texts as 64-bit hashes, text after text.

    Attributes:
        hashes: uint64, shape (shingles,); a shingle that a text repeats may stand several times.
        offsets: int64, shape (texts + 1,); text i owns hashes[offsets[i]:offsets[i + 1]].
    """

    hashes: NDArray[np.uint64]
    offsets: NDArray[np.int64]

    @property
    def rows(self) -> NDArray[np.int64]:
        """The text that each hash belongs to, shape (shingles,)."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def shingle_hashes(normals: Sequence[str], size: int) -> ShingleHashes:
    """Hash the shingles of many normal forms.

    The hash of a shingle depends on its words alone. Two different shingles agree with a chance of 2**-64, far below
    that of a disk error in comparing any two texts.
    """
    texts = pa.array(normals, pa.large_string())
    lists = pc.split_pattern(texts, " ")
    encoded = lists.values.dictionary_encode()
    vocabulary = b"".join(
        hashlib.blake2b(word.encode(), digest_size=8).digest() for word in encoded.dictionary.to_pylist()
    )
    words = np.frombuffer(vocabulary, "<u8").astype(np.uint64)[encoded.indices.to_numpy()]
    starts, ends = lists.offsets.to_numpy()[:-1].astype(np.int64), lists.offsets.to_numpy()[1:].astype(np.int64)
    counts = np.maximum(ends - starts - size + 1, 1)
    counts[pc.equal(texts, "").to_numpy(zero_copy_only=False)] = 0
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    first = np.repeat(starts - offsets[:-1], counts) + np.arange(offsets[-1])
    end = np.repeat(ends, counts)
    hashes = np.zeros(len(first), np.uint64)
    for step in range(size):
        position = first + step
        # A text shorter than the shingle is filled up with zeros.
        word = np.where(position < end, words[np.minimum(position, len(words) - 1)], np.uint64(0))
        hashes = mix64(hashes ^ word)
    return ShingleHashes(hashes=hashes, offsets=offsets)


def both_sides(first: ShingleHashes, second: ShingleHashes) -> ShingleHashes:
    """Join the shingles of the two sides of each pair into one set that does not depend on which side is which.

    A shingle on both sides counts twice, its second copy under another hash. With sets joined so, two pairs whose
    sides have a Jaccard of at least t each, straight or crossed, have one of at least t as a whole; without the copies
    they need not, and a search by the joined set would miss them.
    """
    row = np.concatenate([first.rows, second.rows])
    value = np.concatenate([first.hashes, second.hashes])
    side = np.repeat(np.arange(2), [len(first.hashes), len(second.hashes)])
    order = np.lexsort((side, value, row))
    row, value, side = row[order], value[order], side[order]
    repeated = _like_previous(row, value)
    repeated[1:] &= side[1:] == side[:-1]
    row, value = row[~repeated], value[~repeated]
    value = np.where(_like_previous(row, value), mix64(value), value)
    counts = np.bincount(row, minlength=len(first.offsets) - 1)
    return ShingleHashes(hashes=value, offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]))


def _like_previous(row: NDArray[np.int64], value: NDArray[np.uint64]) -> NDArray[np.bool_]:
    same = np.zeros(len(row), bool)
    same[1:] = (row[1:] == row[:-1]) & (value[1:] == value[:-1])
    return same


def mix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit values one to one (SplitMix64's step: Steele, Lea, Flood, OOPSLA 2014); uint64, same shape."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values
