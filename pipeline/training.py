"""The training loop: Accelerate, any number of processes, resumable at every checkpoint.

Promises: the loss of a step is the mean over its global batch, however it is divided into processes and micro-batches;
a loss that is no number ends training with an error, within train.logging_steps of where it came up;
order and dropout are functions of (seed, step), so a training resumed from a checkpoint ends in the same bits as one
that was never interrupted; a signal ends it after the step at hand, saved; only the main process writes, logs, prints.
"""

from __future__ import annotations

import contextlib
import copy
import math
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from accelerate.utils.memory import clear_device_cache
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from pipeline.averaging import WeightAverage, put_average
from pipeline.batches import BatchPlan, accumulation_for, smaller_batch, step_seed
from pipeline.checkpoint_writer import CheckpointWriter
from pipeline.checkpoints import CheckpointStore, CurvePoint, Evaluation, Snapshot, TrainingState
from pipeline.console import facts, say
from pipeline.control import Processes
from pipeline.decisions import tune_thresholds
from pipeline.distributed_eval import distributed_logits
from pipeline.dropout import dropout_made_cheap
from pipeline.errors import SeqtrackError, Stopped
from pipeline.first_token import compute_first_token_alone
from pipeline.forward import refusal_told
from pipeline.labels import LabelSet
from pipeline.losses import Criterion
from pipeline.metrics import OwnMetric, default_metric, is_maximized, task_metrics
from pipeline.on_device import logits_of
from pipeline.optimization import (
    NamedOptimizer,
    advance,
    build_optimizer,
    build_scheduler,
    observe,
    schedule_in_words,
)
from pipeline.packing import Packing
from pipeline.params import Train, parse_interval
from pipeline.probabilities import sigmoid
from pipeline.progress import progress
from pipeline.scaling import Scale
from pipeline.sharding import is_sharded, set_up_sharding, whole
from pipeline.signals import StopSignals
from pipeline.targets import Targets
from pipeline.tokens import TokenStore
from pipeline.word_table import WordTable, cut_word_table


@dataclass(frozen=True, kw_only=True)
class LabelledRows:
    """The labelled rows of a split.

    Attributes:
        positions: where their tokens lie in the token store, int64, shape (rows,).
        labels: see `pipeline.targets.Targets`; numbers to learn from are standardised, float32 [rows].
    """

    positions: npt.NDArray[np.int64]
    labels: Targets

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
        """A checkpoint is complete at `state.step`; called in the thread that wrote it, while training goes on."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train on, and with what.

    Attributes:
        model: a sequence classifier on the CPU.
        tokens: tokenized rows.
        train: rows to learn from, at least one.
        validation: rows to score on, at least one.
        labels: the label set, which knows the task.
        recipe: the `train` section.
        checkpoints: where state is saved.
        criterion: the loss.
        metrics: the user's own, scored beside the built-in ones.
        scale: in regression, what takes the model's outputs back to the scale of the validation rows' labels.
    """

    model: PreTrainedModel
    tokens: TokenStore
    train: LabelledRows
    validation: LabelledRows
    labels: LabelSet
    recipe: Train
    checkpoints: CheckpointStore
    criterion: Criterion = field(default_factory=Criterion)
    metrics: tuple[OwnMetric, ...] = ()
    scale: Scale = field(default_factory=Scale)

    @property
    def best_by(self) -> str:
        """The metric whose best value on the validation split chooses the model."""
        return self.recipe.metric_for_best_model or default_metric(self.labels.problem_type)


