"""The train stage's work: join splits with tokens, train, export, track.

Promises: everything that can be wrong with inputs and parameters is said before the model is loaded; the model folder
appears only when training is over.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import torch
from accelerate import Accelerator

from pipeline.checkpoints import CheckpointStore, CurvePoint, Evaluation, TrainingState
from pipeline.console import say, table
from pipeline.encoding import Encoder
from pipeline.errors import SeqtrackError
from pipeline.figures import learning_curves
from pipeline.history import write_curve, write_history
from pipeline.identity import ProcessLayout, run_key
from pipeline.labels import LabelSet
from pipeline.metrics import metric_names
from pipeline.model_source import ModelSource, resolve
from pipeline.modeling import export, load_classifier
from pipeline.outputs import folder_digest, output_folder, read_manifest, write_manifest
from pipeline.params import Model, Tracking, Train
from pipeline.paths import LABELS, MODEL, REPORTS, ROWS, SPLITS, TOKENIZED, checkpoints
from pipeline.rows import read_row_ids, read_rows, select_rows
from pipeline.tokens import TokenStore
from pipeline.tracking import Point, TrackedRun, tracked_run
from pipeline.training import Job, LabelledRows, fit

if TYPE_CHECKING:
    import pyarrow as pa

HISTORY = REPORTS / "history.csv"
CURVE = REPORTS / "training_curve.csv"
CURVES_FIGURE = REPORTS / "figures" / "learning_curves.png"


def fine_tune(train: Train, model: Model, tracking: Tracking, logged_params: Mapping[str, Any]) -> None:
    """Fine-tune on the train split; write data/model, history.csv, training_curve.csv and the curves' figure.

    Args:
        train: the recipe.
        model: the base model.
        tracking: where the run is filed.
        logged_params: parameters to log with the run.

    Raises:
        SeqtrackError: inputs are missing or do not fit together, a parameter does not fit the data, or the disk
            refuses a checkpoint.
    """
    started = time.perf_counter()
    accelerator = _accelerator()
    labels = LabelSet.read(LABELS)
    if labels.problem_type != "single_label_classification":
        raise SeqtrackError(
            f"train does not do {labels.problem_type} yet",
            where=str(LABELS),
            expected="single_label_classification",
            fix="if these labels are classes, set data.problem_type to it",
        )
    _check_metric(train, labels)
    tokens = TokenStore.open(TOKENIZED)
    rows = read_rows(ROWS, ["row_id", "label"])
    train_rows = _labelled(rows, tokens, labels, "train")
    validation_rows = _labelled(rows, tokens, labels, "validation")
    with accelerator.main_process_first():  # one process downloads, the others find it in the cache
        source = resolve(model, weights=True)
    key = run_key(
        tokenized=TOKENIZED,
        splits=SPLITS,
        labels=LABELS,
        train=train,
        model=model,
        source=source,
        layout=_layout(accelerator),
    )
    job = Job(
        model=load_classifier(source, labels, seed=train.seed, trust_remote_code=model.trust_remote_code),
        tokens=tokens,
        train=train_rows,
        validation=validation_rows,
        label_names=labels.names,
        recipe=train,
        checkpoints=CheckpointStore(checkpoints(key), keep=train.checkpoint.keep),
    )
    if not accelerator.is_main_process:
        fit(job, accelerator, [])
        return
    with tracked_run(key, tracking.experiment_name) as run:
        say(f"train: MLflow run {run.run_id} in experiment {tracking.experiment_name!r}, run_key {key[:10]}")
        run.log_params(logged_params)
        run.log_splits(SPLITS)
        state = fit(job, accelerator, [_ToMlflow(run, train.checkpoint.log_to_mlflow), _ToTerminal()])
        _export(job, labels, source, model, key)
        write_history(HISTORY, state.evaluations)
        write_curve(CURVE, state.curve)
        learning_curves(HISTORY, CURVES_FIGURE)
        run.log_files([HISTORY, CURVE], "reports")
        run.log_files([CURVES_FIGURE], "figures")
        run.log_model(MODEL, _example(), {"run_key": key, "base_model": source.name})
        run.log_stage_seconds("train", time.perf_counter() - started)
        _summary(train, state)


def _accelerator() -> Accelerator:
    """Return the processes that `accelerate launch` started.

    Raises:
        SeqtrackError: the device has no such precision.
    """
    try:
        # Told explicitly, or several processes on a machine without a GPU would each train alone.
        accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    except ValueError as error:
        raise SeqtrackError(
            str(error), where="params.yaml: launch.mixed_precision", fix="set it to no, or to bf16 or fp16 if it is not"
        ) from error
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        # Accelerate would train in float32 without a word.
        raise SeqtrackError("fp16 needs a GPU", where="params.yaml: launch.mixed_precision", fix="set it to bf16 or no")
    return accelerator


def _check_metric(train: Train, labels: LabelSet) -> None:
    names = metric_names(len(labels.names))
    wanted = train.metric_for_best_model
    if wanted not in names:
        close = difflib.get_close_matches(wanted, names, n=1)
        raise SeqtrackError(
            "unknown metric" + (f" (did you mean {close[0]}?)" if close else ""),
            where="params.yaml: train.metric_for_best_model",
            expected="one of " + ", ".join(names),
            found=wanted,
        )


def _labelled(rows: pa.Table, tokens: TokenStore, labels: LabelSet, split: str) -> LabelledRows:
    """Join a split with its tokens and labels by row_id; rows without a label are left out."""
    ids = read_row_ids(SPLITS / f"{split}.parquet")
    places = pc.index_in(ids, value_set=rows["row_id"].combine_chunks())
    if places.null_count:
        raise SeqtrackError(
            "splits and validated rows do not belong together", where=str(SPLITS), fix="run `dvc repro`"
        )
    class_ids = labels.ids(rows["label"].take(places))
    known = pc.is_valid(class_ids)
    ids, class_ids = pc.filter(ids, known), pc.filter(class_ids, known)
    if not len(ids):
        raise SeqtrackError(
            f"the {split} split has no labelled rows",
            where=str(SPLITS / f"{split}.parquet"),
            expected="rows to learn from, and rows to choose the best checkpoint by",
            fix=f"raise split.ratios.{split} in params.yaml, or add a file for this split",
        )
    return LabelledRows(positions=tokens.positions(ids), labels=class_ids.to_numpy(zero_copy_only=False))


def _layout(accelerator: Accelerator) -> ProcessLayout:
    return ProcessLayout(
        world_size=accelerator.num_processes,
        device=accelerator.device.type,
        threads=torch.get_num_threads(),
        mixed_precision=accelerator.mixed_precision,
    )


def _export(job: Job, labels: LabelSet, source: ModelSource, model: Model, key: str) -> None:
    max_length = int(read_manifest(TOKENIZED)["params"]["max_length"])
    encoder = Encoder.load(source.folder, max_length, trust_remote_code=model.trust_remote_code)
    with output_folder(MODEL) as out:
        export(job.model, encoder, labels, out)
        write_manifest(
            out,
            inputs={"tokenized": folder_digest(TOKENIZED), "splits": folder_digest(SPLITS)},
            params={"train": job.recipe.model_dump(mode="json"), "model": model.model_dump(mode="json")},
            rows={"train": len(job.train), "validation": len(job.validation)},
            run_key=key,
            max_length=max_length,
        )


def _example() -> str | dict[str, str]:
    """Return the first row of the train split as an input example, cut to a readable length."""
    first = read_row_ids(SPLITS / "train.parquet")[:1]
    row = select_rows(ROWS, first, ["row_id", "text", "text_pair"]).to_pylist()[0]
    text, pair = row["text"][:200], row["text_pair"]
    return text if pair is None else {"text": text, "text_pair": pair[:200]}


class _ToMlflow:
    """Sends progress to the run; after a resume it fills in what a crash kept back."""

    def __init__(self, run: TrackedRun, checkpoint_policy: str) -> None:
        self._run = run
        self._policy = checkpoint_policy

    def on_start(self, state: TrainingState) -> None:
        self._run.log_points(point for curve in state.curve for point in _curve_points(curve))
        self._run.log_points(point for evaluation in state.evaluations for point in _evaluation_points(evaluation))

    def on_curve(self, point: CurvePoint, samples_per_second: float) -> None:
        speed = Point(name="train/samples_per_second", value=samples_per_second, step=point.step)
        self._run.log_points([*_curve_points(point), speed])

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self._run.log_points(_evaluation_points(evaluation))

    def on_checkpoint(self, store: CheckpointStore, state: TrainingState) -> None:
        path = store.path(state.step)
        if self._policy == "all":
            self._run.log_folder(path, f"checkpoints/{path.name}")
        elif self._policy == "last" or (self._policy == "best" and state.best_step == state.step):
            self._run.log_folder(path, f"checkpoints/{self._policy}")


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


class _ToTerminal:
    """Prints a line per evaluation."""

    def on_start(self, state: TrainingState) -> None:
        pass

    def on_curve(self, point: CurvePoint, samples_per_second: float) -> None:
        pass

    def on_evaluation(self, evaluation: Evaluation) -> None:
        m = evaluation.metrics
        say(
            f"train: step {evaluation.step:,}, epoch {evaluation.epoch:.2f}: train loss {evaluation.train_loss:.4f}, "
            f"validation loss {m['loss']:.4f}, accuracy {m['accuracy']:.4f}, f1_macro {m['f1_macro']:.4f}"
        )

    def on_checkpoint(self, store: CheckpointStore, state: TrainingState) -> None:
        pass


def _summary(train: Train, state: TrainingState) -> None:
    name = train.metric_for_best_model
    table(
        f"train: best checkpoint by {name} is step {state.best_step:,}",
        ["step", "epoch", "train loss", "validation loss", name],
        [
            [
                f"{e.step:,}{' *' if e.step == state.best_step else ''}",
                f"{e.epoch:.2f}",
                f"{e.train_loss:.4f}",
                f"{e.metrics['loss']:.4f}",
                f"{e.metrics[name]:.4f}",
            ]
            for e in state.evaluations
        ],
    )
