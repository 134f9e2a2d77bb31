"""The last layer for one token: logits and gradients stay, and models whose heads read more are left alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoConfig,
    BertConfig,
    BertForSequenceClassification,
    EsmConfig,
    LongformerConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RoFormerConfig,
)

from pipeline.first_token import compute_first_token_alone
from pipeline.inference import load_weights
from pipeline.training import fit
from tests.encoders import ARCHITECTURES, POSITIONS, SIZES, batch_of, gradients, model_of
from tests.toy import accelerator, make_toy, recipe

KNOWN = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert")
WAYS = ("eager", "sdpa")
# Heads that read more than the first token, layers that are built otherwise, and some that only look like BERT's.
LEFT_ALONE: dict[str, PreTrainedConfig] = {
    **{name: config for name, config in ARCHITECTURES.items() if name not in KNOWN},
    "esm, which normalises before": EsmConfig(**SIZES, **POSITIONS, position_embedding_type="rotary"),
    "roformer, which rotates": RoFormerConfig(**SIZES, **POSITIONS, embedding_size=16),
    "longformer, which has two attentions": LongformerConfig(**SIZES, **POSITIONS, attention_window=4),
}
LENGTHS = (7, 1, 19, 3, 12, 2)

each_known = pytest.mark.parametrize("architecture", KNOWN)
every_way = pytest.mark.parametrize("way", WAYS)


def pair_of(config: PreTrainedConfig, way: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A plain model and its equal that computes the first token alone, in double precision."""
    plain = model_of(config, way).double()
    fast = copy.deepcopy(plain)
    assert compute_first_token_alone(fast)
    return plain, fast


def computed_tokens(model: PreTrainedModel) -> int:
    """For how many of eight tokens the last layer gives something."""
    (layers,) = (module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    seen: list[int] = []
    handle = layers[-1].register_forward_hook(lambda _, __, output: seen.append(output.shape[1]))
    model(input_ids=torch.full((2, 8), 2))
    handle.remove()
    return seen[0]


@every_way
@each_known
def test_logits_are_the_same_and_the_last_layer_computes_one_token(architecture: str, way: str) -> None:
    plain, fast = pair_of(ARCHITECTURES[architecture], way)
    batch = batch_of(LENGTHS)
    torch.testing.assert_close(fast(**batch).logits, plain(**batch).logits, rtol=1e-10, atol=1e-12)
    assert (computed_tokens(plain), computed_tokens(fast)) == (8, 1)


@every_way
@each_known
def test_gradients_are_the_same(architecture: str, way: str) -> None:
    plain, fast = pair_of(ARCHITECTURES[architecture], way)
    batch = batch_of(LENGTHS)
    expected, found = gradients(plain, batch), gradients(fast, batch)
    assert found.keys() == expected.keys()
    for name in expected:
        # A key's bias moves no softmax: its gradient is rounding alone.
        torch.testing.assert_close(found[name], expected[name], rtol=1e-8, atol=1e-9, msg=name)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
    kind=st.sampled_from(KNOWN),
    way=st.sampled_from(WAYS),
)
def test_any_texts(lengths: list[int], seed: int, kind: str, way: str) -> None:
    plain, fast = pair_of(ARCHITECTURES[kind], way)
    batch = batch_of(lengths, seed, pairs=kind in ("bert", "electra"))
    with torch.no_grad():
        torch.testing.assert_close(fast(**batch).logits, plain(**batch).logits, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", LEFT_ALONE)
def test_other_architectures_stay_as_they_are(kind: str) -> None:
    model = model_of(LEFT_ALONE[kind], "eager")
    classes, batch = [type(module) for module in model.modules()], batch_of((9, 4))
    before = model(**batch).logits
    assert not compute_first_token_alone(model)
    assert [type(module) for module in model.modules()] == classes
    torch.testing.assert_close(model(**batch).logits, before, rtol=0, atol=0)


class ReadsAll(BertForSequenceClassification):
    """A head on the mean of all tokens."""

    def forward(self, **inputs: Any) -> Any:
        output = self.bert(**inputs)
        output.logits = self.classifier(output.last_hidden_state.mean(dim=1))
        return output


class ReadsAllInTraining(BertForSequenceClassification):
    """A head that looks at more tokens than the first only while it learns."""

    def forward(self, **inputs: Any) -> Any:
        return ReadsAll.forward(self, **inputs) if self.training else super().forward(**inputs)


@pytest.mark.parametrize("own", [ReadsAll, ReadsAllInTraining])
def test_code_of_the_users_stays_as_it_is(own: type[PreTrainedModel]) -> None:
    assert not compute_first_token_alone(own(ARCHITECTURES["bert"]))


def test_a_head_that_reads_more_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ReadsAll(ARCHITECTURES["bert"]).eval()
    layer = type(model.bert.encoder.layer[-1])
    monkeypatch.setattr(ReadsAll, "__module__", "transformers.models.bert.modeling_bert")
    assert not compute_first_token_alone(model)
    assert type(model.bert.encoder.layer[-1]) is layer


def test_a_head_that_reads_nothing_yet_says_nothing() -> None:
    model = model_of(ARCHITECTURES["bert"], "eager")
    torch.nn.init.zeros_(model.classifier.weight)
    torch.nn.init.zeros_(model.classifier.bias)
    assert not compute_first_token_alone(model)


def test_nothing_else_changes() -> None:
    model = model_of(ARCHITECTURES["bert"], "eager").train()
    state, weights = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    kinds = [type(module).__name__ for module in model.modules()]
    assert compute_first_token_alone(model)
    assert model.training
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert [type(module).__name__ for module in model.modules()] == kinds
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_doing_it_twice_does_no_harm() -> None:
    plain, fast = pair_of(ARCHITECTURES["bert"], "eager")
    compute_first_token_alone(fast)
    batch = batch_of(LENGTHS)
    torch.testing.assert_close(fast(**batch).logits, plain(**batch).logits, rtol=1e-10, atol=1e-12)


def test_a_copy_has_weights_of_its_own() -> None:
    _, fast = pair_of(ARCHITECTURES["bert"], "eager")
    other, batch = copy.deepcopy(fast), batch_of(LENGTHS)
    before = fast(**batch).logits
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    torch.testing.assert_close(fast(**batch).logits, before, rtol=0, atol=0)
    assert not other(**batch).logits.any()


def test_recomputed_activations_give_the_same_gradients() -> None:
    _, fast = pair_of(ARCHITECTURES["bert"], "eager")
    less, batch = copy.deepcopy(fast), batch_of(LENGTHS)
    less.activation_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(0)  # dropout's masks are drawn again where activations are computed again
    expected = gradients(fast.train(), batch)
    torch.manual_seed(0)
    for name, gradient in gradients(less.train(), batch).items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=0, msg=name)


