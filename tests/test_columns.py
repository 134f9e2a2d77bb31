from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.columns import (
    PAIR_NAMES,
    Columns,
    check_same_columns,
    find_columns,
    made_up_name,
    split_of_name,
    split_of_source,
    split_of_value,
)
from pipeline.errors import SeqtrackError
from pipeline.params import Data


def find(*found: str, label_needed: bool = True, **mapped: str) -> Columns:
    keys: dict[str, Any] = {"path": "x", "text": None, "text_pair": None, "label": None, "label_names": None}
    return find_columns(found, Data(**{**keys, **mapped}), where="f.csv", label_needed=label_needed)


@pytest.mark.parametrize(
    ("found", "text", "pair", "label"),
    [
        ("text label", "text", None, "label"),
        ("Review Sentiment", "Review", None, "Sentiment"),
        ("label review", "review", None, "label"),
        ("id title content category", "content", None, "category"),
        ("text label label_text", "text", None, "label"),
        ("text score label", "text", None, "label"),
        ("sequence1 label", "sequence1", None, "label"),
        ("index question sentence label", "question", "sentence", "label"),
        ("id qid1 qid2 question1 question2 is_duplicate", "question1", "question2", "is_duplicate"),
        ("Quality,#1 ID,#2 ID,#1 String,#2 String", "#1 String", "#2 String", "Quality"),
        ("index,genre,sentence1,sentence2,label1,gold_label", "sentence1", "sentence2", "gold_label"),
        ("Text-Pair,Text,Label", "Text", "Text-Pair", "Label"),
        (" text, label", " text", None, " label"),
        ("编号 内容 标签", "内容", None, "标签"),
        ("sentence1 sentence2 similarity", "sentence1", "sentence2", "similarity"),
    ],
)
def test_columns_are_found_by_the_names_people_use(found: str, text: str, pair: str | None, label: str | None) -> None:
    names = found.split(",") if "," in found else found.split()
    assert find(*names) == Columns(text=text, text_pair=pair, label=label, split=None)


@given(st.sampled_from(PAIR_NAMES), st.permutations([0, 1, 2, 3]), st.sampled_from([str.upper, str.title, str.lower]))
def test_every_pair_is_found_whatever_order_and_case(
    pair: tuple[str, str], order: list[int], case: Callable[[str], str]
) -> None:
    names = [*map(case, pair), "label", "id"]
    columns = find(*(names[index] for index in order))
    assert (columns.text, columns.text_pair, columns.label) == tuple(names[:3])


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("review comment label", r"several columns could be the text.*review, comment.*data\.text"),
        ("premise hypothesis sentence1 sentence2 label", r"sentence1 \+ sentence2, premise \+ hypothesis"),
        ("text premise hypothesis label", r"premise \+ hypothesis, text"),
        ("Text text label", r"several columns could be the text.*Text, text"),
        ("text class category", r"several columns could be the label.*class, category.*data\.label"),
        ("a b label", r"f\.csv: no column for the text; expected one named text,.*found columns a, b.*data\.text"),
        ("text y", r"no column for the label; expected one named label.*found columns text, y.*data\.label"),
    ],
)
def test_no_guess_where_several_or_none_would_do(found: str, message: str) -> None:
    with pytest.raises(SeqtrackError, match=message):
        find(*found.split())


def test_params_decide() -> None:
    assert find("review", "comment", "label", text="comment").text == "comment"
    assert find("Review", "label", text="review").text == "Review"
    assert find("a", "b", "c", text="a", text_pair="b", label="c") == Columns(
        text="a", text_pair="b", label="c", split=None
    )
    assert find("class", "category", "text", label="category").label == "category"
    assert find("question1", "question2", "y", text="question1", label="y").text_pair == "question2"
    assert find("question", "answer", "label", text_pair="answer").text == "question"
    assert find("text", "split", "label", label="split").split is None


