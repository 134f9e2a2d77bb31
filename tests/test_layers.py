"""Where parameters lie, for the encoders people use; what is frozen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from pipeline.errors import SeqtrackError
from pipeline.freezing import freeze
from pipeline.layers import parameter_depths

BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
    "pad_token_id": 0,
}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
SMALL: dict[str, dict[str, Any]] = {
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "mpnet": BERT,
    "electra": BERT | {"embedding_size": 8},
    "deberta-v2": BERT | {"relative_attention": True, "position_buckets": 4, "max_relative_positions": 8},
    "modernbert": BERT | TOKENS,
    "distilbert": {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32, "vocab_size": 50},
    "xlm": {"vocab_size": 50, "emb_dim": 16, "n_layers": 3, "n_heads": 2},
    "albert": BERT | {"embedding_size": 8},
}


def small(kind: str, num_labels: int = 3) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SMALL[kind], num_labels=num_labels)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    return model.eval()


@pytest.mark.parametrize(
    ("kind", "of"),
    [
        (
            "bert",
            {
                "bert.embeddings.word_embeddings.weight": 0,
                "bert.encoder.layer.0.attention.self.query.weight": 1,
                "bert.encoder.layer.2.output.dense.bias": 3,
                "bert.pooler.dense.weight": 4,
                "classifier.weight": 4,
            },
        ),
        ("roberta", {"roberta.embeddings.LayerNorm.weight": 0, "classifier.dense.weight": 4}),
        ("xlm-roberta", {"roberta.embeddings.word_embeddings.weight": 0, "classifier.dense.weight": 4}),
        (
            "mpnet",
            {"mpnet.encoder.relative_attention_bias.weight": 4, "mpnet.encoder.layer.1.attention.attn.q.weight": 2},
        ),
        ("electra", {"electra.embeddings_project.weight": 0, "electra.encoder.layer.0.output.dense.weight": 1}),
        ("deberta-v2", {"deberta.encoder.rel_embeddings.weight": 0, "pooler.dense.weight": 4}),
        (
            "modernbert",
            {"model.embeddings.tok_embeddings.weight": 0, "model.final_norm.weight": 4, "head.dense.weight": 4},
        ),
        ("distilbert", {"distilbert.transformer.layer.1.ffn.lin1.weight": 2, "pre_classifier.weight": 4}),
        ("xlm", {"transformer.attentions.1.q_lin.weight": 2, "transformer.ffns.2.lin1.weight": 3}),
    ],
)
def test_depths(kind: str, of: dict[str, int]) -> None:
    model = small(kind)
    depths = parameter_depths(model, needed_by="train.lora")
    assert depths.layers == 3
    assert depths.by_name.keys() == dict(model.named_parameters()).keys()
    assert {name: depths.by_name[name] for name in of} == of
    assert set(depths.by_name.values()) == {0, 1, 2, 3, 4}


def test_layers_that_cannot_be_told_are_refused() -> None:
    with pytest.raises(SeqtrackError, match=r"train.lora: cannot tell the layers of AlbertForSequenceClassification; "):
        parameter_depths(small("albert"), needed_by="train.lora")


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_freezing_by_pattern() -> None:
    model = small("bert")
    names = trained(model)
    freeze(model, ["bert.embeddings.*", "bert.encoder.layer.[01].*", "*.bias"])
    assert trained(model) == {
        name
        for name in names
        if not name.startswith(("bert.embeddings.", "bert.encoder.layer.0.", "bert.encoder.layer.1."))
        and not name.endswith(".bias")
    }
    assert "bert.encoder.layer.2.attention.self.query.weight" in trained(model)


def test_no_pattern_freezes_nothing() -> None:
    model = small("bert")
    freeze(model, [])
    assert trained(model) == dict(model.named_parameters()).keys()


def test_a_pattern_that_matches_nothing_names_parameters() -> None:
    with pytest.raises(SeqtrackError) as caught:
        freeze(small("bert"), ["*.embeddings.*", "embeddings"])
    message = str(caught.value)
    assert message.startswith(
        "params.yaml: train.freeze: no parameter has such a name; expected patterns of names such"
    )
    assert "bert.embeddings.word_embeddings.weight" in message
    assert "classifier.weight" in message
    assert message.endswith("found embeddings.")


def test_freezing_everything_is_refused() -> None:
    with pytest.raises(SeqtrackError, match=r"all parameters are frozen; found bert\*, classifier\*; leave out"):
        freeze(small("bert"), ["bert*", "classifier*"])
