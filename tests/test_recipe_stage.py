"""The recipe through the train stage: mistakes in one line, models that load like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from pipeline import fine_tuning
from pipeline.distributed_eval import distributed_logits
from pipeline.inference import Classifier
from pipeline.model_source import ModelSource
from pipeline.modeling import enable_gradient_checkpointing, load_classifier
from pipeline.outputs import read_manifest
from pipeline.paths import MODEL, TOKENIZED
from pipeline.tokens import TokenStore
from pipeline.training import fit
from tests.test_fine_tuning import base, complaint, encoder, no_model, train, work
from tests.test_layers import small
from tests.test_recipe import checkpointing
from tests.toy import LABELS, accelerator, equal_weights

__all__ = ["encoder", "no_model", "work"]  # fixtures


@pytest.mark.usefixtures("work", "no_model")
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"class_weights": {"goood": 2}},
            "class_weights: no class is called goood; expected weights of bad, good, other",
        ),
        ({"lr_scheduler_kwargs": {"power": 2}}, "lr_scheduler_kwargs: the schedule linear has no power; expected {}."),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_kwargs: the schedule cosine_with_min_lr refuses"),
        (
            {"warmup_steps": 999},
            "warmup_steps: 999 steps of warm-up are more than the whole training; expected at most",
        ),
    ],
)
def test_mistakes_before_the_model_is_loaded(encoder: Path, changes: dict[str, Any], problem: str) -> None:
    assert complaint(base(encoder), **changes).startswith(f"params.yaml: train.{problem}")


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"freeze": ["roberta.*"]}, "freeze: no parameter has such a name; expected patterns of names such as bert."),
        ({"freeze": ["*"]}, "freeze: all parameters are frozen"),
        ({"lora": {"target_modules": ("q_proj",)}}, "lora.target_modules: peft refuses (Target modules {'q_proj'} not"),
    ],
)
def test_mistakes_before_training(encoder: Path, changes: dict[str, Any], problem: str) -> None:
    assert complaint(base(encoder), **changes).startswith(f"params.yaml: train.{problem}")


@pytest.mark.usefixtures("work")
def test_attention_that_this_machine_lacks(encoder: Path) -> None:
    model = base(encoder).model_copy(update={"attn_implementation": "flash_attention_2"})
    message = complaint(model)
    assert message.startswith(
        "params.yaml: model.attn_implementation: no flash_attention_2 attention for this model on"
    )
    assert message.endswith("set it to null, eager or sdpa.")


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_attention_is_computed_as_asked(encoder: Path, kind: str) -> None:
    def load(attn_implementation: str | None) -> PreTrainedModel:
        source = ModelSource(name="tiny", folder=encoder, commit=None)
        return load_classifier(
            source, LABELS, seed=1, trust_remote_code=False, attn_implementation=attn_implementation
        ).eval()

    model = load(kind)
    assert model.config._attn_implementation == kind
    ids = torch.arange(5, 13)[None]
    plain = load(None)
    assert plain.config._attn_implementation == ("sdpa" if torch.accelerator.is_available() else "eager")
    assert torch.allclose(model(input_ids=ids).logits, plain(input_ids=ids).logits, atol=1e-6)


def test_an_architecture_that_cannot_checkpoint_gradients() -> None:
    model = small("mpnet")
    with pytest.raises(
        fine_tuning.SeqtrackError, match=r"train.gradient_checkpointing: MPNet.* cannot do it; set it to"
    ):
        enable_gradient_checkpointing(model)
    assert checkpointing(small("bert")).is_gradient_checkpointing


def test_merged_adapters_are_exported_as_a_plain_model(
    work: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logits of data/model are those of the adapted model that training ended with."""
    seen: dict[str, Any] = {}

    def spy(job: Any, *args: Any) -> Any:
        state = fit(job, *args)
        assert any(".lora_" in name for name, _ in job.model.named_parameters())
        tokens = TokenStore.open(TOKENIZED)
        seen["logits"] = distributed_logits(job.model, tokens, np.arange(12), 4, accelerator())
        return state

    monkeypatch.setattr(fine_tuning, "fit", spy)
    lora = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": None}
    train(base(encoder), lora=lora, learning_rate=2e-2, num_train_epochs=5, gradient_checkpointing=True)
    assert not list(MODEL.glob("adapter*"))
    assert read_manifest(MODEL)["params"]["train"]["lora"] == lora
    assert read_manifest(MODEL)["own_code"] is None
    plain = AutoModelForSequenceClassification.from_pretrained(MODEL, dtype=torch.float32)
    assert type(plain).__name__ == "BertForSequenceClassification"
    assert equal_weights(plain, Classifier.load(MODEL).model.cpu())
    found = distributed_logits(plain, TokenStore.open(TOKENIZED), np.arange(12), 4, accelerator())
    assert np.abs(found - seen["logits"]).max() < 1e-5
    before = AutoModel.from_pretrained(encoder, dtype=torch.float32).state_dict()
    after = plain.bert.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in moved if not name.startswith("pooler.")} == {
        name for name in before if ".layer." in name and name.endswith("weight") and "LayerNorm" not in name
    }
