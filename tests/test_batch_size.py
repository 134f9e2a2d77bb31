"""A given total batch, and a device that is out of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import PreTrainedModel

from pipeline.batches import BatchPlan
from pipeline.checkpoints import read_state
from pipeline.errors import SeqtrackError
from pipeline.training import fit, plan_of
from tests.toy import Interruption, Recorder, Toy, accelerator, equal_weights, make_toy, recipe


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy"))


class Memory:
    """Stands in for a device that holds so many training rows."""

    def __init__(self, model: PreTrainedModel, rows: int, *, training: bool = True) -> None:
        self.rows = rows
        self.training = training
        self.seen: list[int] = []
        model.register_forward_pre_hook(self._forward, with_kwargs=True)

    def _forward(self, model: torch.nn.Module, _: Any, inputs: dict[str, torch.Tensor]) -> None:
        if model.training != self.training:
            return
        if len(inputs["input_ids"]) > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.seen.append(len(inputs["input_ids"]))


def test_a_total_batch_gives_the_accumulation() -> None:
    train = recipe(total_train_batch_size=24, per_device_train_batch_size=4)
    assert [plan_of(np.ones(100, np.int64), train, world).accumulation for world in (1, 2, 3, 6)] == [6, 3, 2, 1]
    assert {plan_of(np.ones(100, np.int64), train, world).total_batch_size for world in (1, 2, 3, 6)} == {24}


def test_a_total_batch_that_processes_cannot_share_is_refused(toy: Toy, tmp_path: Path) -> None:
    train = recipe(total_train_batch_size=10, per_device_train_batch_size=4)
    with pytest.raises(SeqtrackError, match="a multiple of 4 x 1 = 4, such as 8 or 12; found 10"):
        fit(toy.job(tmp_path, train), accelerator(), [])


def test_accumulation_is_not_given_twice() -> None:
    with pytest.raises(ValidationError, match=r"set train\.gradient_accumulation_steps to 1, found 2"):
        recipe(total_train_batch_size=8, gradient_accumulation_steps=2)


def test_a_total_batch_trains_as_the_accumulation_it_stands_for(toy: Toy, tmp_path: Path) -> None:
    trained = []
    for name, changes in (("total", {"total_train_batch_size": 12}), ("given", {"gradient_accumulation_steps": 3})):
        job = toy.job(tmp_path / name, recipe(**changes))  # type: ignore[arg-type]
        fit(job, accelerator(), [])
        trained.append(job.model)
    assert equal_weights(*trained)


def found(toy: Toy, folder: Path, memory: int, **changes: Any) -> tuple[Memory, PreTrainedModel, list[list[int]]]:
    """Train 8 rows at once on a device that holds fewer; return also the rows of each step."""
    train = recipe(per_device_train_batch_size=8, auto_find_batch_size=True, **changes)
    job = toy.job(folder, train)
    device = Memory(job.model, memory)
    state = fit(job, accelerator(), [])
    return device, job.model, [[point.step, round(point.loss * 1e9)] for point in state.curve]


def test_out_of_memory_halves_the_batch_and_keeps_the_step(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device, model, curve = found(toy, tmp_path / "found", 3)
    assert max(device.seen) == 2
    assert sum(device.seen) == 42  # two epochs of 21 rows: what a failed attempt had done was done again, in full
    said = capsys.readouterr().out
    assert "train: step 1: out of memory; going on with 4 rows per device and accumulation 2" in said
    assert "going on with 2 rows per device and accumulation 4, so a step keeps its 8 rows" in said
    # To the bit what the smaller batch gives from the start.
    train = recipe(per_device_train_batch_size=2, gradient_accumulation_steps=4)
    job = toy.job(tmp_path / "given", train)
    state = fit(job, accelerator(), [])
    assert equal_weights(model, job.model)
    assert curve == [[point.step, round(point.loss * 1e9)] for point in state.curve]


def test_enough_memory_changes_nothing(toy: Toy, tmp_path: Path) -> None:
    _, model, _ = found(toy, tmp_path / "auto", 8)
    job = toy.job(tmp_path / "plain", recipe(per_device_train_batch_size=8))
    assert fit(job, accelerator(), []).per_device_batch_size is None
    assert equal_weights(model, job.model)


def test_the_rows_of_a_step_stay_the_same(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[int, tuple[int, ...]]] = []
    micro_batches = BatchPlan.micro_batches

    def spy(plan: BatchPlan, step: int, rank: int) -> list[Any]:
        micro = micro_batches(plan, step, rank)
        steps.append((step, tuple(sorted(row for batch in micro if batch.counts for row in batch.indices))))
        return micro

    monkeypatch.setattr(BatchPlan, "micro_batches", spy)
    found(toy, tmp_path / "short", 2)
    short, steps = steps, []
    found(toy, tmp_path / "enough", 8)
    assert len(short) == len(steps) + 2  # the attempts at step 1
    assert set(short) == set(steps)


def test_the_batch_found_is_in_the_checkpoint_and_used_after_a_resume(toy: Toy, tmp_path: Path) -> None:
    changes = {"checkpoint": {"every": "2 steps"}}
    whole = toy.job(tmp_path / "whole", recipe(per_device_train_batch_size=8, auto_find_batch_size=True, **changes))
    Memory(whole.model, 2)
    fit(whole, accelerator(), [])
    train = recipe(per_device_train_batch_size=8, auto_find_batch_size=True, **changes)
    killed = toy.job(tmp_path / "killed", train)
    Memory(killed.model, 2)
    with pytest.raises(Interruption):
        fit(killed, accelerator(), [Recorder(at="checkpoint", step=2)])
    assert read_state(killed.checkpoints.path(2)).per_device_batch_size == 2
    again = toy.job(tmp_path / "killed", train)
    device = Memory(again.model, 8)  # there would be room now, but another division would round otherwise
    state = fit(again, accelerator(), [])
    assert max(device.seen) == 2
    assert state.per_device_batch_size == 2
    assert equal_weights(whole.model, again.model)


def test_a_single_row_that_does_not_fit_is_an_error(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(SeqtrackError, match="out of memory") as caught:
        found(toy, tmp_path, 0)
    assert caught.value.found == "train.per_device_train_batch_size: 1"
    assert "gradient_checkpointing" in str(caught.value)


def test_without_the_switch_the_remedies_are_named(toy: Toy, tmp_path: Path) -> None:
    job = toy.job(tmp_path, recipe(per_device_train_batch_size=8))
    Memory(job.model, 4)
    with pytest.raises(SeqtrackError, match="step 1: out of memory on the device") as caught:
        fit(job, accelerator(), [])
    for remedy in (
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "auto_find_batch_size",
        "bf16",
        "gradient_checkpointing",
    ):
        assert remedy in str(caught.value.fix)


def test_out_of_memory_in_an_evaluation_names_its_own_remedy(toy: Toy, tmp_path: Path) -> None:
    job = toy.job(tmp_path, recipe(per_device_eval_batch_size=8))
    Memory(job.model, 4, training=False)
    with pytest.raises(SeqtrackError, match=r"evaluation: out of memory.*lower train\.per_device_eval_batch_size"):
        fit(job, accelerator(), [])


def test_batches_of_one_length_for_devices_that_compile_each_shape(toy: Toy) -> None:
    positions = toy.train.positions[:3]
    padded, fixed = toy.tokens.batch(positions), None
    toy.tokens.pad_to = 16
    try:
        fixed = toy.tokens.batch(positions)
    finally:
        toy.tokens.pad_to = None
    assert fixed["input_ids"].shape == (3, 16)
    assert int(fixed["attention_mask"].sum()) == int(padded["attention_mask"].sum())
