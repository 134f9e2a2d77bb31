"""Training state on disk.

Promises: a checkpoint exists whole or not at all (written aside, synced, its manifest last, then renamed); a damaged
one is named and passed over in favour of the newest sound one; there is no pickle in it, only safetensors and JSON.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch.optim.lr_scheduler import LRScheduler

from pipeline.console import say
from pipeline.errors import SeqtrackError
from pipeline.optimization import NamedOptimizer, load_optimizer_tensors, optimizer_tensors
from pipeline.outputs import MANIFEST, read_json, read_manifest, sha256_file, write_json, write_manifest

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
FILES = (MODEL_FILE, OPTIMIZER_FILE, STATE_FILE)


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One point of the training curve.

    Attributes:
        step: optimisation steps done.
        epoch: epochs done.
        loss: mean training loss per example since the point before.
        learning_rate: of the last step.
        grad_norm: of the last step, before clipping; None where fp16's loss scaling skipped that step.
    """

    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float | None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation on the validation split.

    Attributes:
        step: optimisation steps done.
        epoch: epochs done.
        train_loss: mean training loss per example since the evaluation before.
        learning_rate: of the last step.
        metrics: by name, `loss` included.
    """

    step: int
    epoch: float
    train_loss: float
    learning_rate: float
    metrics: dict[str, float]


@dataclass(kw_only=True)
class TrainingState:
    """All that a training remembers besides weights and optimiser; plain numbers, kept exactly by JSON.

    Attributes:
        step: optimisation steps done.
        curve: points of the training curve so far.
        evaluations: evaluations so far.
        best_step: step of the best evaluation so far, None before the first.
        stale: evaluations since the best one.
        curve_loss: summed loss since the last curve point.
        curve_examples: examples in that sum.
        evaluation_loss: summed loss since the last evaluation.
        evaluation_examples: examples in that sum.
        finished: whether training is over.
    """

    step: int = 0
    curve: list[CurvePoint] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    best_step: int | None = None
    stale: int = 0
    curve_loss: float = 0.0
    curve_examples: int = 0
    evaluation_loss: float = 0.0
    evaluation_examples: int = 0
    finished: bool = False

    @staticmethod
    def from_json(value: dict[str, Any]) -> TrainingState:
        """Rebuild from what `dataclasses.asdict` gave."""
        return TrainingState(
            **{
                **value,
                "curve": [CurvePoint(**point) for point in value["curve"]],
                "evaluations": [Evaluation(**evaluation) for evaluation in value["evaluations"]],
            }
        )


class CheckpointStore:
    """The checkpoints of one run_key.

    Args:
        folder: where they lie; made when first written to.
        keep: newest checkpoints to keep; the best is kept besides.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep

    def path(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.folder / f"step-{step:09d}"

    def save(
        self,
        model: torch.nn.Module,
        optimizer: NamedOptimizer,
        scheduler: LRScheduler,
        scaler: torch.amp.GradScaler | None,
        state: TrainingState,
    ) -> Path:
        """Write a checkpoint at `state.step` and prune old ones.

        Raises:
            SeqtrackError: the disk refuses (full, read-only); earlier checkpoints are untouched.
        """
        final = self.path(state.step)
        temporary = self.folder / f".{final.name}.tmp"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            save_model(model, str(temporary / MODEL_FILE))
            save_file(
                {name: tensor.contiguous() for name, tensor in optimizer_tensors(optimizer).items()},
                temporary / OPTIMIZER_FILE,
            )
            write_json(
                temporary / STATE_FILE,
                {
                    "training": asdict(state),
                    "scheduler": _scheduler_state(scheduler),
                    "scaler": scaler.state_dict() if scaler is not None else None,
                },
            )
            for file in temporary.iterdir():
                _sync(file)
            write_manifest(temporary, inputs={}, params=None, rows={"step": state.step})
            _sync(temporary / MANIFEST)
            _sync(temporary)
            shutil.rmtree(final, ignore_errors=True)  # only a damaged one can be in the way
            temporary.rename(final)
            _sync(self.folder)
            self._prune(state)
        except (OSError, SafetensorError) as error:  # safetensors has its own for a disk that refuses
            shutil.rmtree(temporary, ignore_errors=True)
            raise SeqtrackError(
                f"cannot write a checkpoint ({error})",
                where=str(final),
                fix="free space or fix permissions, then start again: training goes on from the checkpoint before",
            ) from error
        return final

    def latest(self) -> TrainingState | None:
        """Return the state of the newest checkpoint that verifies, as must the best one it refers to.

        Damaged ones are named and passed over; None when no sound one is left.
        """
        for path in self._newest_first():
            problem = damage(path)
            if problem is None:
                state = read_state(path)
                best = state.step if state.best_step is None else state.best_step
                if best == state.step or damage(self.path(best)) is None:
                    return state
                problem = f"the best checkpoint it refers to, {self.path(best).name}, is damaged or gone"
            say(f"warning: checkpoint {path} is passed over: {problem}")
        return None

    def _newest_first(self) -> Iterator[Path]:
        if self.folder.is_dir():
            yield from sorted((p for p in self.folder.iterdir() if re.fullmatch(r"step-\d{9}", p.name)), reverse=True)

    def _prune(self, state: TrainingState) -> None:
        newest = list(self._newest_first())
        keep = {*newest[: self._keep], self.path(state.step)}
        if state.best_step is not None:
            keep.add(self.path(state.best_step))
        for path in newest:
            if path not in keep:
                shutil.rmtree(path)
        for path in self.folder.glob(".step-*.tmp"):  # of a process that was killed while it wrote
            shutil.rmtree(path)


def damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None when every file has the digest its manifest gives."""
    try:
        digests = read_manifest(path).get("files", {})
        for name in FILES:
            if not (path / name).is_file():
                return f"{name} is missing"
            if sha256_file(path / name) != digests.get(name):
                return f"{name} does not have the sha256 in the manifest"
    except (SeqtrackError, OSError) as error:
        return str(error)
    return None


def read_state(path: Path) -> TrainingState:
    """Return the training state of a checkpoint."""
    return TrainingState.from_json(read_json(path / STATE_FILE)["training"])


def load_weights(path: Path, model: torch.nn.Module) -> None:
    """Load a checkpoint's weights into a model of the same shape."""
    load_model(model, str(path / MODEL_FILE), strict=True)


def load_training(
    path: Path,
    model: torch.nn.Module,
    optimizer: NamedOptimizer,
    scheduler: LRScheduler,
    scaler: torch.amp.GradScaler | None,
) -> TrainingState:
    """Load weights, optimiser, schedule and loss scale of a checkpoint; return its training state."""
    load_weights(path, model)
    load_optimizer_tensors(optimizer, load_file(path / OPTIMIZER_FILE))
    saved = read_json(path / STATE_FILE)
    scheduler.load_state_dict({**scheduler.state_dict(), **saved["scheduler"]})
    for group, rate in zip(optimizer.optimizer.param_groups, saved["scheduler"]["_last_lr"], strict=True):
        group["lr"] = rate
    if scaler is not None and saved["scaler"] is not None:
        scaler.load_state_dict(saved["scaler"])
    return TrainingState.from_json(saved["training"])


def _scheduler_state(scheduler: LRScheduler) -> dict[str, Any]:
    """Return the numbers of a scheduler's state; its functions are rebuilt from params."""
    return {name: value for name, value in scheduler.state_dict().items() if name != "lr_lambdas"}


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that a rename after it never exposes unwritten bytes."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
