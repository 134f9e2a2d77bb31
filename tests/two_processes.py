"""What test_distributed.py starts through `accelerate launch`: trains the toy task, writes what each process saw."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from pipeline.distributed_eval import distributed_logits
from pipeline.training import fit
from tests.toy import Recorder, Toy, make_toy, recipe

CHANGES: dict[str, Any] = {"num_train_epochs": 3, "metric_for_best_model": "loss"}


def results(toy: Toy, processes: Accelerator, folder: Path, per_device: int) -> dict[str, Any]:
    """Train with 10 rows a step: an epoch's last has one of the 21, so one process has none of its own.

    The 11 validation rows cannot be shared evenly either.
    """
    train = recipe(**CHANGES, per_device_train_batch_size=per_device, gradient_accumulation_steps=5)
    job = toy.job(folder / "checkpoints", train, toy.model(dropout=False))
    recorder = Recorder()
    state = fit(job, processes, [recorder])
    logits = distributed_logits(job.model, toy.tokens, toy.validation.positions, 2, processes)
    return {
        "losses": [point.loss for point in state.curve],
        "norms": [point.grad_norm for point in state.curve],
        "validation": [evaluation.metrics["loss"] for evaluation in state.evaluations],
        "best": state.best_step,
        "heard": recorder.evaluations,
        "logits": logits.tolist(),
        "weights": float(sum(p.detach().double().abs().sum() for p in job.model.parameters())),
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
    torch.set_num_threads(1)
    processes = Accelerator(cpu=True)
    assert processes.num_processes == 2
    with processes.main_process_first():
        toy = make_toy(folder / "toy")
    found = results(toy, processes, folder, 1)
    # One row for two processes, and more rows than one batch.
    one = distributed_logits(toy.model(), toy.tokens, np.array([3]), 2, processes)
    found |= {"one_row": list(one.shape), "minutes": clocks_that_disagree(toy, processes, folder)}
    (folder / f"rank-{processes.process_index}.json").write_text(json.dumps(found))
    processes.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
