"""What test_recipe.py starts in two processes: the gradients of a weighted, smoothed loss in float64."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from pipeline.losses import build_criterion
from pipeline.training import Job, fit
from tests.toy import LABELS, Toy, make_toy, recipe

CHANGES: dict[str, Any] = {
    "num_train_epochs": 1,
    "class_weights": {"good": 5.0, "other": 0.25},
    "label_smoothing_factor": 0.1,
    "total_train_batch_size": 8,  # three steps, the last of 5 rows: one of the four micro-batches has two
    "per_device_train_batch_size": 2,
}


def norms_and_losses(toy: Toy, processes: Accelerator, folder: Path) -> dict[str, list[float | None]]:
    """Train an epoch; a gradient's norm and the loss stand for each step."""
    train = recipe(**CHANGES)
    job = toy.job(folder / "checkpoints", train, toy.model(dropout=False).double())
    criterion = build_criterion(train, LABELS, toy.train.labels)
    state = fit(Job(**{**vars(job), "criterion": criterion}), processes, [])
    return {"norms": [point.grad_norm for point in state.curve], "losses": [point.loss for point in state.curve]}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    processes = Accelerator(cpu=True)
    with processes.main_process_first():
        toy = make_toy(folder / "toy")
    found = norms_and_losses(toy, processes, folder)
    if processes.is_main_process:
        (folder / f"of-{processes.num_processes}.json").write_text(json.dumps(found))
    processes.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