def test_weights_of_attention_are_dropped_in_training_as_often_as_asked() -> None:
    config = BertConfig(**SIZES, **POSITIONS, attention_probs_dropout_prob=0.25, hidden_dropout_prob=0.0)
    model = model_of(config, "eager")
    assert compute_first_token_alone(model)
    seen: list[torch.Tensor] = []
    dropout = model.bert.encoder.layer[-1].attention.self.dropout
    dropout.register_forward_hook(lambda _, inputs, output: seen.append((output == 0)[inputs[0] > 0]))
    model.train()
    for seed in range(20):
        model(**batch_of((20,) * 16, seed))
    dropped = torch.cat(seen).double()
    assert float(dropped.mean()) == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / len(dropped)) ** 0.5)


def test_half_precision_is_as_near_as_that_of_the_plain_layer() -> None:
    exact, fast = pair_of(ARCHITECTURES["bert"], "eager")
    plain, batch = model_of(ARCHITECTURES["bert"], "eager"), batch_of(LENGTHS)
    expected = exact(**batch).logits.float()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        ours = (fast.float()(**batch).logits.float() - expected).abs().max()
        its = (plain(**batch).logits.float() - expected).abs().max()
    assert ours <= 2 * its


def test_a_training_is_that_of_the_plain_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = make_toy(tmp_path)

    def trained(name: str) -> tuple[list[float], PreTrainedModel]:
        job = toy.job(tmp_path / name, recipe(), toy.model(dropout=False).double())
        state = fit(job, accelerator(), [])
        return [point.loss for point in state.curve], job.model

    fast, fast_model = trained("fast")
    monkeypatch.setattr("pipeline.training.compute_first_token_alone", lambda model: False)
    plain, plain_model = trained("plain")
    assert computed_tokens(fast_model) == 1
    assert computed_tokens(plain_model) == 8
    np.testing.assert_allclose(fast, plain, rtol=1e-7, atol=0)


def test_packed_rows_are_computed_whole(tmp_path: Path) -> None:
    toy = make_toy(tmp_path)
    job = toy.job(tmp_path / "checkpoints", recipe(packing=True), toy.model())
    fit(job, accelerator(), [])
    assert computed_tokens(job.model) == 8


def test_compiled_models_do_it_too() -> None:
    plain, fast = pair_of(ARCHITECTURES["bert"], "sdpa")
    batch = batch_of(LENGTHS)
    compiled = torch.compile(fast, backend="eager")
    torch.testing.assert_close(compiled(**batch).logits, plain(**batch).logits, rtol=1e-10, atol=1e-12)


def test_a_saved_model_loads_in_this_way_and_anywhere_else(tmp_path: Path) -> None:
    _, fast = pair_of(ARCHITECTURES["roberta"], "eager")
    fast.float().save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).architectures == ["RobertaForSequenceClassification"]
    loaded, batch = load_weights(tmp_path, trusted=False), batch_of(LENGTHS)
    torch.testing.assert_close(loaded(**batch).logits, fast(**batch).logits, rtol=1e-4, atol=1e-5)
    assert computed_tokens(loaded) == 1
