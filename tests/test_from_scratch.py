"""A model from nothing: what the vocabulary stage writes, and what tokenize, train and others make of it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

from pipeline.encoding import Encoder
from pipeline.errors import SeqtrackError
from pipeline.from_scratch import write_vocabulary
from pipeline.inference import Classifier
from pipeline.model_source import resolve
from pipeline.modeling import load_classifier
from pipeline.outputs import read_manifest
from pipeline.params import FromScratch, Model, Tokenize, parse_params
from pipeline.paths import MODEL, REPORTS, ROWS, SPLITS, TOKENIZED, VOCABULARY
from pipeline.tokenization import tokenize_rows
from tests.canonical import Row, table
from tests.test_fine_tuning import SINGLE, encoder, files, latest_run, prepare, train, work, write_split
from tests.toy import REPOSITORY, equal_weights

__all__ = ["encoder", "work"]  # fixtures

SMALL: dict[str, Any] = {
    "model_type": "bert",
    "tokenizer": "unigram",
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
REVIEWS = (("难吃", "太慢", "凉了"), ("好吃", "很快", "不错"), ("一般", "还行", "普通"))
FILLERS = ("外卖", "今天", "这家", "味道", "送餐", "我们")
ONLY_IN_TEST = "鳗"


def scratch(**changes: Any) -> Model:
    chosen = FromScratch(**{**SMALL, **changes})
    return Model(name_or_path="x/y", revision=None, trust_remote_code=False, from_scratch=chosen)


def reviews(count: int = 120) -> list[Row]:
    draw = random.Random(4)
    found = []
    for index in range(count):
        words = [draw.choice(REVIEWS[index % 3]), *draw.choices(FILLERS, k=3)]
        draw.shuffle(words)
        text = "".join(words) + ("" if index < 110 else ONLY_IN_TEST)
        found.append(Row(text, label=SINGLE.names[index % 3]))
    return found


@pytest.fixture
def chinese(work: Path, encoder: Path) -> list[str]:
    """A working folder with Chinese rows, split; returns their ids."""
    content = table(reviews())
    prepare(encoder, content=content)
    ids: list[str] = content["row_id"].to_pylist()
    for name, part in (("train", ids[:80]), ("validation", ids[80:110]), ("test", ids[110:])):
        write_split(name, part)
    return ids


def vocabulary(model: Model) -> None:
    write_vocabulary(ROWS, SPLITS / "train.parquet", VOCABULARY, model.from_scratch)


def tokenize(model: Model) -> None:
    tokenize_rows(ROWS, TOKENIZED, REPORTS, Tokenize(max_length=16), model)


def test_a_pretrained_encoder_gets_the_same_from_any_split(chinese: list[str]) -> None:
    vocabulary(Model(name_or_path="x/y", revision=None, trust_remote_code=False))
    before = files(VOCABULARY)
    assert set(before) == {"manifest.json"}
    write_split("train", chinese[:50])
    vocabulary(Model(name_or_path="another", revision=None, trust_remote_code=False))
    assert files(VOCABULARY) == before


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_only_the_train_split_is_learnt_from(chinese: list[str], kind: str) -> None:
    vocabulary(scratch(tokenizer=kind))
    before = files(VOCABULARY)
    known = resolve_tokenizer().get_vocab()
    assert not any(ONLY_IN_TEST in piece for piece in known)
    assert any("好" in piece for piece in known)
    write_split("test", chinese[100:])
    vocabulary(scratch(tokenizer=kind))
    assert files(VOCABULARY) == before
    write_split("train", chinese)
    vocabulary(scratch(tokenizer=kind))
    assert any(ONLY_IN_TEST in piece for piece in resolve_tokenizer().get_vocab())


def resolve_tokenizer() -> Any:
    return Encoder.load(resolve(scratch(), weights=True).folder, 16).tokenizer


def test_trained_from_nothing_it_learns_and_works_wherever_a_pretrained_one_does(chinese: list[str]) -> None:
    model = scratch(tokenizer="wordpiece")
    vocabulary(model)
    tokenize(model)
    train(model, num_train_epochs=20, learning_rate=3e-3, per_device_train_batch_size=8)
    assert latest_run().info.status == "FINISHED"
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "bert"
    assert config["vocab_size"] <= 120
    assert str(REPOSITORY) not in (MODEL / "tokenizer_config.json").read_text(encoding="utf-8")

    texts = [row.text for row in reviews()[80:]]
    classify = pipeline("text-classification", str(MODEL), device="cpu", top_k=None)
    classifier = Classifier.load(MODEL)
    encoded = classifier.encoder.encode(texts, None)
    for text, ids, theirs in zip(texts, encoded.input_ids, classify(texts, truncation=True), strict=True):
        assert classify.tokenizer(text)["input_ids"] == list(ids)
        with torch.no_grad():
            ours = classifier.model(input_ids=torch.tensor([list(ids)])).logits.softmax(-1)[0]
        assert {one["label"]: one["score"] for one in theirs} == pytest.approx(
            dict(zip(SINGLE.names, ours.tolist(), strict=True)), abs=1e-5
        )
    assert accuracy() > 0.9


def accuracy() -> float:
    """Return the exported model's accuracy on the validation rows."""
    rows = reviews()[80:110]
    classify = pipeline("text-classification", str(MODEL), device="cpu")
    found = classify([row.text for row in rows])
    return sum(one["label"] == row.label for one, row in zip(found, rows, strict=True)) / len(rows)


