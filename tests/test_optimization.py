"""The optimiser: what decays, at which rate, and its state by name."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification, get_scheduler

from pipeline.optimization import (
    NamedOptimizer,
    build_optimizer,
    build_scheduler,
    load_optimizer_tensors,
    optimizer_tensors,
)
from tests.toy import recipe


@pytest.fixture
def model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2
    )
    return BertForSequenceClassification(config).eval()


def step(model: torch.nn.Module, named: NamedOptimizer) -> None:
    model(input_ids=torch.arange(8).reshape(2, 4)).logits.square().sum().backward()
    named.optimizer.step()
    named.optimizer.zero_grad()


def test_biases_and_norms_do_not_decay(model: BertForSequenceClassification) -> None:
    named = build_optimizer(model, recipe(weight_decay=0.3), loss_scaling=False)
    decay = {
        id(parameter): group["weight_decay"] for group in named.optimizer.param_groups for parameter in group["params"]
    }
    expected = {
        name: 0.0 if name.endswith("bias") or "LayerNorm" in name else 0.3 for name, _ in model.named_parameters()
    }
    assert {name: decay[id(parameter)] for name, parameter in model.named_parameters()} == expected


def test_the_recipe_reaches_adam(model: BertForSequenceClassification) -> None:
    train = recipe(learning_rate=0.02, adam_beta1=0.5, adam_beta2=0.6, adam_epsilon=1e-3)
    for group in build_optimizer(model, train, loss_scaling=False).optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.02, (0.5, 0.6), 1e-3)


def test_frozen_parameters_are_left_out(model: BertForSequenceClassification) -> None:
    model.bert.embeddings.requires_grad_(False)
    named = build_optimizer(model, recipe(), loss_scaling=False)
    assert not any("embeddings" in name for name in named.names)
    assert len(named.names) == sum(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 1.0])
def test_rates_are_those_of_transformers(kind: str, ratio: float) -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    ours, theirs = (torch.optim.SGD([weight], lr=0.1) for _ in range(2))
    total = 25
    schedule = build_scheduler(ours, recipe(lr_scheduler_type=kind, warmup_ratio=ratio), total)
    expected = get_scheduler(kind, theirs, math.ceil(total * ratio), total)
    for _ in range(total):
        assert schedule.get_last_lr() == expected.get_last_lr()
        for each in (ours, theirs):
            each.step()
        schedule.step()
        expected.step()


def test_state_round_trip(model: BertForSequenceClassification, tmp_path: Path) -> None:
    named = build_optimizer(model, recipe(), loss_scaling=False)
    for _ in range(3):
        step(model, named)
    saved = optimizer_tensors(named)
    assert saved["step/classifier.weight"] == 3
    assert saved["exp_avg/classifier.weight"].shape == model.classifier.weight.shape
    save_file(saved, tmp_path / "optimizer.safetensors")

    twin = BertForSequenceClassification(model.config).eval()
    twin.load_state_dict(model.state_dict())
    other = build_optimizer(twin, recipe(), loss_scaling=False)
    load_optimizer_tensors(other, load_file(tmp_path / "optimizer.safetensors"))
    for _ in range(2):
        step(model, named)
        step(twin, other)
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)
    found = optimizer_tensors(other)
    assert all(torch.equal(tensor, found[name]) for name, tensor in optimizer_tensors(named).items())


def test_state_of_another_model_is_refused(model: BertForSequenceClassification) -> None:
    named = build_optimizer(model, recipe(), loss_scaling=False)
    with pytest.raises(KeyError, match="decoder"):
        load_optimizer_tensors(named, {"exp_avg/decoder.weight": torch.zeros(1)})
