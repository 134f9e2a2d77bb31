"""Adapters: what learns, and that merged ones leave the plain architecture with the same outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from pipeline import lora as module
from pipeline.errors import SeqtrackError
from pipeline.lora import add_adapters, merge_adapters, require_peft
from pipeline.params import Lora
from tests.test_layers import small, trained

IDS = torch.arange(3, 19).reshape(2, 8)


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    return found


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "deberta-v2", "modernbert", "electra", "xlm"])
def test_merged_adapters_compute_the_same_in_plain_transformers(kind: str, tmp_path: Path) -> None:
    model = small(kind)
    names, before = list(model.state_dict()), logits(model)
    add_adapters(model, Lora(r=2), seed=1)
    assert torch.equal(logits(model), before)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:  # as if trained
            torch.nn.init.normal_(parameter, std=0.1)
    adapted = logits(model)
    assert not torch.allclose(adapted, before, atol=1e-3)
    merge_adapters(model)
    assert list(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("adapter*"))
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert type(plain) is type(model)
    assert torch.allclose(logits(plain), adapted, rtol=0, atol=1e-5)


def test_adapters_and_what_is_above_the_layers_learn() -> None:
    model = small("bert")
    linear = sum(isinstance(m, torch.nn.Linear) for m in model.bert.encoder.modules())
    add_adapters(model, Lora(), seed=1)
    above = {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"}
    adapters = trained(model) - above
    assert above <= trained(model)
    assert len(adapters) == 2 * linear
    assert all(".lora_" in name for name in adapters)


def test_target_modules_and_seed() -> None:
    def first(seed: int) -> dict[str, torch.Tensor]:
        model = small("bert")
        add_adapters(model, Lora(r=3, target_modules=("query", "value")), seed=seed)
        return {name: p.detach() for name, p in model.named_parameters() if ".lora_A" in name}

    one, same, other = first(1), first(1), first(2)
    assert len(one) == 2 * 3
    assert all(tensor.shape == (3, 16) for tensor in one.values())
    assert all(torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name]) for name in one)


def test_alpha_and_dropout_reach_peft() -> None:
    model = small("bert")
    add_adapters(model, Lora(r=4, lora_alpha=2, lora_dropout=0.25), seed=1)
    layer = model.bert.encoder.layer[0].attention.self.query
    assert layer.scaling == {"default": 0.5}
    assert layer.lora_dropout["default"].p == 0.25


def test_a_frozen_head_stays_frozen_and_an_adapted_one_learns() -> None:
    model = small("roberta")
    model.classifier.out_proj.requires_grad_(False)
    add_adapters(model, Lora(target_modules=("dense",)), seed=1)
    assert "classifier.dense.base_layer.weight" in trained(model)
    assert not any(name.startswith("classifier.out_proj") for name in trained(model))


def test_unknown_target_modules_are_named() -> None:
    with pytest.raises(SeqtrackError) as caught:
        add_adapters(small("bert"), Lora(target_modules=("q_proj",)), seed=1)
    assert str(caught.value).startswith(
        "params.yaml: train.lora.target_modules: peft refuses (Target modules {'q_proj'}"
    )
    assert "expected ends of names of modules such as dense, key, query, value" in str(caught.value)


def test_a_missing_peft_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    require_peft(None)
    with pytest.raises(
        SeqtrackError, match=r"params.yaml: train.lora: peft is not installed; install the extra: .*\[lora\]"
    ):
        require_peft(Lora())
