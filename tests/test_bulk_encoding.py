"""Bulk encoding: the rows of the plain encoder, as flat arrays."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizerLegacy, PreTrainedTokenizerBase

from pipeline.bulk_encoding import BulkEncoder
from pipeline.encoding import Encoder
from pipeline.tokens import token_columns
from tests.test_encoding import TEXT, byte_level
from tests.tiny import save_tiny_encoder

ROW = st.tuples(TEXT, st.none() | TEXT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoder")
    save_tiny_encoder(path, ["red green blue"])
    return path


Tokenizers = tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def tokenizers(folder: Path) -> Tokenizers:
    """Two of the same, loaded once, so that neither can disturb the other."""
    return Encoder.load(folder, 4).tokenizer, Encoder.load(folder, 4).tokenizer


def check(bulk: Encoder, plain: Encoder, texts: list[str], pairs: list[str | None]) -> None:
    found = token_columns(BulkEncoder(bulk)(texts, pairs)).to_pydict()
    expected = plain.encode(texts, pairs)
    assert found["input_ids"] == [list(row) for row in expected.input_ids]
    assert found["full_length"] == expected.full_lengths
    if expected.token_type_ids is None:
        assert "token_type_ids" not in found
    else:
        assert found["token_type_ids"] == [list(row) for row in expected.token_type_ids]


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(ROW, max_size=6), max_length=st.integers(4, 20))
def test_rows_equal_those_of_the_plain_encoder(
    tokenizers: Tokenizers, rows: list[tuple[str, str | None]], max_length: int
) -> None:
    bulk, plain = (Encoder(tokenizer, max_length) for tokenizer in tokenizers)
    check(bulk, plain, [text for text, _ in rows], [pair for _, pair in rows])


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(ROW, max_size=4), side=st.sampled_from(["left", "right"]))
def test_a_tokenizer_that_cuts_on_either_side(rows: list[tuple[str, str | None]], side: str) -> None:
    bulk, plain = (Encoder(byte_level(truncation_side=side), 12) for _ in range(2))
    check(bulk, plain, [text for text, _ in rows], [pair for _, pair in rows])


def test_no_room_but_for_special_tokens() -> None:
    bulk, plain = (Encoder(byte_level(), 2) for _ in range(2))
    check(bulk, plain, ["abc", ""], [None, None])


def test_a_tokenizer_written_in_python(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "green"]))
    encoder = Encoder(BertTokenizerLegacy(tmp_path / "vocab.txt", model_max_length=32), 7)
    check(encoder, encoder, ["red green " * 9, "", "red"], ["green", None, ""])
    assert BulkEncoder(encoder).definition is None


def test_threads_do_not_disturb_each_other(folder: Path) -> None:
    bulk, plain = BulkEncoder(Encoder.load(folder, 9)), Encoder.load(folder, 9)
    batches = [(["red " * (n % 17)] * 40, ["green " * (n % 13) if n % 3 else None] * 40) for n in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for (texts, pairs), found in zip(batches, pool.map(lambda batch: bulk(*batch), batches), strict=True):
            assert found.full_lengths.tolist() == plain.encode(texts, pairs).full_lengths
