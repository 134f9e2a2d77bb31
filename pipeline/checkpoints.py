"""Training state on disk.

Promises: a checkpoint exists whole or not at all (written aside, synced, its manifest last, then renamed); a damaged
one is named and passed over in favour of the newest sound one; there is no pickle in it, only safetensors and JSON; it
says which training it belongs to.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from pipeline.console import say
from pipeline.errors import SeqtrackError
from pipeline.optimization import NamedOptimizer, load_optimizer_tensors, optimizer_tensors, scheduler_state
from pipeline.outputs import MANIFEST, Json, read_json, read_manifest, sha256_file, write_json, write_manifest
from pipeline.sharding import divided_like, local, whole

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
TRAINING_FILE = "training.json"  # which training this belongs to
LOCK_FILE = ".lock"  # beside the checkpoints
FILES = (MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, TRAINING_FILE)
LOCK_SECONDS = 10.0  # how long a training that was just stopped may take to let go of its folder


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
        curve_weight: what that sum is divided by to give the mean: examples, or the sum of their classes' weights.
        evaluation_loss: summed loss since the last evaluation.
        evaluation_weight: likewise.
        finished: whether training is over.
        per_device_batch_size: rows taken at once, where a device out of memory made them fewer than params.yaml says.
    """

    step: int = 0
    curve: list[CurvePoint] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    best_step: int | None = None
    stale: int = 0
    curve_loss: float = 0.0
    curve_weight: float = 0.0
    evaluation_loss: float = 0.0
    evaluation_weight: float = 0.0
    finished: bool = False
    per_device_batch_size: int | None = None

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


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A training between two steps, in host memory: what a checkpoint holds.

    Attributes:
        model: weights and buffers by name, on the CPU, tied ones once.
        optimizer: see `optimization.optimizer_tensors`, on the CPU.
        scheduler: the schedule's numbers; its functions are rebuilt from params.
        scaler: the state of fp16's loss scaling; None without it.
        state: all other numbers.
    """

    model: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    scheduler: dict[str, Any]
    scaler: dict[str, Any] | None
    state: TrainingState

    @staticmethod
    def take(
        model: torch.nn.Module,
        optimizer: NamedOptimizer,
        scheduler: LRScheduler,
        scaler: torch.amp.GradScaler | None,
        state: TrainingState,
        *,
        keep: bool = True,
    ) -> Snapshot:
        """Copy a training, so that it can go on while the copy is written.

        Where weights are divided all processes must do so together, and those that will not write set `keep` to false:
        theirs has no tensors.
        """
        return Snapshot(
            model=_copies(model.state_dict(), keep=keep),
            optimizer=_copies(optimizer_tensors(optimizer), keep=keep),
            scheduler=scheduler_state(scheduler),
            scaler=None if scaler is None else scaler.state_dict(),
            state=replace(state, curve=list(state.curve), evaluations=list(state.evaluations)),
        )

    @staticmethod
    def read(path: Path) -> Snapshot:
        """Read a checkpoint that `damage` found sound."""
        saved = read_json(path / STATE_FILE)
        return Snapshot(
            model=load_file(path / MODEL_FILE),
            optimizer=load_file(path / OPTIMIZER_FILE),
            scheduler=saved["scheduler"],
            scaler=saved["scaler"],
            state=TrainingState.from_json(saved["training"]),
        )

    def restore(
        self,
        model: torch.nn.Module,
        optimizer: NamedOptimizer,
        scheduler: LRScheduler,
        scaler: torch.amp.GradScaler | None,
    ) -> TrainingState:
        """Put weights, optimiser, schedule and loss scale back; return the rest.

        A schedule that is a function of the step gives the next step's learning rate, so that a training with more
        epochs than this one's follows its own schedule from here on.
        """
        self.restore_weights(model)
        load_optimizer_tensors(optimizer, self.optimizer)
        scheduler.load_state_dict({**scheduler.state_dict(), **self.scheduler})
        rates = self.scheduler["_last_lr"]
        if isinstance(scheduler, LambdaLR):
            rates = [
                base * function(scheduler.last_epoch)
                for base, function in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
            ]
            scheduler._last_lr = rates
        for group, rate in zip(optimizer.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        if scaler is not None and self.scaler is not None:
            scaler.load_state_dict(self.scaler)
        return self.state

    def restore_weights(self, model: torch.nn.Module) -> None:
        """Put the weights back."""
        _put(self.model, model)


class CheckpointStore:
    """The checkpoints of one run_key.

    Args:
        folder: where they lie; made when first written to.
        keep: newest checkpoints to keep; the best is kept besides.
        training: what the training is, as JSON, kept in each checkpoint.
    """

    def __init__(self, folder: Path, keep: int, training: Json = None) -> None:
        self.folder = folder
        self._keep = keep
        self._training = training
        self._named: set[Path] = set()  # damaged ones that were told of

    def path(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.folder / f"step-{step:09d}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other trainings of this run_key out; the lock ends with the process, however it ends.

        Raises:
            SeqtrackError: another process has held the lock for `LOCK_SECONDS`, or the folder cannot be written.
        """
        lock = FileLock(self.folder / LOCK_FILE, timeout=LOCK_SECONDS)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise SeqtrackError(
                "another process is doing this very training",
                where=str(self.folder),
                fix="wait for it, or stop it and start again: training goes on from its newest checkpoint",
            ) from None
        except OSError as error:
            raise SeqtrackError(
                f"cannot write checkpoints ({error})", where=str(self.folder), fix="free space or fix permissions"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def save(self, snapshot: Snapshot) -> Path:
        """Write a checkpoint at `snapshot.state.step` and prune old ones.

        Raises:
            SeqtrackError: the disk refuses (full, read-only); earlier checkpoints are untouched.
        """
        with self._writing(snapshot.state.step) as temporary:
            save_file(snapshot.model, temporary / MODEL_FILE)
            save_file(snapshot.optimizer, temporary / OPTIMIZER_FILE)
            write_json(
                temporary / STATE_FILE,
                {
                    "training": asdict(snapshot.state),
                    "scheduler": snapshot.scheduler,
                    "scaler": snapshot.scaler,
                },
            )
            write_json(temporary / TRAINING_FILE, self._training)
            for name in FILES:
                _sync(temporary / name)
            write_manifest(temporary, inputs={}, params=None, rows={"step": snapshot.state.step})
        self._prune(snapshot.state)
        return self.path(snapshot.state.step)

    def adopt(self, step: int, fetch: Callable[[Path], None]) -> None:
        """Take in a checkpoint from elsewhere.

        Args:
            step: its step.
            fetch: puts its files into an empty folder.

        Raises:
            SeqtrackError: the disk refuses, or what was fetched is damaged or of another step.
        """
        with self._writing(step) as temporary:
            fetch(temporary)
            problem = damage(temporary)
            if problem is None and (found := read_state(temporary).step) != step:
                problem = f"it is of step {found}, not {step}"
            if problem is not None:
                raise SeqtrackError(f"the checkpoint is damaged: {problem}", where="params.yaml: train.resume_from")

    @contextmanager
    def _writing(self, step: int) -> Iterator[Path]:
        """Yield an empty folder, which becomes the checkpoint of `step` when the block ends well."""
        final = self.path(step)
        temporary = self.folder / f".{final.name}.tmp"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            _sync(temporary / MANIFEST)
            _sync(temporary)
            shutil.rmtree(final, ignore_errors=True)  # only a damaged one can be in the way
            temporary.rename(final)
            _sync(self.folder)
        except (OSError, SafetensorError) as error:  # safetensors has its own for a disk that refuses
            raise SeqtrackError(
                f"cannot write a checkpoint ({error})",
                where=str(final),
                fix="free space or fix permissions, then start again: training goes on from the checkpoint before",
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def latest(self) -> TrainingState | None:
        """Return the state of the newest checkpoint that verifies, as must the best one it refers to.

        Damaged ones are named and passed over; None when no sound one is left.
        """
        for path in self.newest_first():
            problem = damage(path)
            if problem is None:
                state = read_state(path)
                best = state.step if state.best_step is None else state.best_step
                if best == state.step or damage(self.path(best)) is None:
                    return state
                problem = f"the best checkpoint it refers to, {self.path(best).name}, is damaged or gone"
            if path not in self._named:
                say(f"warning: checkpoint {path} is passed over: {problem}")
            self._named.add(path)
        return None

    def newest_first(self) -> Iterator[Path]:
        """Yield the folders of checkpoints, sound or not, the newest first."""
        if self.folder.is_dir():
            yield from sorted((p for p in self.folder.iterdir() if re.fullmatch(r"step-\d{9}", p.name)), reverse=True)

    def _prune(self, state: TrainingState) -> None:
        newest = list(self.newest_first())
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


def file_stats(folder: Path) -> list[os.stat_result]:
    """Return sizes and times of the files of a training's checkpoints; what goes meanwhile is left out."""
    found = []
    for inner, _, names in os.walk(folder):  # where rglob would stop at a folder that has gone
        for name in set(names) - {LOCK_FILE}:
            with suppress(FileNotFoundError):
                status = Path(inner, name).lstat()
                if stat.S_ISREG(status.st_mode):
                    found.append(status)
    return found


def read_state(path: Path) -> TrainingState:
    """Return the training state of a checkpoint."""
    return TrainingState.from_json(read_json(path / STATE_FILE)["training"])


def _copies(tensors: Mapping[str, torch.Tensor], *, keep: bool) -> dict[str, torch.Tensor]:
    """Copy tensors to host memory, whole; of those that are one and the same (tied weights) the first alone."""
    seen: set[tuple[object, ...]] = set()
    found = {}
    for name, tensor in tensors.items():
        place = _place(tensor)
        gathered = whole(tensor.detach())  # tied ones too: processes whose part is empty could not tell
        if keep and (place not in seen or not tensor.numel()):
            found[name] = gathered.to("cpu", copy=True, memory_format=torch.contiguous_format)
        seen.add(place)
    return found


def _put(tensors: Mapping[str, torch.Tensor], model: torch.nn.Module) -> None:
    """Load what `_copies` made of a state dict."""
    own = model.state_dict()
    by_place = {_place(own[name]): tensor for name, tensor in tensors.items() if name in own}
    tied = {name: by_place[_place(t)] for name, t in own.items() if name not in tensors and _place(t) in by_place}
    placed = {name: divided_like(t, own[name]) if name in own else t for name, t in {**tensors, **tied}.items()}
    model.load_state_dict(placed, strict=True)


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    """Return what two tensors share only if they are the same numbers in memory."""
    return tensor.device, local(tensor).data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that a rename after it never exposes unwritten bytes."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
