"""When two texts count as the same: a normal form, and the shingles by which nearly equal texts are compared.

Promises: the normal form ignores case, width, punctuation, symbols and spacing, never depends on other texts, and keeps
texts without a letter or digit apart. `normalise` and `shingles` are the definitions; `normal_forms` and
`shingle_hashes` compute the same in bulk.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

VERSION = 2  # of normal forms and shingle hashes: what is stored under another version is not reused

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

_SPACE = ord(" ")
# What becomes of each byte of an ASCII text: ASCII has no alphanumerics but letters and digits.
_ASCII = np.array(
    [ord(chr(byte).lower()) if byte < 128 and chr(byte).isalnum() else _SPACE for byte in range(256)], "u1"
)


def stands_alone(character: str) -> bool:
    """Return whether a character belongs to a script without spaces, in which each character counts as a word."""
    return _UNSPACED.match(character) is not None


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


def normal_forms(texts: pa.Array) -> pa.LargeStringArray:
    """Return `normalise` of many texts (strings without null), ASCII ones at the speed of numpy."""
    texts = texts.cast(pa.large_string())
    _, offset_buffer, data_buffer = texts.buffers()
    if not len(texts) or data_buffer is None:
        return texts
    offsets = np.frombuffer(offset_buffer, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = _ASCII[np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]]]
    offsets = offsets - offsets[0]
    word = data != _SPACE
    keep = word.copy()
    keep[:-1] |= word[1:]  # of each run of spaces the last one ...
    filled = offsets[1:] > offsets[:-1]
    lasts = offsets[1:][filled] - 1
    keep[lasts] = word[lasts]  # ... unless the text ends with it ...
    kept = np.flatnonzero(keep)
    offsets = np.searchsorted(kept, offsets)
    data = data[kept]
    heads = np.unique(offsets[:-1][offsets[1:] > offsets[:-1]])
    heads = heads[data[heads] == _SPACE]  # ... or begins with it
    data = np.delete(data, heads)
    offsets = offsets - np.searchsorted(heads, offsets)
    forms = pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(data))
    one_by_one = pc.or_(pc.invert(pc.string_is_ascii(texts)), pc.equal(forms, ""))
    if not pc.any(one_by_one).as_py():
        return forms
    others = [normalise(text) for text in texts.filter(one_by_one).to_pylist()]
    return pc.replace_with_mask(forms, one_by_one, pa.array(others, pa.large_string()))


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


def shingle_hashes(normals: pa.LargeStringArray, size: int) -> ShingleHashes:
    """Hash the shingles of many normal forms.

    The hash of a shingle depends on its words alone. Two different shingles agree with a chance of about 2**-64, far
    below that of a disk error in comparing any two texts.
    """
    lists = pc.split_pattern(normals, " ")
    encoded = lists.values.dictionary_encode()
    vocabulary = np.array(
        [xxh3_64_intdigest(word) for word in encoded.dictionary.cast(pa.large_binary()).to_pylist()], np.uint64
    )
    edges = lists.offsets.to_numpy().astype(np.int64)
    words = np.zeros(edges[-1] + size, np.uint64)  # filled up with zeros, as are texts shorter than the shingle
    words[: edges[-1]] = vocabulary[encoded.indices.to_numpy()]
    counts = np.diff(edges)
    hashes = _rolling([words[step : edges[-1] + step] for step in range(size)])
    short = np.flatnonzero(counts < size)
    place = edges[short, None] + np.arange(size)
    own = np.where(np.arange(size) < counts[short, None], words[place], np.uint64(0))
    hashes[edges[short]] = _rolling(list(own.T))
    # A shingle begins at each word but the last size - 1 of a text, and at the first in any case.
    begins = np.ones(edges[-1], bool)
    for step in range(1, size):
        begins[np.maximum(edges[1:] - step, edges[:-1])] = False
    begins[edges[:-1]] = True
    empty = pc.equal(normals, "").to_numpy(zero_copy_only=False)
    begins[edges[:-1][empty]] = False
    counts = np.maximum(counts - size + 1, 1)
    counts[empty] = 0
    return ShingleHashes(hashes=hashes[begins], offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]))


def _rolling(words: list[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """Hash sequences of words, given place by place (Horner's rule with an odd factor, then scrambled)."""
    hashes = words[0].copy()
    for word in words[1:]:
        hashes *= np.uint64(0xD6E8FEB86659FD93)
        hashes += word
    return mix64(hashes)


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
