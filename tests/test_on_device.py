"""Within a step nobody waits for the device, and all that is computed with lies on it.

Seen on PyTorch's `meta` device, whose tensors have no numbers: who asks one for its number, or computes with one and a
tensor of the CPU, gets an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from hypothesis import given
from hypothesis import strategies as st
from transformers import masking_utils

from pipeline import training
from pipeline.control import Processes
from pipeline.lora import add_adapters
from pipeline.on_device import begin_to_fetch, logits_of, to_device
from pipeline.training import take_steps
from tests.encoders import ARCHITECTURES, batch_of, model_of
from tests.test_task_training import NUMBERS, SETS, job_of, tell
from tests.toy import LABELS, accelerator, make_toy, recipe

META = torch.device("meta")


@pytest.fixture
def accelerate_again() -> Iterator[None]:
    """Accelerate keeps a device for the whole process; no other test wants this one."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("accelerate_again")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"class_weights": "balanced"},
        {"class_weights": "balanced", "label_smoothing_factor": 0.1, "r_drop": 1.0, "dropout": 0.1},
        {"weight_averaging": 3.0, "max_grad_norm": 0.0},
        {"gradient_accumulation_steps": 2, "layerwise_lr_decay": 0.9},
        {"gradient_checkpointing": True, "auto_find_batch_size": True},
        {"packing": True},
        {"freeze": ["*.embeddings.*"], "lr_scheduler_type": "reduce_lr_on_plateau"},
        {"lora": {"r": 2}},
        {"class_weights": "balanced", "of": SETS},
        {"r_drop": 1.0, "dropout": 0.1, "of": SETS},
        {"r_drop": 1.0, "dropout": 0.1, "of": NUMBERS},
    ],
    ids=lambda changes: ", ".join(changes) or "as shipped",
)
def test_steps_neither_wait_nor_compute_elsewhere(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = changes.get("of", LABELS)
    train = recipe(num_train_epochs=3, **{key: value for key, value in changes.items() if key != "of"})
    toy = make_toy(tmp_path / "toy", spare_words=200) if labels is LABELS else tell(tmp_path / "toy", labels)
    model = toy.model()
    if train.lora is not None:
        add_adapters(model, train.lora, seed=1)
    job = job_of(toy, tmp_path, train, model)
    one = accelerator()
    ready = training.cut_word_table

    def and_move(*args: Any) -> Any:
        """What is tried out on the model needs numbers; from here on there are none."""
        words = ready(*args)
        PartialState().device = one.state.device = META  # the former is copied over the latter now and then
        model.to(META)
        return words

    monkeypatch.setattr(training, "cut_word_table", and_move)
    norms = list(islice(take_steps(job, one, Processes(one), range(100)), 6))
    assert {norm.device for norm in norms} == {META}
    assert {parameter.device for parameter in model.parameters()} == {META}


@pytest.mark.parametrize("lengths", [(9, 4, 12, 7), (8, 8)], ids=["padding", "none"])
@pytest.mark.parametrize("way", ["sdpa", "eager"])
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_no_architecture_is_asked_what_it_masks(name: str, way: str, lengths: tuple[int, ...]) -> None:
    model = model_of(ARCHITECTURES[name], way).to(META)
    batch = batch_of(lengths)
    assert bool(batch["attention_mask"].all()) == (len(set(lengths)) == 1)
    with torch.inference_mode():
        logits = logits_of(model, batch, META)
    assert (logits.device, logits.shape) == (META, (len(lengths), 3))


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    way=st.sampled_from(["sdpa", "eager"]),
    pattern=st.sampled_from(["bidirectional", "causal", "window"]),
)
def test_masks_are_those_of_transformers(lengths: list[int], way: str, pattern: str) -> None:
    """Made by what models ask for masks, while a batch is computed and while none is."""
    batch = batch_of(lengths)
    texts, width = batch["attention_mask"].shape
    config = SimpleNamespace(_attn_implementation=way, sliding_window=3, is_causal=pattern == "causal")
    make = {
        "bidirectional": masking_utils.create_bidirectional_mask,
        "causal": masking_utils.create_causal_mask,
        "window": masking_utils.create_bidirectional_sliding_window_mask,
    }[pattern]
    more = {"past_key_values": None} if pattern == "causal" else {}

    def mask() -> torch.Tensor | None:
        made: torch.Tensor | None = make(
            config=config,
            inputs_embeds=torch.zeros(texts, width, 2),
            attention_mask=batch["attention_mask"],
            **more,
        )
        return made

    expected, found = mask(), list[torch.Tensor | None]()

    def model(**_: torch.Tensor) -> Any:
        found.append(mask())
        return SimpleNamespace(logits=torch.zeros(texts, 1))

    logits_of(model, batch, META)
    assert (found[0] is None) == (expected is None)
    if expected is not None:
        assert torch.equal(found[0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_fetched_is_what_was_computed(dtype: torch.dtype) -> None:
    logits = torch.linspace(-2, 2, 12, dtype=dtype).view(4, 3)
    found = begin_to_fetch(logits)()
    assert found.dtype == np.float32
    assert np.array_equal(found, logits.float().numpy())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_what_a_gpu_computes_later_does_not_change_what_is_fetched() -> None:
    logits = torch.linspace(-2, 2, 12, device="cuda").view(4, 3)
    expected = logits.cpu().numpy()
    fetch = begin_to_fetch(logits)
    logits.zero_()
    assert np.array_equal(fetch(), expected)


def test_a_batch_arrives_whole() -> None:
    batch = {"input_ids": torch.arange(6).reshape(2, 3), "attention_mask": torch.ones(2, 3, dtype=torch.int64)}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    moved = to_device(batch, device)
    assert {name: tensor.device.type for name, tensor in moved.items()} == dict.fromkeys(batch, device.type)
    assert all(torch.equal(moved[name].cpu(), tensor) for name, tensor in batch.items())