def test_the_seed_decides_the_first_weights_and_the_run_key_covers_what_it_is(chinese: list[str]) -> None:
    keys = set()
    for change in ({}, {"hidden_dropout_prob": 0.2}, {"tokenizer": "wordpiece"}):
        model = scratch(**change)
        vocabulary(model)
        tokenize(model)
        train(model, num_train_epochs=1)
        keys.add(read_manifest(MODEL)["run_key"])
    assert len(keys) == 3
    source = resolve(model, weights=True)
    one, same, other = (load_classifier(source, SINGLE, seed=seed, trust_remote_code=False) for seed in (1, 1, 2))
    assert equal_weights(one, same)
    assert not torch.equal(one.bert.embeddings.word_embeddings.weight, other.bert.embeddings.word_embeddings.weight)
    assert {parameter.dtype for parameter in one.parameters()} == {torch.float32}
    before = source.digest()
    write_split("train", chinese[:40])
    vocabulary(model)
    assert resolve(model, weights=True).digest() != before


@pytest.mark.parametrize(
    ("model_type", "keys", "types"),
    [
        ("electra", {"embedding_size": 16}, True),
        ("roberta", {"type_vocab_size": 1}, False),
        ("distilbert", {"dim": 32, "n_heads": 2, "n_layers": 1, "hidden_dim": 32}, False),
        ("modernbert", {"classifier_pooling": "mean"}, False),
    ],
)
def test_other_architectures(chinese: list[str], model_type: str, keys: dict[str, Any], types: bool) -> None:
    shape = {} if model_type == "distilbert" else {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    mine = {"model_type": model_type, "vocab_size": 120, "tokenizer": "unigram", "max_position_embeddings": 40}
    model = Model(
        name_or_path="x/y",
        revision=None,
        trust_remote_code=False,
        from_scratch=FromScratch(**mine, **shape, **keys),
    )
    vocabulary(model)
    tokenize(model)
    source = resolve(model, weights=True)
    assert Encoder.load(source.folder, 16).has_token_types == types
    classifier = load_classifier(source, SINGLE, seed=1, trust_remote_code=False)
    assert classifier.config.pad_token_id == 0
    assert classifier(input_ids=torch.tensor([[2, 7, 8, 3]])).logits.shape == (1, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hiden_size": 3}, r"from_scratch\.hiden_size: unknown key \(did you mean hidden_size\?\)"),
        ({"num_labels": 3}, r"from_scratch\.num_labels: not yours to set"),
        ({"model_type": "brt"}, r"from_scratch\.model_type: no architecture .*\(did you mean bert\?\)"),
        ({"num_attention_heads": 5}, r"from_scratch: transformers makes no bert of this \(.*hidden"),
        ({"hidden_size": "wide"}, r"from_scratch: transformers makes no bert of this \(.*hidden_size"),
        ({"vocab_size": 9}, r"from_scratch\.vocab_size: too small"),
    ],
)
def test_mistakes_are_told_in_one_line_and_leave_nothing(
    chinese: list[str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SeqtrackError, match=message) as caught:
        vocabulary(scratch(**changes))
    assert "\n" not in str(caught.value)
    assert not VOCABULARY.exists()


def test_texts_longer_than_its_positions_are_refused(chinese: list[str]) -> None:
    vocabulary(scratch(max_position_embeddings=8))
    with pytest.raises(
        SeqtrackError, match=r"tokenize\.max_length: longer than the model can read; expected at most 8"
    ):
        tokenize(scratch(max_position_embeddings=8))


def test_without_the_stage_before_it_says_so(work: Path) -> None:
    with pytest.raises(SeqtrackError, match=r"data/vocabulary/config\.json: file not found; run `dvc repro`"):
        resolve(scratch(), weights=False)


def with_keys(**values: str) -> str:
    """params.yaml with the values of some keys replaced, wherever they stand."""
    lines = (REPOSITORY / "params.yaml").read_text(encoding="utf-8").splitlines()
    for key, value in values.items():
        lines = [f"  {key}: {value}" if line.startswith(f"  {key}:") else line for line in lines]
    return "\n".join(lines)


def test_dropout_is_said_in_one_place() -> None:
    said = "{model_type: bert, hidden_dropout_prob: 0.3}"
    with pytest.raises(SeqtrackError, match=r"hidden_dropout_prob both decide dropout: set train\.dropout to null"):
        parse_params(with_keys(from_scratch=said, dropout="0.1"))
    assert parse_params(with_keys(from_scratch=said, dropout="null")).train.dropout is None
    assert parse_params(with_keys(from_scratch="{model_type: bert}", dropout="0.1")).train.dropout == 0.1


@pytest.mark.parametrize(("key", "value"), [("lora", "{r: 4}"), ("freeze", '["*.embeddings.*"]')])
def test_what_keeps_weights_as_they_are_does_not_fit(key: str, value: str) -> None:
    with pytest.raises(
        SeqtrackError, match=rf"^params\.yaml: train\.{key} keeps weights as they are.*set train\.{key} to"
    ):
        parse_params(with_keys(**{key: value}, from_scratch="{model_type: bert}"))