def test_a_column_of_params_that_is_not_there() -> None:
    with pytest.raises(SeqtrackError, match=r"data\.text names a column that is not there: 'txt'.*did you mean 'text'"):
        find("text", "label", text="txt")
    with pytest.raises(SeqtrackError, match=r"data\.label.*'y'"):
        find("text", "label", label="y")


def test_one_column_for_two_parts() -> None:
    with pytest.raises(SeqtrackError, match=r"data\.text and data\.label name the same column 'a'"):
        find("a", "b", text="a", label="a")


def test_files_without_labels() -> None:
    assert find("index", "sentence", label_needed=False).label is None
    assert find("index", "sentence", label_needed=False, label="y").label is None
    assert find("text", "label", label_needed=False, label="y").label is None
    assert find("text", "Split").split == "Split"  # its rows may all be test rows


def test_same_columns() -> None:
    train = Columns(text="Text", text_pair=None, label="label", split=None)
    check_same_columns({"train": train, "test": Columns(text="text", text_pair=None, label=None, split=None)})
    with pytest.raises(SeqtrackError, match=r"train: Text, dev: review.*data\.text"):
        check_same_columns({"train": train, "dev": Columns(text="review", text_pair=None, label="label", split=None)})
    with pytest.raises(SeqtrackError, match=r"text_pair.*train: none, dev: b"):
        check_same_columns({"train": train, "dev": Columns(text="text", text_pair="b", label="label", split=None)})
    with pytest.raises(SeqtrackError, match=r"train: label, dev: class"):
        check_same_columns({"train": train, "dev": Columns(text="text", text_pair=None, label="class", split=None)})


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.csv", "train"),
        ("Train-00000-of-00002.jsonl", "train"),
        ("sts-dev.csv", "validation"),
        ("dev_matched.tsv", "validation"),
        ("VAL.tsv", "validation"),
        ("valid.csv", "validation"),
        ("my_test.csv", "test"),
        ("test.v2.csv", "test"),
        ("training data.csv", "train"),
        ("latest.csv", None),
        ("contest_values.csv", None),
        ("bbc-news.jsonl", None),
        ("trainer.csv", None),
    ],
)
def test_splits_of_file_names(name: str, split: str | None) -> None:
    assert split_of_name(Path("train") / name) == split


def test_a_name_of_two_splits_is_an_error() -> None:
    with pytest.raises(SeqtrackError, match="train and test at once"):
        split_of_name(Path("train_test.csv"))


def test_splits_of_values() -> None:
    assert [split_of_value(value) for value in ("train", " Dev ", "TEST", "fold1", "")] == [
        "train",
        "validation",
        "test",
        None,
        None,
    ]


def test_columns_without_names_have_parts_where_reading_found_them() -> None:
    text, label, other = made_up_name(3, "text"), made_up_name(1, "label"), made_up_name(2)
    assert find(label, other, text) == Columns(text=text, text_pair=None, label=label, split=None)
    with pytest.raises(SeqtrackError, match=r"no column for the label.*data\.columns"):
        find(other, text)
    assert find(other, text, label_needed=False).label is None


def test_columns_without_names_agree_with_any_name() -> None:
    named = Columns(text="sentence", text_pair=None, label="label", split=None)
    check_same_columns({"a": named, "b": Columns(text="column 1 (text)", text_pair=None, label=None, split=None)})
    pair = Columns(text="column 1 (text)", text_pair="column 2 (text_pair)", label=None, split=None)
    with pytest.raises(SeqtrackError, match=r"text_pair differently.*a: none, b: column 2"):
        check_same_columns({"a": named, "b": pair})


@pytest.mark.parametrize(
    ("name", "split"),
    [("train/part-0.csv", "train"), ("test/dev.csv", "validation"), ("raw/a.csv", None), ("test", "test")],
)
def test_splits_of_paths(name: str, split: str | None) -> None:
    assert split_of_source(name) == split
