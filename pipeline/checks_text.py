"""Checks of single texts: mojibake, unusual characters, writing system, length.

Promises: a batch of texts costs a few vectorised passes; only texts with a suspicious pair of characters meet the slow
judge (ftfy). What is reported of a text depends on that text alone.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.checks import snippet

REPLACEMENT: Final = "\ufffd"  # what decoders put where bytes made no sense

# Control characters but tab and line ends; invisible format characters; private use (\p{Cn} would depend on a version
# of Unicode). Joiners and variation selectors have work to do after letters of many scripts and in emoji, soft hyphens
# in HTML: `unusual_at` looks twice.
_UNUSUAL: Final = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x{84}\x{86}-\x{9f}\p{Cf}\p{Co}]"
_JOINED: Final = re.compile("(?<=[^\x00-\u02ff])[\u200c\u200d]|(?<=\U0001f3f4)[\U000e0020-\U000e007f]+|\u00ad")
_LAYOUT: Final = "\t\n\r\x85"

# Writing systems by ranges of code points; what is in none of them (digits, punctuation, emoji) does not count.
SCRIPTS: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "none": (),
    "Latin": (
        *((0x41, 0x5A), (0x61, 0x7A), (0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0x2AF), (0x1E00, 0x1EFF)),
        *((0xFF21, 0xFF3A), (0xFF41, 0xFF5A)),
    ),
    "Greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "Cyrillic": ((0x400, 0x52F),),
    "Armenian": ((0x530, 0x58F),),
    "Hebrew": ((0x590, 0x5FF),),
    "Arabic": ((0x600, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC)),
    "Devanagari": ((0x900, 0x97F),),
    "Bengali": ((0x980, 0x9FF),),
    "Gurmukhi": ((0xA00, 0xA7F),),
    "Gujarati": ((0xA80, 0xAFF),),
    "Tamil": ((0xB80, 0xBFF),),
    "Telugu": ((0xC00, 0xC7F),),
    "Kannada": ((0xC80, 0xCFF),),
    "Malayalam": ((0xD00, 0xD7F),),
    "Sinhala": ((0xD80, 0xDFF),),
    "Thai": ((0xE00, 0xE7F),),
    "Lao": ((0xE80, 0xEFF),),
    "Tibetan": ((0xF00, 0xFFF),),
    "Myanmar": ((0x1000, 0x109F),),
    "Georgian": ((0x10A0, 0x10FF),),
    "Ethiopic": ((0x1200, 0x137F),),
    "Khmer": ((0x1780, 0x17FF),),
    "Hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7AF)),
    "kana": ((0x3041, 0x309F), (0x30A1, 0x30FA), (0x31F0, 0x31FF), (0xFF66, 0xFF9D)),
    "Han": ((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)),
}
SCRIPT_NAMES: Final = tuple(SCRIPTS)
# A character of these says about as much as three letters: 很好用的iPhone is Chinese.
_HEAVY: Final = {"Han": 3, "kana": 3, "Hangul": 3}
_WEIGHTS: Final = np.array([_HEAVY.get(name, 1) for name in SCRIPT_NAMES])


def _script_table() -> NDArray[np.uint8]:
    table = np.zeros(0x110000, np.uint8)
    for number, ranges in enumerate(SCRIPTS.values()):
        for first, last in ranges:
            table[first : last + 1] = number
    return table


_SCRIPT_OF: Final = _script_table()


@dataclass(frozen=True, kw_only=True, eq=False)
class TextFacts:
    """What is to be known of each of a batch of texts; arrays of shape (texts,).

    Attributes:
        characters: uint32, length in code points.
        scripts: uint8, the commonest writing system, a position in SCRIPT_NAMES.
        mojibake: bool, `mojibake_at` would find something.
        unusual: bool, `unusual_at` would find something.
    """

    characters: NDArray[np.uint32]
    scripts: NDArray[np.uint8]
    mojibake: NDArray[np.bool_]
    unusual: NDArray[np.bool_]

    def where(self, keep: NDArray[np.bool_]) -> TextFacts:
        """Return the facts of the texts for which `keep`, of shape (texts,), is true."""
        return TextFacts(
            characters=self.characters[keep],
            scripts=self.scripts[keep],
            mojibake=self.mojibake[keep],
            unusual=self.unusual[keep],
        )


def text_facts(texts: Sequence[str]) -> TextFacts:
    """Look at a batch of texts."""
    column = pa.array(texts, pa.large_string())
    foreign = np.flatnonzero(~_bools(pc.string_is_ascii(column)))
    mojibake = np.zeros(len(texts), bool)
    unusual = np.zeros(len(texts), bool)
    scripts = np.where(_bools(pc.match_substring_regex(column, "[A-Za-z]")), SCRIPT_NAMES.index("Latin"), 0)
    for index in np.flatnonzero(_bools(pc.match_substring_regex(column, _UNUSUAL))).tolist():
        unusual[index] = unusual_at(texts[index]) is not None
    if len(foreign):
        part = column.take(pa.array(foreign))
        for index in foreign[_bools(pc.match_substring_regex(part, _suspicious()))].tolist():
            mojibake[index] = mojibake_at(texts[index]) is not None
        scripts[foreign] = _scripts(part.to_pylist())
    return TextFacts(
        characters=pc.utf8_length(column).to_numpy().astype(np.uint32),
        scripts=scripts.astype(np.uint8),
        mojibake=mojibake,
        unusual=unusual,
    )


@functools.cache
def _suspicious() -> str:
    """Return RE2's expression for what a text has that ftfy calls bad, and few others have.

    All such text holds a C1 control, or one of four letters, or two neighbours of ftfy's categories, at least one of
    which is no plain Greek or Cyrillic letter. RE2 looks for those in a tenth of the time that the whole expression
    takes, and lets through what ordinary text of most languages never has. (Ђ stands in вЂ and ГўВЂВ.)
    """
    from ftfy.badness import MOJIBAKE_CATEGORIES  # late: a seventh of validate's start, and ASCII needs none of it

    letters = "".join(of for name, of in MOJIBAKE_CATEGORIES.items() if name.endswith("_common"))
    rare = "".join(of for name, of in MOJIBAKE_CATEGORIES.items() if not name.endswith("_common")) + "Ђ"
    return f"[\x80-\x9f{REPLACEMENT}ŒœÃÂ]|[{rare}][{letters}{rare}]|[{letters}][{rare}]"


def mojibake_at(text: str) -> int | None:
    """Return where a text looks decoded wrongly (ftfy's expression), or has lost characters (U+FFFD); None if nowhere.

    ftfy's heuristic is tuned for next to no false alarms: R. Speer, ftfy, https://ftfy.readthedocs.io.
    """
    from ftfy.badness import BADNESS_RE

    match = BADNESS_RE.search(text)
    lost = text.find(REPLACEMENT)
    places = [*([match.start()] if match else []), *([lost] if lost >= 0 else [])]
    return min(places, default=None)


def unusual_at(text: str) -> int | None:
    """Return where the first character stands that no reader sees: a control character other than tab and line ends,
    an invisible format character (zero-width, direction marks, byte order mark) or one for private use; None if none.

    Joiners after a letter of a script that uses them or an emoji, the letters of a flag, and soft hyphens are usual.
    """  # fmt: skip
    usual = {place for match in _JOINED.finditer(text) for place in range(*match.span())}
    for place, char in enumerate(text):
        if unicodedata.category(char) in {"Cc", "Cf", "Co"} and char not in _LAYOUT and place not in usual:
            return place
    return None


def mojibake_snippet(text: str) -> str:
    """Return what `mojibake_at` found, in its surroundings."""
    return snippet(text, mojibake_at(text) or 0)


def unusual_snippet(text: str) -> str:
    """Return what `unusual_at` found: its code point, name and surroundings."""
    place = unusual_at(text) or 0
    name = unicodedata.name(text[place], unicodedata.category(text[place]))
    return f"U+{ord(text[place]):04X} ({name}): {snippet(text, place)}"


def _scripts(texts: Sequence[str]) -> NDArray[np.uint8]:
    """Return the commonest script of each text, shape (texts,)."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), "<u4")
    row = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    counts = np.bincount(row * len(SCRIPT_NAMES) + _SCRIPT_OF[codes], minlength=len(texts) * len(SCRIPT_NAMES))
    weighed = counts.reshape(len(texts), -1) * _WEIGHTS
    weighed[:, 0] = 0  # so that "none" is what is left where no letter is
    commonest: NDArray[np.uint8] = weighed.argmax(axis=1).astype(np.uint8)
    return commonest


def _bools(mask: pa.Array) -> NDArray[np.bool_]:
    array: NDArray[np.bool_] = mask.to_numpy(zero_copy_only=False)
    return array
