from __future__ import annotations

import unicodedata

import pytest
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from hypothesis import given
from hypothesis import strategies as st

from pipeline.checks_text import SCRIPT_NAMES, mojibake_at, text_facts, unusual_at, unusual_snippet

GARBLED = ["schÃ¶n", "cafÃ©", "â€œhiâ€\x9d", "Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "ä½\xa0å¥½", "lost \ufffd here", "naÃ¯ve"]
SOUND = [
    "it’s “fine” – café £5",
    "naïve façade, 5 ½ × 3²",
    "Привет, мир — «да»",
    "Ελληνικά κείμενο",
    "很好吃，送餐快！",
    "¿Qué? ¡Sí!",
    "plain",
]


@pytest.mark.parametrize("text", GARBLED)
def test_garbled_text_is_found(text: str) -> None:
    assert text_facts([text, "sound"]).mojibake.tolist() == [True, False]
    assert mojibake_at(text) is not None


@pytest.mark.parametrize("text", SOUND)
def test_sound_text_is_left_alone(text: str) -> None:
    assert text_facts([text]).mojibake.tolist() == [False]


_TELLING = "".join(char for chars in MOJIBAKE_CATEGORIES.values() for char in chars if char != "-") + "ЂВГРС√≈‚β€ā aZ."


@given(st.text(st.sampled_from(_TELLING), min_size=1, max_size=8))
def test_the_quick_look_misses_nothing(text: str) -> None:
    assert text_facts([text]).mojibake[0] == (is_bad(text) or "\ufffd" in text)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a\x00b", 1),
        ("a\u200bb", 1),
        ("\ufeffa", 0),
        ("a\u202eb", 1),
        ("ab\ue000", 2),
        ("a\u200db", 1),
        ("ab\x85\x86", 3),
        ("a\tb\r\nc\x85", None),
        ("soft\u00adhyphen", None),
        ("👨\u200d👩\u200d👧", None),
        ("می\u200cخواهم", None),
        ("क\u094d\u200dष", None),
        ("\U0001f3f4\U000e0067\U000e0062\U000e007f", None),
        ("a\U000e0067", 1),
    ],
)
def test_unusual_characters(text: str, place: int | None) -> None:
    assert unusual_at(text) == place
    assert text_facts(["sound", text]).unusual.tolist() == [False, place is not None]


def test_an_unusual_character_is_named() -> None:
    assert unusual_snippet("in\u200bvisible") == r"U+200B (ZERO WIDTH SPACE): in\u200bvisible"


@given(st.text(max_size=5))
def test_the_quick_look_finds_the_same_as_the_slow_one(text: str) -> None:
    assert text_facts([text]).unusual[0] == (unusual_at(text) is not None)
    if all(unicodedata.category(char)[0] != "C" for char in text):
        assert unusual_at(text) is None


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("plain words", "Latin"),
        ("Größe", "Latin"),
        ("ＦＵＬＬ", "Latin"),
        ("привет", "Cyrillic"),
        ("很好用的iPhone", "Han"),
        ("とても良い", "kana"),
        ("좋아요", "Hangul"),
        ("مرحبا", "Arabic"),
        ("नमस्ते", "Devanagari"),
        ("สวัสดี", "Thai"),
        ("Ωμέγα", "Greek"),
        ("שלום", "Hebrew"),
        ("12 €, 👍!", "none"),
    ],
)
def test_scripts(text: str, script: str) -> None:
    assert SCRIPT_NAMES[text_facts(["x", text]).scripts[1]] == script


def test_lengths_are_in_code_points() -> None:
    assert text_facts(["abc", "好👍", "é"]).characters.tolist() == [3, 2, 1]
