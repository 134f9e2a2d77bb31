import sys
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.normalize import ShingleHashes, both_sides, jaccard, normal_forms, normalise, shingles
from pipeline.normalize import shingle_hashes as hashes_of_array

texts = st.text(max_size=40)
ascii_texts = st.text(st.characters(codec="ascii"), max_size=40)


def shingle_hashes(normals: list[str], size: int) -> ShingleHashes:
    return hashes_of_array(pa.array(normals, pa.large_string()), size)


words = st.lists(st.sampled_from(["a", "b", "ab", "é", "我"]), max_size=12).map(" ".join)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Don't stop!", "don t  STOP"),
        ("Straße", "STRASSE"),
        ("Ｈｅｌｌｏ，　ｗｏｒｌｄ１２３", "hello world123"),
        ("ｶﾞﾗｽ", "ガラス"),
        ("很好吃，下次再来！", "很好吃 下次再来"),
        ("caf\u00e9", "CAFE\u0301"),
        ("don´t", "don't"),
        ("zero\u200bwidth \ufeffmark", "zerowidth mark"),
        ("love ❤️ it", "love it"),
        ("5 \u2260 6", "5 =\u0338 6"),
        ("tab\tand\r\nline", "tab and line"),
    ],
)
def test_texts_that_differ_in_form_only_are_equal(first: str, second: str) -> None:
    assert normalise(first) == normalise(second)


def test_texts_without_letters_or_digits_stay_apart() -> None:
    bare = ["😀", "😀😀", "❤️", "❤", "!!!", "???", ":-)", "…", "👍🏽", "´"]
    assert len({normalise(text) for text in bare}) == len(bare)
    assert normalise(" !!!\n") == normalise("!!!")
    assert normalise("") == normalise(" \t") == ""


@given(texts)
@example("\u0345\u0301")
@example("ẛ̣ ŉ ǰ İ")
@example("か\u200d\u3099")
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(texts)
def test_equal_up_to_canonical_composition_and_case(text: str) -> None:
    assert normalise(unicodedata.normalize("NFD", text)) == normalise(unicodedata.normalize("NFC", text))
    assert normalise(text.casefold()) == normalise(text)


def test_every_character_alone_has_a_normal_form_without_stray_spaces() -> None:
    for code in range(sys.maxunicode + 1):
        if not 0xD800 <= code <= 0xDFFF:
            normal = normalise(chr(code))
            assert normal == " ".join(normal.split())
            assert normal or chr(code).isspace()


def test_shingles_of_words_of_characters_and_of_short_texts() -> None:
    assert shingles("a b c d", 3) == {("a", "b", "c"), ("b", "c", "d")}
    assert shingles(normalise("我爱你们"), 3) == {("我", "爱", "你"), ("爱", "你", "们")}
    assert shingles(normalise("新iPhone手机"), 2) == {("新", "iphone"), ("iphone", "手"), ("手", "机")}
    assert shingles("a b", 3) == {("a", "b")}
    assert shingles("", 3) == frozenset()
    assert jaccard(shingles("a b", 3), shingles("a c", 3)) == 0.0


@settings(deadline=None)
@given(st.lists(words, max_size=6), st.integers(1, 5))
def test_hashed_shingles_are_the_defined_sets(normals: list[str], size: int) -> None:
    hashed = shingle_hashes(normals, size)
    sets = [set(hashed.hashes[a:b].tolist()) for a, b in zip(hashed.offsets, hashed.offsets[1:], strict=False)]
    defined = [shingles(normal, size) for normal in normals]
    assert [len(found) for found in sets] == [len(expected) for expected in defined]
    for i, x in enumerate(defined):
        for j, y in enumerate(defined):
            assert len(sets[i] & sets[j]) == len(x & y)


@given(st.tuples(words, words), st.tuples(words, words))
def test_joined_sides_are_at_least_as_similar_as_the_worse_side(a: tuple[str, str], b: tuple[str, str]) -> None:
    firsts, seconds = shingle_hashes([a[0], b[0], a[1]], 2), shingle_hashes([a[1], b[1], a[0]], 2)
    joined = both_sides(firsts, seconds)
    x, y, swapped = (set(joined.hashes[s:e].tolist()) for s, e in zip(joined.offsets, joined.offsets[1:], strict=False))
    assert x == swapped
    assert len(joined.hashes) == len(x) + len(y) + len(swapped)
    if x | y:
        whole = len(x & y) / len(x | y)
        sides = [jaccard(shingles(p, 2), shingles(q, 2)) for p, q in zip(a, b, strict=True)]
        assert whole >= min(sides) - 1e-12


def test_hashes_do_not_depend_on_the_other_texts() -> None:
    alone = shingle_hashes(["x y z w"], 3).hashes
    among = shingle_hashes(["z z z", "", "x y z w"], 3)
    assert np.array_equal(among.hashes[among.offsets[2] :], alone)


@given(
    st.lists(ascii_texts | texts | st.sampled_from(["", " ", "!!!", " a", "a ", "A_b", "\x00", "a\n\nb"]), max_size=8)
)
@example([" a"])
@example(["", " ", "a  b ", "", " b"])
def test_normal_forms_in_bulk_are_those_one_by_one(many: list[str]) -> None:
    assert normal_forms(pa.array(many, pa.string())).to_pylist() == [normalise(text) for text in many]
    both = pa.array(["before", *many, "after"], pa.string())
    assert normal_forms(both.slice(1, len(many))).to_pylist() == [normalise(text) for text in many]
