"""Small encoders of the architectures that people fine-tune, with random weights, and texts for them."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    CamembertConfig,
    DebertaConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    XLMRobertaConfig,
)

from pipeline.encoding import Padding

VOCABULARY, WIDTH = 60, 40
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "pad_token_id": 1,
    "num_labels": 3,
    # Large, so that attention tells tokens apart and what leaks from one text into another is seen.
    "initializer_range": 0.5,
}
POSITIONS = {"max_position_embeddings": WIDTH + 2}
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": -1}
ARCHITECTURES: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(**SIZES, **POSITIONS),
    "roberta": RobertaConfig(**SIZES, **POSITIONS),
    "xlm-roberta": XLMRobertaConfig(**SIZES, **POSITIONS),
    "camembert": CamembertConfig(**SIZES, **POSITIONS),
    "electra": ElectraConfig(**SIZES, **POSITIONS, embedding_size=8),
    "albert": AlbertConfig(**SIZES, **POSITIONS, embedding_size=8, num_hidden_groups=2),
    "mpnet": MPNetConfig(**SIZES, **POSITIONS),
    "distilbert": DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=16,
        n_layers=3,
        n_heads=2,
        hidden_dim=24,
        max_position_embeddings=WIDTH,
        num_labels=3,
        initializer_range=0.5,
    ),
    "deberta-v2": DebertaV2Config(**SIZES, **POSITIONS, **RELATIVE, type_vocab_size=2),
    "deberta-v3": DebertaV2Config(
        **SIZES, **POSITIONS, **RELATIVE, position_buckets=8, share_att_key=True, norm_rel_ebd="layer_norm"
    ),
    "modernbert": ModernBertConfig(**SIZES, **POSITIONS, local_attention=8, classifier_pooling="cls"),
    "modernbert-mean": ModernBertConfig(**SIZES, **POSITIONS, local_attention=8, classifier_pooling="mean"),
}
# Its attention fills what is masked with the least float32, which 16 bits do not hold.
NOT_IN_16_BITS = DebertaConfig(**SIZES, **POSITIONS, relative_attention=True, pos_att_type=["c2p", "p2c"])
PADDING = Padding(pad_token_id=1, pad_token_type_id=0, side="right")

Batch = dict[str, torch.Tensor]


def model_of(config: PreTrainedConfig, way: str) -> PreTrainedModel:
    """A random model without dropout; one that has no other attention than its own keeps that."""
    torch.manual_seed(3)
    implementation = "eager" if way == "eager" else None
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
        copy.deepcopy(config), attn_implementation=implementation
    )
    for parameter in model.parameters():  # biases are zero at first, and hide what happens to them
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def batch_of(lengths: Sequence[int], seed: int = 0, *, pairs: bool = False) -> Batch:
    """Texts of random tokens; with pairs the latter half of each is of the second segment."""
    generator = np.random.default_rng(seed)
    ids = [generator.integers(2, VOCABULARY, size=length) for length in lengths]
    types = [np.arange(length) >= length / 2 for length in lengths] if pairs else None
    return PADDING.batch(ids, types)


def gradients(model: PreTrainedModel, batch: Batch) -> dict[str, torch.Tensor]:
    """Of a loss that weighs each logit differently, by parameter."""
    logits = model(**batch).logits
    (logits * torch.arange(1, logits.numel() + 1).view_as(logits)).sum().backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
    }
