"""A tiny random BERT for tests: built in milliseconds, loads like a real encoder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

from pipeline.outputs import write_manifest

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_LENGTH = 64


def save_tiny_encoder(folder: Path, texts: Iterable[str], *, num_labels: int | None = None) -> None:
    """Save a random BERT and a word-level tokenizer that knows the words of `texts`.

    Args:
        folder: where to; made if needed.
        texts: where the vocabulary comes from.
        num_labels: adds a classification head; None saves the bare encoder, as a pretrained one comes.
    """
    tokenizer = _tokenizer(texts)
    config = _config(tokenizer, **({} if num_labels is None else {"num_labels": num_labels}))
    torch.manual_seed(0)
    model = BertModel(config) if num_labels is None else BertForSequenceClassification(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_tiny_classifier(folder: Path, texts: Iterable[str], names: Sequence[str], *, max_length: int = 32) -> None:
    """Save what train would: a random classifier with class names and a manifest.

    The head's outputs are spread out over `texts`, so that the model uses all classes and near ties are rare.
    """
    texts = list(texts)
    tokenizer = _tokenizer(texts)
    config = _config(
        tokenizer,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        problem_type="single_label_classification",
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        pooled = model.eval().bert(**inputs).pooler_output
        model.classifier.weight.mul_(2 / model(**inputs).logits.std(dim=0, keepdim=True).T)
        model.classifier.bias.copy_(-model.classifier.weight @ pooled.mean(dim=0))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    params = {"model": {"trust_remote_code": False}}
    write_manifest(folder, inputs={}, params=params, rows={}, run_key="0" * 64, max_length=max_length)


def _config(tokenizer: PreTrainedTokenizerFast, **head: Any) -> BertConfig:
    return BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH,
        pad_token_id=0,
        **head,
    )


def _tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
