"""The training loop: Accelerate, any number of processes, resumable at every checkpoint.

Promises: the loss of a step is the mean over its global batch, however it is divided into processes and micro-batches;
a loss that is no number ends training with an error, within train.logging_steps of where it came up;
order and dropout are functions of (seed, step), so a training resumed from a checkpoint ends in the same bits as one
that was never interrupted; only the main process writes, logs and prints.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from pipeline.batches import BatchPlan, step_seed
from pipeline.checkpoints import (
    CheckpointStore,
    CurvePoint,
    Evaluation,
    TrainingState,
    load_training,
    load_weights,
)
from pipeline.console import facts, progress, say
from pipeline.distributed_eval import distributed_logits
from pipeline.errors import SeqtrackError
from pipeline.metrics import classification_metrics, greater_is_better
from pipeline.optimization import NamedOptimizer, build_optimizer, build_scheduler
from pipeline.params import Train, parse_interval
from pipeline.tokens import TokenStore


@dataclass(frozen=True, kw_only=True)
class LabelledRows:
    """The labelled rows of a split.

    Attributes:
        positions: where their tokens lie in the token store, int64, shape (rows,).
        labels: class ids, int64, shape (rows,).
    """

    positions: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.positions)


class Listener(Protocol):
    """What wants to hear of a training's progress; called on the main process only."""

    def on_start(self, state: TrainingState) -> None:
        """Training starts, or resumes with the history in `state`."""

    def on_curve(self, point: CurvePoint, samples_per_second: float) -> None:
        """A point of the training curve is due."""

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """The validation split was scored."""

    def on_checkpoint(self, store: CheckpointStore, state: TrainingState) -> None:
        """A checkpoint was written at `state.step`."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train on, and with what.

    Attributes:
        model: a sequence classifier on the CPU.
        tokens: tokenized rows.
        train: rows to learn from, at least one.
        validation: rows to score on, at least one.
        label_names: class names in id order.
        recipe: the `train` section.
        checkpoints: where state is saved.
    """

    model: PreTrainedModel
    tokens: TokenStore
    train: LabelledRows
    validation: LabelledRows
    label_names: tuple[str, ...]
    recipe: Train
    checkpoints: CheckpointStore


def plan_of(job: Job, world_size: int) -> BatchPlan:
    """Return the order of training for a number of processes."""
    return BatchPlan(
        rows=len(job.train),
        per_device_batch_size=job.recipe.per_device_train_batch_size,
        world_size=world_size,
        accumulation=job.recipe.gradient_accumulation_steps,
        epochs=job.recipe.num_train_epochs,
        seed=job.recipe.seed,
    )


def fit(job: Job, accelerator: Accelerator, listeners: Sequence[Listener]) -> TrainingState:
    """Train, resuming from the newest sound checkpoint if there is one, and leave the best weights in `job.model`.

    Args:
        job: see `Job`; its model is trained in place.
        accelerator: decides devices, processes and precision.
        listeners: told of progress.

    Returns:
        The finished state, with the whole history.

    Raises:
        SeqtrackError: the loss is no longer a number, or a checkpoint cannot be written.
    """
    trainer = _Trainer(job, accelerator, listeners if accelerator.is_main_process else ())
    trainer.announce()
    trainer.resume()
    state = trainer.run()
    accelerator.wait_for_everyone()
    assert state.best_step is not None  # the last step is always evaluated
    load_weights(job.checkpoints.path(state.best_step), job.model)
    return state


@dataclass
class _Clock:
    """Wall time and examples since the last curve point: for throughput, which is shown and tracked, never saved."""

    started: float = field(default_factory=time.perf_counter)
    examples: int = 0

    def lap(self) -> float:
        """Return examples per second since the last lap."""
        now = time.perf_counter()
        rate = self.examples / max(now - self.started, 1e-9)
        self.started, self.examples = now, 0
        return rate


