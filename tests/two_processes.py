"""What test_distributed_eval.py starts in several processes: trains the toy task, writes what each process saw."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from pipeline.batches import BatchPlan, MicroBatch
from pipeline.distributed_eval import distributed_logits
from pipeline.ranks import settle, told_once
from pipeline.training import fit
from tests.test_batch_size import Memory
from tests.toy import Recorder, Toy, make_toy, recipe

CHANGES: dict[str, Any] = {"num_train_epochs": 3, "metric_for_best_model": "loss"}
TOTAL = 20  # rows of a step, for 1, 2 and 4 processes; the last step of an epoch has one of the 21


def results(toy: Toy, processes: Accelerator, folder: Path) -> dict[str, Any]:
    """Train with accumulation and one row in an epoch's last step, so all processes but one have none of their own.

    The 11 validation rows cannot be shared evenly either.
    """
    per_device = 20 // (processes.num_processes * 5)
    train = recipe(**CHANGES, per_device_train_batch_size=per_device, total_train_batch_size=TOTAL)
    job = toy.job(folder / "checkpoints", train, toy.model(dropout=False))
    recorder, fed = Recorder(), list[list[list[int]]]()
    micro_batches = BatchPlan.micro_batches

    def spy(plan: BatchPlan, step: int, rank: int) -> list[MicroBatch]:
        micro = micro_batches(plan, step, rank)
        if step == 3 and rank == 1 and sys.argv[3:] == ["die"]:
            os.kill(os.getpid(), signal.SIGKILL)
        fed.append([batch.indices.tolist() if batch.counts else [] for batch in micro])
        return micro

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchPlan, "micro_batches", spy)
        state = fit(job, processes, [recorder])
    logits = distributed_logits(job.model, toy.tokens, toy.validation.positions, 2, processes)
    return {
        "fed": fed,
        "losses": [point.loss for point in state.curve],
        "norms": [point.grad_norm for point in state.curve],
        "validation": [evaluation.metrics for evaluation in state.evaluations],
        "best": state.best_step,
        "heard": recorder.evaluations,
        "logits": logits.tolist(),
        "weights": float(sum(p.detach().double().abs().sum() for p in job.model.parameters())),
    }


GRADIENTS: dict[str, Any] = {"num_train_epochs": 1, "max_grad_norm": 0.0, "per_device_train_batch_size": 1}


def gradients(toy: Toy, processes: Accelerator, folder: Path) -> list[list[float]]:
    """Return the gradients of an epoch's steps in float64: accumulation 4, 8 rows a step, 5 in the last."""
    train = recipe(**GRADIENTS, gradient_accumulation_steps=4)
    job = toy.job(folder / "gradients", train, toy.model(dropout=False).double())
    seen = []
    clip = processes.clip_grad_norm_

    def spy(parameters: Any, limit: float) -> Any:
        seen.append(flat_gradients(job.model))
        return clip(parameters, limit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "clip_grad_norm_", spy)
        fit(job, processes, [])
    return seen


def flat_gradients(model: torch.nn.Module) -> list[float]:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).tolist()


def short_of_memory(toy: Toy, processes: Accelerator, folder: Path) -> dict[str, Any]:
    """Train where the last process alone has too little memory, and train with what fits all from the start."""
    train = {"num_train_epochs": 1, "max_grad_norm": 1.0}
    last = processes.process_index == processes.num_processes - 1
    found = toy.job(folder / "found", recipe(**train, per_device_train_batch_size=8, auto_find_batch_size=True))
    device = Memory(found.model, 2 if last else 8)
    state = fit(found, processes, [])
    given = toy.job(folder / "given", recipe(**train, per_device_train_batch_size=2, gradient_accumulation_steps=4))
    plain = fit(given, processes, [])
    return {
        "size": state.per_device_batch_size,
        "rows": device.seen,
        "losses": [point.loss for point in state.curve],
        "losses_given": [point.loss for point in plain.curve],
    }


def clocks_that_disagree(toy: Toy, processes: Accelerator, folder: Path) -> list[int]:
    """Train with checkpoints by minutes while the second process's clock stands still."""
    ticking = time.monotonic
    time.monotonic = lambda: 60.0 * ticking() if processes.is_main_process else 0.0
    train = recipe(**CHANGES, checkpoint={"every": "0.001 minutes"}, logging_steps=100)
    recorder = Recorder()
    fit(toy.job(folder / "minutes", train), processes, [recorder])
    time.monotonic = ticking
    return recorder.checkpoints


def main(folder: Path) -> None:
    settle()
    torch.set_num_threads(1)
    processes = Accelerator(cpu=True)
    assert processes.num_processes == int(sys.argv[2])
    with processes.main_process_first():
        toy = make_toy(folder / "toy")
    with told_once():
        found = results(toy, processes, folder)
    if processes.num_processes == 2:
        # One row for two processes, and more rows than one batch.
        one = distributed_logits(toy.model(), toy.tokens, np.array([3]), 2, processes)
        found |= {
            "one_row": list(one.shape),
            "minutes": clocks_that_disagree(toy, processes, folder),
            "gradients": gradients(toy, processes, folder),
            "memory": short_of_memory(toy, processes, folder),
        }
    (folder / f"rank-{processes.process_index}.json").write_text(json.dumps(found))
    processes.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
