"""Tokenizers trained from texts: the same bytes on every run, pieces as asked for, ids as a model wants them."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SeqtrackError
from pipeline.params import TokenizerKind
from pipeline.vocabulary import SPECIAL, train_tokenizer
from tests.toy import REPOSITORY

KINDS: tuple[TokenizerKind, ...] = ("wordpiece", "unigram")
CHINESE = (
    "很好吃",
    "味道不错",
    "送餐太慢",
    "服务很好",
    "外卖凉了",
    "非常快",
    "The Rice",
    "tofu",
    "unhappily",
    "。",
    "！",
)


def texts(count: int = 300) -> list[str]:
    draw = random.Random(3)
    return ["".join(draw.choices(CHINESE, k=draw.randint(1, 6))) for _ in range(count)]


PROGRAM = """
import hashlib
from pipeline.vocabulary import train_tokenizer
from tests.test_vocabulary import texts
for kind in ("wordpiece", "unigram"):
    print(hashlib.sha256(train_tokenizer(texts(), kind, 120).tokenizer.to_str().encode()).hexdigest())
"""


def test_another_process_with_another_number_of_threads_gives_the_same_bytes() -> None:
    """The library's hash tables have another order in each."""
    threads = "1" if os.environ.get("RAYON_NUM_THREADS") == "4" else "4"
    environment = os.environ | {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    here = [train_tokenizer(texts(), kind, 120).tokenizer.to_str() for kind in KINDS]
    assert done.stdout.split() == [hashlib.sha256(text.encode()).hexdigest() for text in here]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(
    rows=st.lists(st.text(alphabet="ab很好吃道 。", min_size=1, max_size=12), min_size=1, max_size=8).filter(
        lambda rows: any(row.strip() for row in rows)
    ),
    size=st.integers(40, 60),
    seed=st.integers(0, 9),
)
def test_the_order_of_the_texts_makes_no_difference(kind: TokenizerKind, rows: list[str], size: int, seed: int) -> None:
    shuffled = random.Random(seed).sample(rows, len(rows))
    one, other = (train_tokenizer(order, kind, size).tokenizer for order in (rows, shuffled))
    assert one.to_str() == other.to_str()
    assert one.get_vocab_size() <= size
    for row in rows:  # what it was made of, it can read
        assert SPECIAL.index("[UNK]") not in one.encode(row).ids


def test_chinese_characters_stand_alone_in_wordpiece_and_in_pieces_in_unigram() -> None:
    wordpiece, unigram = (train_tokenizer(texts(), kind, 120).tokenizer for kind in KINDS)
    assert wordpiece.encode("很好吃！").tokens == ["[CLS]", "很", "好", "吃", "！", "[SEP]"]
    assert unigram.encode("很好吃！").tokens == ["[CLS]", "很好吃", "!", "[SEP]"]


def test_words_of_letters_become_pieces_in_both() -> None:
    wordpiece, unigram = (
        train_tokenizer(["happy happily unhappy rice nice"] * 9, kind, 45).tokenizer for kind in KINDS
    )
    assert wordpiece.encode("Happily").tokens[1].startswith("hap")
    assert any(token.startswith("##") for token in wordpiece.encode("unhappily").tokens)
    assert "▁nice" in unigram.get_vocab()  # not the end of a word


def test_special_tokens_come_first_and_pairs_have_types() -> None:
    for kind in KINDS:
        tokenizer = train_tokenizer(texts(), kind, 120).tokenizer
        assert [tokenizer.token_to_id(token) for token in SPECIAL] == [0, 1, 2, 3, 4]
        pair = tokenizer.encode("非常快", "服务很好")
        assert [pair.ids[0], pair.ids[-1], pair.ids.count(3)] == [2, 3, 2]
        assert pair.type_ids == [0] * (pair.ids.index(3) + 1) + [1] * (len(pair.ids) - pair.ids.index(3) - 1)


def test_rare_characters_are_unknown_and_counted() -> None:
    rows = ["好吃"] * 4000 + ["鳗"]
    for kind in KINDS:
        trained = train_tokenizer(rows, kind, 50)
        assert (trained.characters, trained.left_out) == (2, 1)
        assert trained.tokenizer.encode("鳗").ids == [2, 1, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_without_room_for_the_characters_is_refused(kind: TokenizerKind) -> None:
    with pytest.raises(SeqtrackError, match=r"model\.from_scratch\.vocab_size: too small .*at least \d\d \(.*found 8"):
        train_tokenizer(texts(), kind, 8)


def test_no_text_at_all_is_refused() -> None:
    with pytest.raises(SeqtrackError, match="no text in the train split"):
        train_tokenizer([], "unigram", 100)
