"""Packing: equal to padding for each architecture, in outputs and gradients; texts never see each other."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import DynamoBackend
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    FunnelConfig,
    GPT2Config,
    PreTrainedConfig,
    PreTrainedModel,
    XLNetConfig,
)

from pipeline.batches import BatchPlan
from pipeline.errors import SeqtrackError
from pipeline.packing import Layout, Packing, check_packing, flash, memory_efficient, text_by_text, varlen_attention
from pipeline.training import fit
from tests.encoders import ARCHITECTURES, POSITIONS, RELATIVE, SIZES, VOCABULARY, WIDTH, Batch, batch_of, model_of
from tests.toy import Interruption, Recorder, Toy, accelerator, equal_weights, make_toy, plain_steps, recipe

REFUSED: dict[str, PreTrainedConfig] = {
    # A convolution over neighbours, which in a packed row are another text's.
    "deberta-v2 with a convolution": DebertaV2Config(**SIZES, **POSITIONS, **RELATIVE, conv_kernel_size=3),
    # Layers that halve the row.
    "funnel": FunnelConfig(vocab_size=VOCABULARY, block_sizes=[1, 1], d_model=16, n_head=2, d_head=8, d_inner=24),
    "xlnet": XLNetConfig(vocab_size=VOCABULARY, d_model=16, n_layer=2, n_head=2, d_inner=24),
    # What it reads off is the last token that is no padding, and it looks back only.
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=WIDTH, pad_token_id=1),
}
WAYS = ("eager", "sdpa", "varlen")
LENGTHS = (7, 1, WIDTH, 3, 12, 2)


def packed_logits(packing: Packing, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    with packing.laid_end_to_end(batch["attention_mask"]):
        logits: torch.Tensor = model(**batch).logits
    return logits


def has_way(model: PreTrainedModel, way: str) -> bool:
    return way == "eager" or model.config._attn_implementation == "sdpa"


every_way = pytest.mark.parametrize("way", WAYS)
every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def ready(name: str, way: str) -> tuple[PreTrainedModel, Packing]:
    model = model_of(ARCHITECTURES[name], way)
    if not has_way(model, way):
        pytest.skip(f"{name} computes attention in a way of its own")
    packing = Packing(model, varlen=way == "varlen")
    assert packing.varlen == (way == "varlen")
    return model, packing


@every_way
@every_architecture
@pytest.mark.parametrize("lengths", [LENGTHS, (5,), (1,), (1, 1, 1), (8, 8), (WIDTH,) * 3])
def test_packed_logits_equal_padded_ones(name: str, way: str, lengths: Sequence[int]) -> None:
    batch = batch_of(lengths)
    plain = model_of(ARCHITECTURES[name], way)
    model, packing = ready(name, way)
    with torch.no_grad():
        expected = plain(**batch).logits
        assert torch.allclose(packed_logits(packing, model, batch), expected, rtol=1e-4, atol=1e-5)
        # Outside of it nothing has changed: these are the bits that evaluation gets.
        assert torch.equal(model(**batch).logits, expected)


@every_way
@every_architecture
def test_gradients_equal_those_of_padded_rows(name: str, way: str) -> None:
    batch, labels = batch_of(LENGTHS), torch.tensor([0, 1, 2, 1, 0, 2])
    plain = model_of(ARCHITECTURES[name], way)
    torch.nn.functional.cross_entropy(plain(**batch).logits, labels).backward()
    model, packing = ready(name, way)
    torch.nn.functional.cross_entropy(packed_logits(packing, model, batch), labels).backward()
    wanted = dict(plain.named_parameters())
    for parameter_name, parameter in model.named_parameters():
        expected = wanted[parameter_name].grad
        if expected is None:
            assert parameter.grad is None, parameter_name
            continue
        assert parameter.grad is not None, parameter_name
        size = max(1.0, float(expected.abs().max()))
        assert torch.allclose(parameter.grad, expected, rtol=0, atol=2e-5 * size), parameter_name


@pytest.mark.parametrize("name", ["bert", "electra", "deberta-v2"])
@every_way
def test_pairs_keep_their_segments(name: str, way: str) -> None:
    batch = batch_of(LENGTHS, pairs=True)
    plain = model_of(ARCHITECTURES[name], way)
    model, packing = ready(name, way)
    with torch.no_grad():
        expected = plain(**batch).logits
        assert torch.allclose(packed_logits(packing, model, batch), expected, rtol=1e-4, atol=1e-5)
        without = plain(**(batch | {"token_type_ids": torch.zeros_like(batch["token_type_ids"])})).logits
    assert not torch.allclose(without, expected, atol=1e-3)  # else the test could not fail


@settings(max_examples=5, deadline=None)
@given(data=st.data())
@every_way
@every_architecture
def test_a_text_changes_no_other(name: str, way: str, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 15), min_size=2, max_size=6))
    changed = data.draw(st.integers(0, len(lengths) - 1))
    model, packing = ready(name, way)
    batch, other = batch_of(lengths), batch_of(lengths)
    other["input_ids"][changed, : lengths[changed]] = batch_of(lengths, seed=9)["input_ids"][
        changed, : lengths[changed]
    ]
    with torch.no_grad():
        before, after = packed_logits(packing, model, batch), packed_logits(packing, model, other)
    rest = [place for place in range(len(lengths)) if place != changed]
    assert torch.allclose(before[rest], after[rest], rtol=1e-6, atol=1e-6)


@every_way
@every_architecture
def test_no_gradient_reaches_another_text(name: str, way: str) -> None:
    model, packing = ready(name, way)
    batch = batch_of(LENGTHS)
    embedded: list[torch.Tensor] = []

    def keep(_: torch.nn.Module, __: Any, output: torch.Tensor) -> None:
        output.retain_grad()
        embedded.append(output)

    model.get_input_embeddings().register_forward_hook(keep)
    for chosen in range(len(LENGTHS)):
        embedded.clear()
        packed_logits(packing, model, batch)[chosen].square().sum().backward()
        (gradient,) = (output.grad for output in embedded)
        assert gradient is not None
        # Some architectures embed the packed row.
        by_text = gradient[0].split(LENGTHS) if gradient.shape[0] == 1 else tuple(gradient)
        assert [bool((part != 0).any()) for part in by_text] == [text == chosen for text in range(len(LENGTHS))]


def test_padding_on_the_left_is_left_out_too() -> None:
    batch = batch_of((4, 9))
    mask = torch.flip(batch["attention_mask"], dims=[1])
    layout = Layout.of(mask, torch.device("cpu"))
    padded = torch.arange(2 * 16).reshape(2, 16)
    assert layout.pack(padded)[0].tolist() == [*range(12, 16), *range(23, 32)]
    assert torch.equal(layout.unpack(layout.pack(padded)), padded * mask)
    assert layout.tensors["positions"].tolist() == [*range(4), *range(9)]
    assert layout.tensors["bounds"].tolist() == [0, 4, 13]


@pytest.mark.parametrize("name", REFUSED)
def test_an_architecture_that_cannot_is_refused_in_one_line(name: str) -> None:
    model = model_of(REFUSED[name], "eager")
    with pytest.raises(SeqtrackError) as caught:
        Packing(model).check(batch_of(LENGTHS))
    message = str(caught.value)
    assert message.startswith("params.yaml: train.packing: ")
    assert type(model).__name__ in message
    assert message.endswith("set train.packing to false.")
    assert "\n" not in message


class MeanOfAll(BertForSequenceClassification):
    """A user's class, whose head takes padding for text."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any) -> Any:
        output = super().forward(input_ids, attention_mask=attention_mask, **kwargs)
        hidden = self.bert(input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
        output.logits = self.classifier(hidden.mean(dim=1))
        return output


class MeanOfText(BertForSequenceClassification):
    """A user's class that does it right."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: Any) -> Any:
        output = super().forward(input_ids, attention_mask=attention_mask, **kwargs)
        hidden = self.bert(input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
        weights = attention_mask[:, :, None].float()
        output.logits = self.classifier((hidden * weights).sum(dim=1) / weights.sum(dim=1))
        return output


def test_a_class_of_the_users_passes_or_is_refused() -> None:
    config = copy.deepcopy(ARCHITECTURES["bert"])
    torch.manual_seed(0)
    Packing(MeanOfText(config)).check(batch_of(LENGTHS))
    with pytest.raises(SeqtrackError, match=r"MeanOfAll \(bert\) cannot compute packed texts: its logits differ"):
        Packing(MeanOfAll(config)).check(batch_of(LENGTHS))


def test_the_check_leaves_the_model_as_it_was() -> None:
    model = model_of(ARCHITECTURES["bert"], "sdpa").train()
    state, generator = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    Packing(model).check(batch_of(LENGTHS))
    assert model.training
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_the_check_sees_a_text_that_another_one_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also through a fresh head, whose weights are small, and in a model whose attention tells hardly anything."""
    config = BertConfig(**(SIZES | {"initializer_range": 0.02}), **POSITIONS)
    everything: Callable[..., torch.Tensor] = lambda self, window=None: torch.ones(  # noqa: E731
        (len(self.tensors["texts"]),) * 2, dtype=torch.bool
    )
    monkeypatch.setattr(Layout, "visible", everything)
    with pytest.raises(SeqtrackError, match="its layers' outputs differ by up to"):
        Packing(model_of(config, "eager")).check(batch_of(LENGTHS))


def test_attention_from_another_package_is_refused() -> None:
    model = model_of(ARCHITECTURES["bert"], "sdpa")
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(
        SeqtrackError, match=r"model.attn_implementation: .* not flex_attention; expected null, sdpa or"
    ):
        Packing(model)


def test_a_model_saved_after_packing_knows_nothing_of_it(tmp_path: Path) -> None:
    model_of(ARCHITECTURES["bert"], "sdpa").save_pretrained(tmp_path / "plain")
    model, packing = ready("bert", "varlen")
    packed_logits(packing, model, batch_of(LENGTHS))
    model.save_pretrained(tmp_path / "packed")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "packed" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()


@every_way
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_activations_recomputed_in_the_backward_pass_are_packed_too(name: str, way: str) -> None:
    batch, gradients = batch_of(LENGTHS), []
    for recompute in (False, True):
        model, packing = ready(name, way)
        if recompute:
            model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()
        torch.manual_seed(5)
        packed_logits(packing, model, batch).square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


# Attention


def heads(
    lengths: Sequence[int], size: int, dtype: torch.dtype, device: str
) -> tuple[list[torch.Tensor], torch.Tensor]:
    torch.manual_seed(1)
    parts = [torch.randn(sum(lengths), 2, size, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]
    return parts, torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=device)


def masked(parts: Sequence[torch.Tensor], lengths: Sequence[int], window: int | None) -> torch.Tensor:
    """The same by a block mask, in the plainest way."""
    layout = Layout.of(torch.arange(max(lengths)) < torch.tensor(lengths)[:, None], torch.device("cpu"))
    visible = layout.visible(window).to(parts[0].device)
    query, key, value = (part.transpose(0, 1) for part in parts)
    scores = (query @ key.transpose(1, 2)).float() / query.shape[-1] ** 0.5
    weights = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
    return (weights.to(value.dtype) @ value).transpose(0, 1)


def compare(
    lengths: Sequence[int], size: int, dtype: torch.dtype, device: str, window: int | None, atol: float
) -> None:
    parts, bounds = heads(lengths, size, dtype, device)
    found = varlen_attention(*parts, bounds=bounds, longest=max(lengths), window=window)
    expected = masked(parts, lengths, window)
    assert torch.allclose(found, expected, rtol=0, atol=atol)
    wanted = torch.autograd.grad(expected.float().square().sum(), parts)
    for one, other in zip(torch.autograd.grad(found.float().square().sum(), parts), wanted, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=10 * atol)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6), window=st.none() | st.integers(1, 25), size=st.just(8)
)
def test_varlen_attention_equals_a_block_mask(lengths: list[int], window: int | None, size: int) -> None:
    compare(lengths, size, torch.float32, "cpu", window, atol=1e-5)


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@needs_cuda
@pytest.mark.parametrize("lengths", [LENGTHS, (1,), (300, 5, 512)])
@pytest.mark.parametrize(
    ("dtype", "window", "atol"),
    [(torch.float32, None, 1e-4), (torch.float32, 6, 1e-4), (torch.bfloat16, None, 2e-2), (torch.bfloat16, 6, 2e-2)],
)
@pytest.mark.parametrize("size", [8, 64])
def test_kernels_equal_a_block_mask(
    lengths: Sequence[int], dtype: torch.dtype, window: int | None, atol: float, size: int
) -> None:
    compare(lengths, size, dtype, "cuda", window, atol)


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_drop_as_the_seed_says(dtype: torch.dtype) -> None:
    parts, bounds = heads((300, 212), 64, dtype, "cuda")

    def dropped(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return varlen_attention(*parts, bounds=bounds, longest=300, dropout=0.5)

    assert torch.equal(dropped(1), dropped(1))
    assert not torch.equal(dropped(1), dropped(2))


@needs_cuda
@every_architecture
def test_packed_logits_equal_padded_ones_on_cuda(name: str) -> None:
    model = model_of(ARCHITECTURES[name], "sdpa").to("cuda")
    batch = batch_of(LENGTHS)
    on_device = {key: value.to("cuda") for key, value in batch.items()}
    with torch.no_grad():
        expected = model(**on_device).logits
        packing = Packing(model)
        packing.check(batch)
        with packing.laid_end_to_end(batch["attention_mask"]):
            found = model(**on_device).logits
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_take_what_they_are_given(dtype: torch.dtype) -> None:
    """Without a GPU: PyTorch's own account of shapes, forward and backward, says whether they are called rightly."""
    parts = [torch.randn(24, 2, 64, device="meta", dtype=dtype, requires_grad=True) for _ in range(3)]
    bounds = torch.empty(4, dtype=torch.int32, device="meta")
    # PyTorch 2.13 knows no shapes of this one's backward pass.
    assert memory_efficient(*parts, bounds, 12, 0.1, 0.125).shape == parts[0].shape
    if dtype == torch.bfloat16:
        for found in (flash(*parts, bounds, 12, 0.1, 0.125, None), flash(*parts, bounds, 12, 0.0, None, 6)):
            assert (found.shape, found.dtype) == (parts[0].shape, dtype)
            for part, gradient in zip(parts, torch.autograd.grad(found.sum(), parts), strict=True):
                assert gradient.shape == part.shape


def test_the_plain_way_drops_as_much_as_it_should() -> None:
    parts, bounds = heads((200, 100), 8, torch.float32, "cpu")
    ones = torch.ones_like(parts[2])
    torch.manual_seed(0)
    found = text_by_text(parts[0], parts[1], ones, bounds, 0.25, None, None)
    assert found.mean().item() == pytest.approx(1.0, abs=0.02)
    assert found.std().item() > 0.01


# Training


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy"))


PACKED: dict[str, Any] = {
    "packing": True,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "checkpoint": {"every": "2 steps", "keep": 1},
}


@pytest.mark.parametrize("cheap", [False, True])
@pytest.mark.parametrize("step", [5])
def test_a_killed_training_ends_in_the_same_bits(toy: Toy, tmp_path: Path, step: int, cheap: bool) -> None:
    train = recipe(cheap_dropout=cheap, **PACKED)
    whole = toy.job(tmp_path / "whole", train)
    state = fit(whole, accelerator("bf16"), [])
    with pytest.raises(Interruption):
        fit(toy.job(tmp_path / "killed", train), accelerator("bf16"), [Recorder(at="curve", step=step)])
    job = toy.job(tmp_path / "killed", train, toy.model(seed=99))
    assert fit(job, accelerator("bf16"), []) == state
    assert equal_weights(job.model, whole.model)


def test_without_dropout_it_learns_what_padded_rows_teach(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = recipe(packing=True, num_train_epochs=3, per_device_max_tokens=20)
    expected = toy.model(dropout=False).double()
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in expected.parameters() if p.ndim > 1], "weight_decay": train.weight_decay},
            {"params": [p for p in expected.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=train.learning_rate,
    )
    constant = train.model_copy(update={"lr_scheduler_type": "constant", "warmup_ratio": 0.0})
    losses = plain_steps(
        toy,
        constant,
        expected,
        optimizer,
        lambda logits, rows: torch.nn.functional.cross_entropy(logits, torch.from_numpy(toy.train.labels[rows])),
    )
    state = fit(toy.job(tmp_path, constant, toy.model(dropout=False).double()), accelerator(), [])
    assert [point.loss for point in state.curve] == pytest.approx(losses, abs=1e-10)
    assert "none, texts are packed: block mask" in capsys.readouterr().out


def test_training_refuses_before_its_first_step(toy: Toy, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MeanOfAll(toy.model().config)
    with pytest.raises(SeqtrackError, match=r"train.packing: MeanOfAll \(bert\) cannot .*; set train.packing to false"):
        fit(toy.job(tmp_path, recipe(packing=True), model), accelerator(), [])
    assert not list(tmp_path.glob("step-*"))


def test_compiled_models_are_refused() -> None:
    processes = accelerator()
    check_packing(processes, recipe(packing=True))
    processes.state.dynamo_plugin.backend = DynamoBackend.INDUCTOR
    check_packing(processes, recipe(packing=False))
    with pytest.raises(SeqtrackError, match=r"set launch.dynamo_backend to no, or set train.packing to false"):
        check_packing(processes, recipe(packing=True))


def test_it_does_not_go_with_padding_to_a_fixed_length() -> None:
    with pytest.raises(ValueError, match="packing leaves no padding"):
        recipe(packing=True, pad_to_max_length=True)


def test_packed_micro_batches_count_no_padding() -> None:
    lengths = np.array([30, 2, 3, 4, 1])
    how: dict[str, Any] = {"rows": 5, "per_device_batch_size": 5, "world_size": 1, "accumulation": 1, "epochs": 1.0}
    plan = BatchPlan(**how, seed=1, lengths=lengths, max_tokens=36, packed=True)
    packed = [lengths[micro.indices] for micro in plan.micro_batches(0, 0)]
    assert sorted(np.concatenate(packed)) == sorted(lengths)
    assert all(part.sum() <= 36 or len(part) == 1 for part in packed)
    padded = dataclasses.replace(plan, packed=False).micro_batches(0, 0)
    assert len(packed) < len(padded)
