"""Who hears of a training's progress: the run in MLflow, and the terminal.

Promises: after a resume the run gets what a crash kept back, and no point twice; a checkpoint in MLflow is whole once
its manifest is there.
"""

from __future__ import annotations

from pipeline.checkpoints import FILES, CheckpointStore, CurvePoint, Evaluation, TrainingState
from pipeline.console import say
from pipeline.labels import ProblemType
from pipeline.metrics import HEADLINES
from pipeline.outputs import MANIFEST
from pipeline.tracking import Point, TrackedRun


class ToMlflow:
    """Sends progress to the run; after a resume it fills in what a crash kept back."""

    def __init__(self, run: TrackedRun, store: CheckpointStore, checkpoint_policy: str) -> None:
        self._run = run
        self._store = store
        self._policy = checkpoint_policy

    def on_start(self, state: TrainingState) -> None:
        """Log what a training that goes on has behind it."""
        self._run.log_points(point for curve in state.curve for point in _curve_points(curve))
        self._run.log_points(point for evaluation in state.evaluations for point in _evaluation_points(evaluation))
        if state.step:
            self.on_checkpoint(self._store, state)

    def on_curve(self, point: CurvePoint, samples_per_second: float) -> None:
        """Log a point of the training curve."""
        speed = Point(name="train/samples_per_second", value=samples_per_second, step=point.step)
        self._run.log_points([*_curve_points(point), speed])

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Log the scores of the validation split."""
        self._run.log_points(_evaluation_points(evaluation))

    def on_checkpoint(self, store: CheckpointStore, state: TrainingState) -> None:
        """Copy the checkpoint, as train.checkpoint.log_to_mlflow says."""
        if state.per_device_batch_size is not None:
            self._run.set_tags({"seqtrack.per_device_train_batch_size": str(state.per_device_batch_size)})
        best = state.step if state.best_step is None else state.best_step
        if self._policy == "all":
            self._upload(state.step, store.path(state.step).name)
        if self._policy == "best" or (self._policy == "last" and best != state.step):
            self._upload(best, "best")  # the last one alone could not be finished: its best is the model
        if self._policy == "last":
            self._upload(state.step, "last")

    def _upload(self, step: int, name: str) -> None:
        tag = f"seqtrack.checkpoint.{'newest' if self._policy == 'all' else name}"
        if self._run.tags.get(tag) == str(step):
            return
        # The manifest comes last: until then what is there does not pass for a checkpoint.
        self._run.log_files([self._store.path(step) / file for file in (*FILES, MANIFEST)], f"checkpoints/{name}")
        self._run.set_tags({tag: str(step)})


def _curve_points(point: CurvePoint) -> list[Point]:
    return [
        Point(name=f"train/{name}", value=value, step=point.step)
        for name, value in (
            ("loss", point.loss),
            ("learning_rate", point.learning_rate),
            ("grad_norm", point.grad_norm),
            ("epoch", point.epoch),
        )
        if value is not None
    ]


def _evaluation_points(evaluation: Evaluation) -> list[Point]:
    return [
        Point(name=f"validation/{name}", value=value, step=evaluation.step)
        for name, value in evaluation.metrics.items()
    ]


class ToTerminal:
    """Prints a line per evaluation, with the two scores that say most of a task."""

    def __init__(self, problem_type: ProblemType) -> None:
        self._names = HEADLINES[problem_type][:2]

    def on_start(self, state: TrainingState) -> None:
        """Print nothing: the training has announced itself."""

    def on_curve(self, point: CurvePoint, samples_per_second: float) -> None:
        """Print nothing: the progress bar has it."""

    def on_checkpoint(self, store: CheckpointStore, state: TrainingState) -> None:
        """Print nothing."""

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Print the scores that matter most."""
        scores = [f"{name} {evaluation.metrics[name]:.4f}" for name in ("loss", *self._names)]
        say(
            f"train: step {evaluation.step:,}, epoch {evaluation.epoch:.2f}: train loss {evaluation.train_loss:.4f}, "
            f"validation {', '.join(scores)}"
        )