def plan_of(lengths: npt.NDArray[np.integer[Any]], recipe: Train, world_size: int) -> BatchPlan:
    """Return the order of training for a number of processes.

    Args:
        lengths: tokens per row of the train split, integers, shape (rows,).
        recipe: the `train` section.
        world_size: processes.

    Raises:
        SeqtrackError: train.total_train_batch_size cannot be divided among the processes.
    """
    per_device, total = recipe.per_device_train_batch_size, recipe.total_train_batch_size
    max_tokens = recipe.per_device_max_tokens
    if max_tokens is not None and recipe.r_drop is not None:
        max_tokens = max(1, max_tokens // 2)  # each row is there twice
    return BatchPlan(
        rows=len(lengths),
        per_device_batch_size=per_device,
        world_size=world_size,
        accumulation=(
            recipe.gradient_accumulation_steps if total is None else accumulation_for(total, per_device, world_size)
        ),
        epochs=recipe.num_train_epochs,
        seed=recipe.seed,
        lengths=lengths,
        group_by_length=recipe.train_sampling_strategy == "group_by_length",
        max_tokens=max_tokens,
        packed=recipe.packing,
    )


def fit(job: Job, accelerator: Accelerator, listeners: Sequence[Listener]) -> TrainingState:
    """Train, resuming from the newest sound checkpoint if there is one, and leave the best weights in `job.model`.

    Args:
        job: see `Job`; its model is trained in place, or a copy of it where FSDP2 divides the weights.
        accelerator: decides devices, processes and precision.
        listeners: told of progress.

    Returns:
        The finished state, with the whole history.

    Raises:
        SeqtrackError: the loss is no longer a number, a checkpoint cannot be written, or a process is gone.
        Stopped: a signal asked for it; the checkpoint of the last step is saved.
    """
    processes = Processes(accelerator)
    with processes.speaking_once(), StopSignals() as stop:
        trainer = _Trainer(job, accelerator, listeners if accelerator.is_main_process else (), processes, stop)
        trainer.announce()
        trainer.resume()
        state = trainer.run()
        trainer.take_best()
    return state


def take_steps(
    job: Job, accelerator: Accelerator, processes: Processes, steps: Iterable[int]
) -> Iterator[torch.Tensor]:
    """Get ready for some steps of a training, each to be taken when it is asked for.

    Args:
        job: see `Job`; its model is used up, and no checkpoint is read or written.
        accelerator: see `fit`.
        processes: of this accelerator; all of them do the same.
        steps: which, from 0.

    Returns:
        The gradient norm of each, on the device, which may still be at it.
    """
    trainer = _Trainer(job, accelerator, (), processes, StopSignals())

    def take(step: int) -> torch.Tensor:
        trainer.state.step = step
        return trainer._step()

    return map(take, steps)


def time_steps(job: Job, accelerator: Accelerator, processes: Processes, steps: Sequence[int]) -> list[float]:
    """Do what `take_steps` does, for the time alone; return the seconds of each step."""
    norms = take_steps(job, accelerator, processes, steps)
    seconds = []
    for _ in steps:
        started = time.perf_counter()
        float(next(norms))  # waits for the device
        seconds.append(time.perf_counter() - started)
    return seconds


TRAIN_REMEDIES = (
    "lower train.per_device_train_batch_size and raise train.gradient_accumulation_steps by the same factor",
    "set train.auto_find_batch_size to true, which does that",
    "set launch.mixed_precision to bf16",
    "set train.gradient_checkpointing to true",
)


def _out_of_memory(where: str, found: str, remedies: Sequence[str]) -> SeqtrackError:
    return SeqtrackError("out of memory on the device", where=where, found=found, fix=", or ".join(remedies))


@contextlib.contextmanager
def _memory(where: str, found: str, remedies: Sequence[str]) -> Iterator[None]:
    """Turn a device that is out of memory into a user's mistake."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise _out_of_memory(where, found, remedies) from error


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

    def __init__(
        self,
        job: Job,
        accelerator: Accelerator,
        listeners: Sequence[Listener],
        processes: Processes,
        stop: StopSignals,
    ) -> None:
        self.job = job
        self.processes = processes
        self.stop = stop
        self.recipe = job.recipe
        self.accelerator = accelerator
        self.listeners = listeners
        self.plan = plan_of(job.tokens.lengths[job.train.positions], job.recipe, accelerator.num_processes)
        self.main = accelerator.is_main_process
        self.sharded = is_sharded(accelerator)
        if not self.sharded:
            job.model.to(accelerator.device)
        self.packing = Packing.of(job.model, job.tokens, job.train.positions) if self.recipe.packing else None
        if self.packing is None:  # in whose one row a text's first token is anywhere
            compute_first_token_alone(job.model)
        self.words = self._cut_word_table()
        # What is trained: job.model itself, but for divided weights, when it stays whole in host memory for the export.
        self.trained = copy.deepcopy(job.model) if self.sharded else job.model
        self.criterion = job.criterion.to(accelerator.device)
        self.named: NamedOptimizer = build_optimizer(
            self.trained, self.recipe, loss_scaling=accelerator.scaler is not None
        )
        # Not prepared: accelerate would step it once per process, and it must count optimisation steps. Built first:
        # it wraps the optimiser's step, and so does accelerate's loss scaling.
        self.maximized = is_maximized(job.best_by, self.recipe.greater_is_better)
        self.scheduler: LRScheduler = build_scheduler(
            self.named.optimizer, self.recipe, self.plan.total_steps, maximize=self.maximized
        )
        self.average: WeightAverage | None = None
        if self.recipe.weight_averaging is not None:
            self.average = WeightAverage(self.named.optimizer, self.recipe.weight_averaging, self.plan.total_steps)
        # What is prepared computes with self.trained's own parameters, so self.trained is what is saved and loaded.
        if self.recipe.auto_find_batch_size:  # which averages gradients itself, see _gradients
            self.model = accelerator.prepare_model(self.trained, evaluation_mode=True)
            self.optimizer = accelerator.prepare_optimizer(self.named.optimizer)
        else:
            if self.sharded:
                set_up_sharding(accelerator, self.trained)
            self.model, self.optimizer = accelerator.prepare(self.trained, self.named.optimizer)
        self.state = TrainingState()
        self.interval = parse_interval(self.recipe.checkpoint.every)
        self.writer = CheckpointWriter(job.checkpoints, self._tell_of_checkpoint)
        self.last_checkpoint = time.monotonic()
        compiled = accelerator.state.dynamo_plugin.backend != DynamoBackend.NO  # which traces PyTorch's own
        self.dropout = dropout_made_cheap if self.recipe.cheap_dropout and not compiled else contextlib.nullcontext
        self.clock = _Clock()
        # One summed loss per step, left on the device until a number is shown or saved: fetching waits for the device.
        self.pending: list[torch.Tensor] = []
        self.learning_rate = 0.0  # of the last step; the scheduler is already at the next

    def _cut_word_table(self) -> WordTable | None:
        job = self.job
        if job.recipe.custom.optimizer is not None:
            return None  # it may look at more of a table than the vector at hand, as Adafactor does
        met = np.concatenate([job.train.positions, job.validation.positions])
        return cut_word_table(job.model, lambda: job.tokens.distinct_ids(met), job.tokens.batch(met[:2]))

    def announce(self) -> None:
        """Say what is about to happen."""
        if not self.main:
            return
        plan, recipe, accelerator = self.plan, self.recipe, self.accelerator
        padding = f"{plan.padding():.1%} of the tokens, sampling: {recipe.train_sampling_strategy}"
        if self.packing is not None:
            padding = f"none, texts are packed: {self.packing.in_words()}"
        parameters = list(self.job.model.parameters())
        trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        words = [] if self.words is None else [("word vectors", self.words.in_words())]
        power = recipe.weight_averaging
        kept = [] if power is None else [("weights kept", f"their average, step t counts t^{power:g}")]
        facts(
            "train",
            [
                ("examples", f"{plan.rows:,} to learn from, {len(self.job.validation):,} to validate on"),
                ("epochs", f"{recipe.num_train_epochs:g}"),
                ("batch per device", f"{recipe.per_device_train_batch_size}"),
                ("processes", f"{plan.world_size} on {accelerator.device.type}"),
                ("accumulation", f"{plan.accumulation}"),
                ("total batch", f"{plan.total_batch_size}"),
                ("padding", padding),
                ("optimisation steps", f"{plan.total_steps:,}"),
                (
                    "trainable parameters",
                    f"{trainable:,} of {sum(parameter.numel() for parameter in parameters):,}",
                ),
                ("learning rate", schedule_in_words(recipe, plan.total_steps)),
                ("optimiser", recipe.custom.optimizer or type(self.named.optimizer).__name__),
                *words,
                *kept,
                ("loss", self.job.criterion.in_words(self.job.labels.names)),
                ("best model by", f"{'highest' if self.maximized else 'lowest'} {self.job.best_by}"),
                ("precision", accelerator.mixed_precision),
                ("threads", f"{torch.get_num_threads()} per process"),
                ("checkpoints", f"{self.job.checkpoints.folder} every {recipe.checkpoint.every}"),
            ],
        )

    def resume(self) -> None:
        """Load the newest sound checkpoint, if any."""
        saved = self.processes.share(self.processes.on_main(self._newest))
        if saved is not None:
            self.state = saved.restore(self.trained, self.named, self.scheduler, self.accelerator.scaler)
            size = self.state.per_device_batch_size
            if size is not None and self.plan.per_device_batch_size % size == 0:
                self._use_batch_size(size)
            self.state.finished = self._is_over()  # not so when it comes from a training with fewer epochs
            if self.main:
                path = self.job.checkpoints.path(self.state.step)
                say(f"train: resuming after step {self.state.step:,} of {self.plan.total_steps:,} from {path}")
        for listener in self.listeners:
            listener.on_start(self.state)

    def _newest(self) -> Snapshot | None:
        # One process reads for all: a file vanishing in between could send them to different checkpoints, and another
        # machine may have another disk.
        found = self.job.checkpoints.latest()
        return None if found is None else Snapshot.read(self.job.checkpoints.path(found.step))

    def run(self) -> TrainingState:
        """Do the remaining steps."""
        try:
            before, total = self.state.step, self.plan.total_steps
            with progress("train", total, "steps", done=before, quiet=not self.main) as bar:
                while not self.state.finished:
                    size = f"train.per_device_train_batch_size: {self.plan.per_device_batch_size}"
                    with _memory(f"train: step {self.state.step + 1:,}", size, TRAIN_REMEDIES):
                        grad_norm = self._step()
                    self._record(grad_norm)
                    bar.advance(1, f"loss {self.state.curve[-1].loss:.4f}" if self.state.curve else "")
            self.processes.on_main(self.writer.wait)
        except Stopped:  # a second signal does not wait for the disk
            raise
        except BaseException:
            self.writer.settle()
            raise
        return self.state

    def take_best(self) -> None:
        """Put the best checkpoint's weights into the model, on all processes."""
        step = self.state.best_step
        assert step is not None  # the last step is always evaluated
        path = self.job.checkpoints.path(step)
        best = self.processes.share(self.processes.on_main(lambda: Snapshot.read(path)))
        best.restore_weights(self.job.model)
        if self.average is not None:
            put_average(best.optimizer, self.job.model)
        if self.words is not None:
            self.words.restore(self.job.model)

    def _step(self) -> torch.Tensor:
        """Do one optimisation step; return the gradient norm before clipping."""
        step = self.state.step
        self.model.train()
        batch_rows = len(self.plan.global_batch(step))
        weight = self.criterion.total_weight(self.job.train.labels[self.plan.global_batch(step)])
        self.pending.append(self._gradients(step, weight))
        limit = self.recipe.max_grad_norm or float("inf")  # an infinite limit measures and leaves alone
        norm: torch.Tensor | None = self.accelerator.clip_grad_norm_(self.model.parameters(), limit)
        self.optimizer.step()
        self.learning_rate = float(self.named.optimizer.param_groups[0]["lr"])
        # A step that fp16's loss scaling skipped must not use up learning rate.
        if not self.accelerator.optimizer_step_was_skipped:
            advance(self.scheduler)
            if self.average is not None:
                self.average.update(step + 1)
        self.optimizer.zero_grad()
        self.state.step += 1
        self.state.curve_weight += weight
        self.state.evaluation_weight += weight
        self.clock.examples += batch_rows
        assert norm is not None
        return whole(norm)

    def _gradients(self, step: int, weight: float) -> torch.Tensor:
        """Compute the gradients of a step; return the loss, summed over this process's rows."""
        if not self.recipe.auto_find_batch_size:
            return self._accumulate(step, weight)
        while (loss := self._attempt(step, weight)) is None:
            self._halve_batch(step)
        if self.processes.several:  # left out so far: a process without memory would have let the others wait
            for parameter in self.trained.parameters():
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)
                    parameter.grad /= self.plan.world_size
        return loss

    def _attempt(self, step: int, weight: float) -> torch.Tensor | None:
        """Compute this process's gradients; return its loss, or None on all processes when one is out of memory."""
        loss = None
        with contextlib.suppress(torch.OutOfMemoryError):
            loss = self._accumulate(step, weight)
        if self.processes.agree(int(loss is None))[0]:
            self.optimizer.zero_grad()
            clear_device_cache(garbage_collection=True)
            return None
        return loss

    def _accumulate(self, step: int, weight: float) -> torch.Tensor:
        # Here, so that another attempt draws the same masks from the start.
        torch.manual_seed(step_seed(self.recipe.seed, step, self.accelerator.process_index))
        micro_batches = self.plan.micro_batches(step, self.accelerator.process_index)
        losses = []
        for number, micro in enumerate(micro_batches, start=1):
            last = number == len(micro_batches)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                with self.dropout():
                    loss = self._loss(micro.indices) * float(micro.counts)
                    # Gradients are averaged over processes, so the mean over the global batch takes this factor.
                    self.accelerator.backward(loss * (self.plan.world_size / weight))
                losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _halve_batch(self, step: int) -> None:
        where = f"train: step {step + 1:,}"
        if self.plan.per_device_batch_size == 1:
            raise _out_of_memory(where, "train.per_device_train_batch_size: 1", TRAIN_REMEDIES[2:])
        self._use_batch_size(smaller_batch(self.plan.per_device_batch_size))
        self.state.per_device_batch_size = size = self.plan.per_device_batch_size
        if self.main:
            say(
                f"{where}: out of memory; going on with {size} rows per device and accumulation "
                f"{self.plan.accumulation}, so a step keeps its {self.plan.total_batch_size} rows"
            )

    def _use_batch_size(self, size: int) -> None:
        """Take fewer rows at once, and more times."""
        factor = self.plan.per_device_batch_size // size
        self.plan = replace(self.plan, per_device_batch_size=size, accumulation=self.plan.accumulation * factor)

    def _loss(self, indices: npt.NDArray[np.int64]) -> torch.Tensor:
        """Return the summed loss of some training rows."""
        # Passes lie in one batch, so that each draws masks of its own.
        batch = self.job.tokens.batch(np.tile(self.job.train.positions[indices], self.criterion.passes))
        labels = torch.from_numpy(self.job.train.labels[indices]).to(self.accelerator.device, non_blocking=True)
        packed = self.packing.laid_end_to_end(batch["attention_mask"]) if self.packing else contextlib.nullcontext()
        with packed, refusal_told("launch.mixed_precision"):
            logits = logits_of(self.model, batch, self.accelerator.device)
        if self.sharded:
            logits = logits.float()  # else accelerate sees to it
        return self.criterion.summed_over_passes(logits, labels)

    def _record(self, grad_norm: torch.Tensor) -> None:
        """After a step: log, evaluate, save and stop as the recipe says."""
        state, recipe = self.state, self.recipe
        signal_number, minutes_are_up, failed = self.processes.agree(
            self.stop.number, int(self.main and self._minutes_are_up()), int(self.writer.failed)
        )
        if failed:
            self._leave_for_a_failed_write()
        over = state.step >= self.plan.total_steps
        log = state.step % recipe.logging_steps == 0 or over
        evaluate = over or self._evaluation_is_due()
        if log or evaluate:
            self._collect_loss()
        if log:
            self._log(float(grad_norm))
        improved = self._evaluate() if evaluate else False
        state.finished = self._is_over()
        if state.finished and not over and self.main:
            say(f"train: stopping early at step {state.step:,}: no improvement in {state.stale} evaluations")
        if improved or state.finished or signal_number or minutes_are_up or self._checkpoint_is_due():
            self._collect_loss()
            self._save()
        if signal_number:
            self._leave_for_a_signal(signal_number)

    def _is_over(self) -> bool:
        patience = self.recipe.early_stopping_patience
        return self.state.step >= self.plan.total_steps or (patience is not None and self.state.stale >= patience)

    def _evaluation_is_due(self) -> bool:
        if self.recipe.eval_strategy == "epoch":
            return self.plan.ends_epoch(self.state.step)
        assert self.recipe.eval_steps is not None  # params.py sees to it
        return self.state.step % self.recipe.eval_steps == 0

    def _checkpoint_is_due(self) -> bool:
        amount, unit = self.interval.amount, self.interval.unit
        if unit == "minutes":
            return False
        steps = amount if unit == "steps" else amount * self.plan.steps_per_epoch
        # Whether a multiple of a possibly fractional distance lies within this step.
        return int(self.state.step / steps) > int((self.state.step - 1) / steps)

    def _minutes_are_up(self) -> bool:
        minutes = self.interval.amount if self.interval.unit == "minutes" else math.inf
        return time.monotonic() - self.last_checkpoint >= 60 * minutes

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
            loss=self.criterion.scale * state.curve_loss / state.curve_weight,
            learning_rate=self.learning_rate,
            grad_norm=None if skipped else grad_norm,
        )
        state.curve.append(point)
        state.curve_loss, state.curve_weight = 0.0, 0.0
        rate = self.clock.lap()
        for listener in self.listeners:
            listener.on_curve(point, rate)

    def _evaluate(self) -> bool:
        """Score the validation split; return whether it is the best so far."""
        state, name = self.state, self.job.best_by
        paused = time.perf_counter()
        size = self.recipe.per_device_eval_batch_size
        found, remedy = f"train.per_device_eval_batch_size: {size}", "lower train.per_device_eval_batch_size"
        average = contextlib.nullcontext() if self.average is None else self.average.in_place()
        with _memory("train: evaluation", found, [remedy]), average:
            logits = distributed_logits(
                self.model,
                self.job.tokens,
                self.job.validation.positions,
                size,
                self.accelerator,
            )
        if not np.isfinite(logits).all():
            raise self._diverged(f"the outputs for the validation split after step {state.step:,} are not finite")
        metrics = self._scores(logits)
        self.clock.started += time.perf_counter() - paused  # throughput is that of training
        evaluation = Evaluation(
            step=state.step,
            epoch=self.plan.epoch_at(state.step),
            train_loss=self.criterion.scale * state.evaluation_loss / state.evaluation_weight,
            learning_rate=self.learning_rate,
            metrics=metrics,
        )
        state.evaluation_loss, state.evaluation_weight = 0.0, 0.0
        best = next((e.metrics[name] for e in state.evaluations if e.step == state.best_step), None)
        sign = 1.0 if self.maximized else -1.0
        improved = best is None or sign * metrics[name] > sign * best
        state.evaluations.append(evaluation)
        state.stale = 0 if improved else state.stale + 1
        if improved:
            state.best_step = state.step
        observe(self.scheduler, metrics[name])
        for listener in self.listeners:
            listener.on_evaluation(evaluation)
        return improved

    def _scores(self, logits: npt.NDArray[np.float32]) -> dict[str, float]:
        """Score outputs for the validation split as those of the model that would be exported now."""
        job, targets, thresholds = self.job, self.job.validation.labels, None
        if job.labels.problem_type == "regression":
            logits = job.scale.restored(logits)
        elif job.labels.problem_type == "multi_label_classification" and job.recipe.tune_thresholds:
            # At 0.5 a rare class is often in no row's set for epochs, and equal scores would tell nothing.
            thresholds = tune_thresholds(sigmoid(logits), targets)
        return task_metrics(job.labels, logits, targets, job.metrics, thresholds)

    def _save(self) -> None:
        self.last_checkpoint = time.monotonic()
        self.processes.on_main(self.writer.wait)  # one in flight at most
        if not self.main and not self.sharded:
            return
        snapshot = Snapshot.take(
            self.trained, self.named, self.scheduler, self.accelerator.scaler, self.state, keep=self.main
        )
        if self.main:
            self.writer.save(snapshot)

    def _tell_of_checkpoint(self, state: TrainingState) -> None:
        for listener in self.listeners:
            listener.on_checkpoint(self.job.checkpoints, state)

    def _leave_for_a_failed_write(self) -> None:
        self.writer.wait()  # raises where the write failed, which is the main process
        raise SystemExit(1)

    def _leave_for_a_signal(self, number: int) -> None:
        self.processes.on_main(self.writer.wait)
        name = signal.Signals(number).name
        said = f"train: stopped by {name} after step {self.state.step:,}; the checkpoint is saved, start again to go on"
        raise Stopped(said if self.main else "", number)