class _Trainer:
    """The loop's moving parts; see `fit`."""

    def __init__(self, job: Job, accelerator: Accelerator, listeners: Sequence[Listener]) -> None:
        self.job = job
        self.recipe = job.recipe
        self.accelerator = accelerator
        self.listeners = listeners
        self.plan = plan_of(job, accelerator.num_processes)
        self.main = accelerator.is_main_process
        job.model.to(accelerator.device)
        self.named: NamedOptimizer = build_optimizer(
            job.model, self.recipe, loss_scaling=accelerator.scaler is not None
        )
        # Not prepared: accelerate would step it once per process, and it must count optimisation steps. Built first:
        # it wraps the optimiser's step, and so does accelerate's loss scaling.
        self.scheduler: LRScheduler = build_scheduler(self.named.optimizer, self.recipe, self.plan.total_steps)
        # What is prepared computes with job.model's own parameters, so job.model is what is saved and loaded.
        self.model, self.optimizer = accelerator.prepare(job.model, self.named.optimizer)
        self.state = TrainingState()
        self.interval = parse_interval(self.recipe.checkpoint.every)
        self.last_checkpoint = time.monotonic()
        self.clock = _Clock()
        # One summed loss per step, left on the device until a number is shown or saved: fetching waits for the device.
        self.pending: list[torch.Tensor] = []
        self.learning_rate = 0.0  # of the last step; the scheduler is already at the next

    def announce(self) -> None:
        """Say what is about to happen."""
        if not self.main:
            return
        plan, recipe, accelerator = self.plan, self.recipe, self.accelerator
        parameters = list(self.job.model.parameters())
        trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        facts(
            "train",
            [
                ("examples", f"{plan.rows:,} to learn from, {len(self.job.validation):,} to validate on"),
                ("epochs", f"{recipe.num_train_epochs:g}"),
                ("batch per device", f"{recipe.per_device_train_batch_size}"),
                ("processes", f"{plan.world_size} on {accelerator.device.type}"),
                ("accumulation", f"{plan.accumulation}"),
                ("total batch", f"{plan.total_batch_size}"),
                ("optimisation steps", f"{plan.total_steps:,}"),
                (
                    "trainable parameters",
                    f"{trainable:,} of {sum(parameter.numel() for parameter in parameters):,}",
                ),
                ("precision", accelerator.mixed_precision),
                ("threads", f"{torch.get_num_threads()} per process"),
                ("checkpoints", f"{self.job.checkpoints.folder} every {recipe.checkpoint.every}"),
            ],
        )

    def resume(self) -> None:
        """Load the newest sound checkpoint, if any."""
        # One process decides, or a file vanishing in between could send processes to different checkpoints.
        found = self.job.checkpoints.latest() if self.main else None
        step = self._broadcast(-1 if found is None else found.step)
        if step >= 0:
            path = self.job.checkpoints.path(step)
            self.state = load_training(path, self.job.model, self.named, self.scheduler, self.accelerator.scaler)
            if self.main:
                say(f"train: resuming after step {step:,} of {self.plan.total_steps:,} from {path}")
        for listener in self.listeners:
            listener.on_start(self.state)

    def run(self) -> TrainingState:
        """Do the remaining steps."""
        with progress(quiet=not self.main) as bar:
            task = bar.add_task("train", total=self.plan.total_steps, completed=self.state.step, note="")
            while not self.state.finished:
                grad_norm = self._step()
                self._record(grad_norm)
                note = f"loss {self.state.curve[-1].loss:.4f}" if self.state.curve else ""
                bar.update(task, completed=self.state.step, note=note)
        return self.state

    def _step(self) -> torch.Tensor:
        """Do one optimisation step; return the gradient norm before clipping."""
        step = self.state.step
        torch.manual_seed(step_seed(self.recipe.seed, step, self.accelerator.process_index))
        self.model.train()
        batch_rows = len(self.plan.global_batch(step))
        micro_batches = self.plan.micro_batches(step, self.accelerator.process_index)
        losses = []
        for number, micro in enumerate(micro_batches, start=1):
            last = number == len(micro_batches)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self._loss(micro.indices) * float(micro.counts)
                # Gradients are averaged over processes, so the mean over the global batch takes this factor.
                self.accelerator.backward(loss * (self.plan.world_size / batch_rows))
                losses.append(loss.detach())
        self.pending.append(torch.stack(losses).sum())
        limit = self.recipe.max_grad_norm or float("inf")  # an infinite limit measures and leaves alone
        norm: torch.Tensor | None = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
        self.optimizer.step()
        self.learning_rate = float(self.named.optimizer.param_groups[0]["lr"])
        # A step that fp16's loss scaling skipped must not use up learning rate.
        if not self.accelerator.optimizer_step_was_skipped:
            self.scheduler.step()
        self.optimizer.zero_grad()
        self.state.step += 1
        self.state.curve_examples += batch_rows
        self.state.evaluation_examples += batch_rows
        self.clock.examples += batch_rows
        assert norm is not None
        return norm

    def _loss(self, indices: npt.NDArray[np.int64]) -> torch.Tensor:
        """Return the summed cross entropy of some training rows."""
        inputs = self._inputs(self.job.train.positions[indices])
        labels = torch.from_numpy(self.job.train.labels[indices]).to(self.accelerator.device, non_blocking=True)
        logits = self.model(**inputs).logits
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")  # accelerate made them float32

    def _inputs(self, positions: npt.NDArray[np.int64]) -> dict[str, torch.Tensor]:
        batch = self.job.tokens.batch(positions)
        return {name: tensor.to(self.accelerator.device, non_blocking=True) for name, tensor in batch.items()}

    def _record(self, grad_norm: torch.Tensor) -> None:
        """After a step: log, evaluate, save and stop as the recipe says."""
        state, recipe = self.state, self.recipe
        over = state.step >= self.plan.total_steps
        log = state.step % recipe.logging_steps == 0 or over
        evaluate = over or self._evaluation_is_due()
        if log or evaluate:
            self._collect_loss()
        if log:
            self._log(float(grad_norm))
        improved = self._evaluate() if evaluate else False
        patience = recipe.early_stopping_patience
        stopped = patience is not None and state.stale >= patience
        state.finished = over or stopped
        if stopped and not over and self.main:
            say(f"train: stopping early at step {state.step:,}: no improvement in {state.stale} evaluations")
        if improved or state.finished or self._checkpoint_is_due():
            self._collect_loss()
            self._save()

    def _evaluation_is_due(self) -> bool:
        if self.recipe.eval_strategy == "epoch":
            return self.plan.ends_epoch(self.state.step)
        assert self.recipe.eval_steps is not None  # params.py sees to it
        return self.state.step % self.recipe.eval_steps == 0

    def _checkpoint_is_due(self) -> bool:
        amount, unit = self.interval.amount, self.interval.unit
        if unit == "minutes":
            # One process decides: saving starts with summing up losses, in which all must take part.
            return bool(self._broadcast(int(time.monotonic() - self.last_checkpoint >= 60 * amount)))
        steps = amount if unit == "steps" else amount * self.plan.steps_per_epoch
        # Whether a multiple of a possibly fractional distance lies within this step.
        return int(self.state.step / steps) > int((self.state.step - 1) / steps)

    def _collect_loss(self) -> None:
        """Fetch the losses of the steps since the last call from all processes."""
        if not self.pending:
            return
        by_step = self.accelerator.reduce(torch.stack(self.pending), reduction="sum").tolist()
        self.pending = []
        # Added one by one, so that the sum does not depend on how often this is called.
        for step, loss in enumerate(by_step, start=self.state.step - len(by_step) + 1):
            if not math.isfinite(loss):
                raise self._diverged(f"the training loss of step {step:,} is {loss}")
            self.state.curve_loss += loss
            self.state.evaluation_loss += loss

    def _diverged(self, sign: str) -> SeqtrackError:
        remedies = ["lower train.learning_rate", "raise train.warmup_ratio"]
        if not self.recipe.max_grad_norm:
            remedies.append("set train.max_grad_norm to 1.0")
        if self.accelerator.mixed_precision == "fp16":
            remedies.append("set launch.mixed_precision to bf16 or no")
        return SeqtrackError(f"training diverged: {sign}", where="params.yaml: train", fix=", or ".join(remedies))

    def _log(self, grad_norm: float) -> None:
        state = self.state
        skipped = self.accelerator.optimizer_step_was_skipped
        if not skipped and not math.isfinite(grad_norm):
            raise self._diverged(f"the gradient norm of step {state.step:,} is {grad_norm}")
        point = CurvePoint(
            step=state.step,
            epoch=self.plan.epoch_at(state.step),
            loss=state.curve_loss / state.curve_examples,
            learning_rate=self.learning_rate,
            grad_norm=None if skipped else grad_norm,
        )
        state.curve.append(point)
        state.curve_loss, state.curve_examples = 0.0, 0
        rate = self.clock.lap()
        for listener in self.listeners:
            listener.on_curve(point, rate)

    def _evaluate(self) -> bool:
        """Score the validation split; return whether it is the best so far."""
        state, name = self.state, self.recipe.metric_for_best_model
        paused = time.perf_counter()
        logits = distributed_logits(
            self.model,
            self.job.tokens,
            self.job.validation.positions,
            self.recipe.per_device_eval_batch_size,
            self.accelerator,
        )
        if not np.isfinite(logits).all():
            raise self._diverged(f"the outputs for the validation split after step {state.step:,} are not finite")
        metrics = classification_metrics(logits, self.job.validation.labels, self.job.label_names)
        self.clock.started += time.perf_counter() - paused  # throughput is that of training
        evaluation = Evaluation(
            step=state.step,
            epoch=self.plan.epoch_at(state.step),
            train_loss=state.evaluation_loss / state.evaluation_examples,
            learning_rate=self.learning_rate,
            metrics=metrics,
        )
        state.evaluation_loss, state.evaluation_examples = 0.0, 0
        best = next((e.metrics[name] for e in state.evaluations if e.step == state.best_step), None)
        sign = 1.0 if greater_is_better(name) else -1.0
        improved = best is None or sign * metrics[name] > sign * best
        state.evaluations.append(evaluation)
        state.stale = 0 if improved else state.stale + 1
        if improved:
            state.best_step = state.step
        for listener in self.listeners:
            listener.on_evaluation(evaluation)
        return improved

    def _save(self) -> None:
        self.last_checkpoint = time.monotonic()
        if not self.main:
            return
        self.job.checkpoints.save(self.job.model, self.named, self.scheduler, self.accelerator.scaler, self.state)
        for listener in self.listeners:
            listener.on_checkpoint(self.job.checkpoints, self.state)

    def _broadcast(self, value: int) -> int:
        """Return the main process's value on every process."""
        return int(broadcast(torch.tensor(value, device=self.accelerator.device)))
