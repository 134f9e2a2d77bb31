from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SeqtrackError
from pipeline.labels import (
    LabelSet,
    is_fraction,
    is_number,
    joined,
    label_text,
    label_texts,
    natural_order,
    parted,
    spelled_twice,
    written_list,
)

LABELS = LabelSet(problem_type="single_label_classification", names=("bad", "good"))


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (["10", "2", "1"], ("1", "2", "10")),
        (["1", "0", "-1"], ("-1", "0", "1")),
        (["1.5", "1.25", "0.5"], ("0.5", "1.25", "1.5")),
        (["level 10", "level 9"], ("level 9", "level 10")),
        (["b", "a", "b"], ("a", "b")),
        (["007", "7", "8"], ("007", "7", "8")),
        (["x" + "9" * 5000, "x1" + "0" * 5000], ("x" + "9" * 5000, "x1" + "0" * 5000)),
    ],
)
def test_natural_order(names: list[str], ordered: tuple[str, ...]) -> None:
    assert natural_order(names) == ordered


@given(st.lists(st.text(alphabet="0123456789.-ab٣", max_size=4)), st.randoms(use_true_random=False))
def test_natural_order_depends_on_the_set_alone(names: list[str], random: Random) -> None:
    shuffled = random.sample(names, len(names))
    assert natural_order(names) == natural_order(shuffled)
    assert sorted(natural_order(names)) == sorted(set(names))


@given(st.sets(st.integers()))
def test_integers_sort_by_value(numbers: set[int]) -> None:
    assert natural_order(map(str, numbers)) == tuple(map(str, sorted(numbers)))


@given(st.sets(st.integers(min_value=0)))
def test_numbered_names_sort_by_number(numbers: set[int]) -> None:
    names = (f"class {number}!" for number in numbers)
    assert natural_order(names) == tuple(f"class {number}!" for number in sorted(numbers))


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (1, "1"),
        (True, "true"),
        (False, "false"),
        (1.0, "1.0"),
        ("1.0", "1.0"),
        (" a b\r", "a b"),
        ("  ", None),
        ("", None),
        (None, None),
        (0, "0"),
    ],
)
def test_label_text(value: object, label: str | None) -> None:
    assert label_text(value) == label


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans())
def test_a_json_scalar_is_the_label_that_json_writes_for_it(value: object) -> None:
    assert label_text(value) == json.dumps(value)


@pytest.mark.parametrize("value", [["a"], {"a": 1}])
def test_label_text_takes_no_containers(value: object) -> None:
    with pytest.raises(TypeError):
        label_text(value)


@pytest.mark.parametrize("name", ["3.8", "-0.25", ".5", "1e-05", "2.5e-10", "5.001"])
def test_fractions(name: str) -> None:
    assert is_fraction(name)


@pytest.mark.parametrize("name", ["3", "3.0", "3.000", "a", "", "1.2.3", "nan", "v1.5", "1e5", "."])
def test_no_fractions(name: str) -> None:
    assert not is_fraction(name)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_float_is_a_fraction_unless_integral(value: object) -> None:
    assert is_fraction(repr(value)) == (not value.is_integer())


def test_two_spellings_of_one_class_are_found() -> None:
    assert spelled_twice(["0", "1", "1.0"]) == ("1", "1.0")
    assert spelled_twice(["True", "true"]) == ("True", "true")
    assert spelled_twice(["1.0", "1.00"]) == ("1.0", "1.00")
    assert spelled_twice(["1", "01", "1.5", "10", "Sport", "sport", "a.0", "a"]) is None


def test_ids_are_positions_and_null_stays_null() -> None:
    assert LABELS.ids(pa.array(["good", None, "bad"])).to_pylist() == [1, None, 0]
    assert LABELS.ids(pa.chunked_array([["good"], ["bad"]])).to_pylist() == [1, 0]


def test_a_label_outside_the_set_is_named() -> None:
    with pytest.raises(SeqtrackError, match=r"'ugly'.*bad, good"):
        LABELS.ids(pa.array(["good", "ugly"]))


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8")), unique=True))
def test_label_sets_survive_the_disk(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "labels.json"
    labels = LabelSet(problem_type="single_label_classification", names=tuple(names))
    labels.write(path)
    assert LabelSet.read(path) == labels


@pytest.mark.parametrize("content", ['{"problem_type": "guessing", "names": ["a"]}', "{}", "[]", '{"names": 3}', "{"])
def test_damaged_label_sets_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(content)
    with pytest.raises(SeqtrackError, match=r"labels\.json"):
        LabelSet.read(path)


@pytest.mark.parametrize(
    ("value", "delimiter", "label"),
    [
        ("a|b", None, "a|b"),
        ("b| a |b||", "|", ("a", "b")),
        ("10,2", ",", ("2", "10")),
        ("a", "|", ("a",)),
        ("|", "|", ()),
        (" ", "|", None),
        (["b", "a", "b"], None, ("a", "b")),
        ([10, 2, True], None, ("2", "10", "true")),
        ([], None, ()),
        (["a|b"], "|", ("a|b",)),
        (1, "|", "1"),
        (None, "|", None),
    ],
)
def test_values_that_may_hold_several_labels(value: object, delimiter: str | None, label: object) -> None:
    assert label_texts(value, delimiter) == label


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("['a', 'b']", ["a", "b"]),
        (' ["a", "b"]\n', ["a", "b"]),
        ("[1, 10]", [1, 10]),
        ("[]", []),
        ("[deleted]", "[deleted]"),
        ("[['a']]", "[['a']]"),
        ("['a'", "['a'"),
        ("['a'] or so", "['a'] or so"),
        ("[" * 5_000 + "]" * 5_000, "[" * 5_000 + "]" * 5_000),
        ("a", "a"),
        (3, 3),
        (["a"], ["a"]),
        (None, None),
    ],
)
def test_lists_written_into_one_string(value: object, found: object) -> None:
    assert written_list(value) == found


@pytest.mark.parametrize("value", [{"a": 1}, [["a"]], ["a", None], [""]])
def test_values_that_are_no_labels(value: object) -> None:
    with pytest.raises(TypeError):
        label_texts(value)


@given(st.lists(st.text(st.characters(codec="utf-8"))), st.randoms(use_true_random=False))
def test_several_labels_as_one_string(names: list[str], random: Random) -> None:
    assert parted(joined(names)) == natural_order(names)
    assert joined(random.sample(names, len(names))) == joined(names)


@pytest.mark.parametrize("label", ["a", "1", '{"a": 1}', "[1]", ""])
def test_a_string_that_is_no_list_of_labels(label: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (orjson's own error is one, too)
        parted(label)


@pytest.mark.parametrize(
    ("name", "number"), [("3", True), ("-0.5", True), ("1e-3", True), ("1e999", False), ("a", False)]
)
def test_numbers(name: str, number: bool) -> None:
    assert is_number(name) == number
