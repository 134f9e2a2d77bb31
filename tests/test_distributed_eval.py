"""Several processes: what one would compute, each row once, no deadlock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import distributed_eval
from pipeline.distributed_eval import distributed_logits
from pipeline.training import plan_of
from tests.toy import REPOSITORY, Toy, accelerator, make_toy, recipe
from tests.two_processes import GRADIENTS, TOTAL, flat_gradients, results

Ranks = list[dict[str, Any]]
LAUNCH = (
    "--multi_gpu --num_machines 1 --mixed_precision no --num_cpu_threads_per_process 1 --dynamo_backend no "
    "--main_process_port 0"
)

SEVERAL = pytest.mark.parametrize("processes", ["ranks", pytest.param("four", marks=pytest.mark.slow)])


def start(folder: Path, processes: int, flags: str = LAUNCH) -> Ranks:
    command = f"-m stages.launch --num_processes {processes} {flags} -m tests.two_processes".split()
    done = subprocess.run(
        [sys.executable, *command, str(folder), str(processes)],
        cwd=REPOSITORY,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    return start(tmp_path_factory.mktemp("two"), 2)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    return start(tmp_path_factory.mktemp("four"), 4)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def one(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return results(toy, accelerator(), tmp_path_factory.mktemp("alone"))


def global_batches(ranks: Ranks) -> list[list[int]]:
    """Put the rows that the processes fed to their models together again: by step, in the order of the global batch."""
    steps = zip(*(rank["fed"] for rank in ranks), strict=True)
    return [[row for turn in zip(*step, strict=True) for micro in turn for row in micro] for step in steps]


@SEVERAL
def test_processes_train_as_one_does(processes: str, one: dict[str, Any], request: pytest.FixtureRequest) -> None:
    several: Ranks = request.getfixturevalue(processes)
    for name in ("losses", "norms", "weights"):
        assert several[0][name] == pytest.approx(one[name], rel=1e-4), name
    for found, expected in zip(several[0]["validation"], one["validation"], strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    assert several[0]["best"] == one["best"]
    assert np.allclose(several[0]["logits"], one["logits"], atol=1e-4)


@SEVERAL
def test_processes_see_the_global_batches_of_one(
    processes: str, one: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    several: Ranks = request.getfixturevalue(processes)
    expected = global_batches([one])
    assert [len(batch) for batch in expected] == [TOTAL, 1] * 3
    assert global_batches(several) == expected


def test_the_ready_file_for_the_cpu_trains(one: dict[str, Any], tmp_path: Path) -> None:
    (found,) = start(tmp_path, 1, "--config_file configs/accelerate/cpu.yaml --num_cpu_threads_per_process 1")
    assert found["losses"] == one["losses"]
    assert found["weights"] == one["weights"]


def test_gradients_of_accumulation_over_processes_are_those_of_the_whole_batch(ranks: Ranks, toy: Toy) -> None:
    """In float64 and plain PyTorch; 8 rows a step and 5 in the last, so the last micro-batches are empty."""
    train = recipe(**GRADIENTS)
    plan = plan_of(toy.lengths, recipe(**GRADIENTS, gradient_accumulation_steps=4), 2)
    model = toy.model(dropout=False).double().train()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": train.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=train.learning_rate,
    )
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step if step < 1 else (3 - step) / 2)
    assert plan.total_steps == len(ranks[0]["gradients"]) == 3
    for step in range(plan.total_steps):
        rows = plan.global_batch(step)
        logits = model(**toy.tokens.batch(toy.train.positions[rows])).logits
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(toy.train.labels[rows])).backward()
        for rank in ranks:
            assert np.allclose(rank["gradients"][step], flat_gradients(model), rtol=0, atol=1e-12)
        optimizer.step()
        warmup.step()


def test_one_process_out_of_memory_halves_the_batch_of_all(ranks: Ranks) -> None:
    for rank in ranks:
        memory = rank["memory"]
        assert memory["size"] == 2
        assert memory["losses"] == pytest.approx(memory["losses_given"], rel=1e-5)
    assert max(ranks[1]["memory"]["rows"]) == 2


@SEVERAL
def test_all_processes_know_the_same_and_one_tells(processes: str, request: pytest.FixtureRequest) -> None:
    several: Ranks = request.getfixturevalue(processes)
    for name in ("losses", "validation", "best", "logits", "weights"):
        assert all(rank[name] == several[0][name] for rank in several)
    assert [rank["heard"] for rank in several] == [[2, 4, 6], *[[] for _ in several[1:]]]


def test_fewer_rows_than_processes(ranks: Ranks) -> None:
    assert [rank["one_row"] for rank in ranks] == [[1, 3], [1, 3]]


def test_processes_whose_clocks_disagree_save_together(ranks: Ranks) -> None:
    assert len(ranks[0]["minutes"]) > 3
    assert ranks[1]["minutes"] == []


class OneOf:
    """Stands for the accelerator of one of several processes; `theirs` is what all of them computed."""

    device = torch.device("cpu")

    def __init__(self, rank: int, world: int, theirs: list[torch.Tensor]) -> None:
        self.process_index, self.num_processes, self.theirs = rank, world, theirs
        self.mine = torch.empty(0)

    def gather(self, mine: torch.Tensor) -> torch.Tensor:
        self.mine = mine
        return torch.cat(self.theirs or [mine] * self.num_processes)


@pytest.mark.parametrize("budget", [1, 25, 10_000])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("padded", [False, True])
def test_processes_divide_their_shares_alike(
    toy: Toy, world: int, budget: int, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All need the same number of forward passes; batches under a budget of tokens depend on the rows in them."""
    monkeypatch.setattr(distributed_eval, "token_budget", lambda _: budget)
    monkeypatch.setattr(toy.tokens, "pad_to", 16 if padded else None)
    model, positions = toy.model().eval(), np.arange(3, 30)
    shapes: list[list[torch.Size]] = []
    handle = model.register_forward_pre_hook(
        lambda _, __, inputs: shapes[-1].append(inputs["input_ids"].shape), with_kwargs=True
    )
    theirs = []
    for rank in range(world):
        shapes.append([])
        one = OneOf(rank, world, [])
        distributed_logits(model, toy.tokens, positions, 8, one)  # type: ignore[arg-type]
        theirs.append(one.mine)
    handle.remove()
    found = distributed_logits(model, toy.tokens, positions, 8, OneOf(0, world, theirs))  # type: ignore[arg-type]
    rows = [[shape[0] for shape in rank] for rank in shapes]
    assert all(rank == rows[0] for rank in rows)
    assert all(shape[0] == 1 or shape.numel() <= budget for rank in shapes for shape in rank)
    assert max(rows[0]) <= 8
    if padded:
        assert {shape[1] for rank in shapes for shape in rank} == {16}
    for position, row in zip(positions, found, strict=True):
        expected = model(**toy.tokens.batch(np.array([position]))).logits[0].detach().numpy()
        assert np.allclose(row, expected, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_logits_are_in_the_order_of_the_positions(toy: Toy, batch_size: int) -> None:
    model = toy.model()
    positions = np.array([20, 3, 3, 31, 0, 7])
    found = distributed_logits(model, toy.tokens, positions, batch_size, accelerator())
    assert not model.training
    for position, row in zip(positions, found, strict=True):
        expected = model(**toy.tokens.batch(np.array([position]))).logits[0].detach().numpy()
        assert np.allclose(row, expected, atol=1e-5)
