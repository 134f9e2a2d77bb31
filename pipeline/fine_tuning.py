"""The train stage's work: join splits with tokens, train, export, track.

Promises: everything that can be wrong with inputs and parameters is said before the model is loaded; the model folder
appears only when training is over.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from pipeline.callbacks import own_callbacks
from pipeline.checkpoints import CheckpointStore, TrainingState
from pipeline.compile_choice import choose_backend
from pipeline.console import say, table
from pipeline.control import Processes
from pipeline.decisions import tune_thresholds, write_thresholds
from pipeline.encoding import Encoder
from pipeline.errors import SeqtrackError
from pipeline.figures import learning_curves
from pipeline.freezing import freeze
from pipeline.history import write_curve, write_history
from pipeline.identity import Identity, ProcessLayout, Training
from pipeline.inference import Classifier
from pipeline.labels import LabelSet
from pipeline.listeners import ToMlflow, ToTerminal
from pipeline.lora import add_adapters, merge_adapters, require_peft
from pipeline.losses import build_criterion
from pipeline.memory import stage_memory
from pipeline.metrics import OwnMetric, default_metric, metric_names, own_metrics
from pipeline.model_source import ModelSource, resolve
from pipeline.modeling import enable_gradient_checkpointing, export, load_classifier, own_model_class
from pipeline.optimization import check_optimizer, check_schedule, settled
from pipeline.outputs import folder_digest, output_folder, read_manifest, write_manifest
from pipeline.packing import check_packing
from pipeline.params import Model, Tracking, Train
from pipeline.paths import COLUMNS, LABELS, MODEL, REPORTS, ROWS, SPLITS, TOKENIZED, checkpoints, compile_choice
from pipeline.probabilities import sigmoid
from pipeline.resuming import adopt, check_origin, find_origin, name_old_checkpoints, name_other_layouts
from pipeline.rows import read_row_ids, read_rows, select_rows
from pipeline.scaling import Scale, find_head
from pipeline.sharding import check_sharding, divider
from pipeline.suggestions import did_you_mean
from pipeline.targets import read_targets
from pipeline.tokens import TokenStore
from pipeline.tracking import tracked_run
from pipeline.training import Job, LabelledRows, fit, plan_of

if TYPE_CHECKING:
    import pyarrow as pa

HISTORY = REPORTS / "history.csv"
CURVE = REPORTS / "training_curve.csv"
CURVES_FIGURE = REPORTS / "figures" / "learning_curves.png"


def fine_tune(
    train: Train,
    model: Model,
    tracking: Tracking,
    logged_params: Mapping[str, Any],
    *,
    compile_if_faster: bool = False,
) -> None:
    """Fine-tune on the train split; write data/model, history.csv, training_curve.csv and the curves' figure.

    Args:
        train: the recipe.
        model: the base model.
        tracking: where the run is filed.
        logged_params: parameters to log with the run.
        compile_if_faster: measure first whether torch.compile pays.

    Raises:
        SeqtrackError: inputs are missing or do not fit together, a parameter does not fit the data, or the disk
            refuses a checkpoint.
    """
    started = time.perf_counter()
    accelerator = _accelerator()
    check_sharding(accelerator, train)
    check_packing(accelerator, train)
    labels = LabelSet.read(LABELS)
    best_by = train.metric_for_best_model or default_metric(labels.problem_type)
    train = train.model_copy(update={"metric_for_best_model": best_by})  # null and its meaning are one training
    require_peft(train.lora)
    own_class = own_model_class(train.custom.model)
    callbacks = own_callbacks(train.custom.callbacks)
    metrics = own_metrics(train.custom.metrics, labels)
    _check_metric(train, labels, metrics)
    check_optimizer(train, divider(accelerator))
    tokens = TokenStore.open(TOKENIZED, pad_to_max_length=train.pad_to_max_length)
    rows = read_rows(ROWS, ["row_id", "label"])
    train_rows = labelled(rows, tokens, labels, "train")
    validation_rows = labelled(rows, tokens, labels, "validation")
    scale = Scale.of(train_rows.labels) if labels.problem_type == "regression" else None
    criterion = build_criterion(train, labels, train_rows.labels)
    with accelerator.main_process_first():  # one process downloads, the others find it in the cache
        source = resolve(model, weights=True)
    plan = plan_of(tokens.lengths[train_rows.positions], train, accelerator.num_processes)
    check_schedule(train, plan.total_steps)
    processes, held = Processes(accelerator), ExitStack()

    def job_with(store: CheckpointStore) -> Job:
        classifier, found = _classifier(train, model, source, labels, own_class, scale)
        return Job(
            model=classifier,
            tokens=tokens,
            train=train_rows if found is None else replace(train_rows, labels=found.standardised(train_rows.labels)),
            validation=validation_rows,
            labels=labels,
            recipe=settled(train, classifier, pretrained=model.from_scratch is None),
            checkpoints=store,
            criterion=criterion if found is None else criterion.reported_by(found.std),
            metrics=metrics,
            scale=found or Scale(),
        )

    def identity_of(layout: ProcessLayout) -> Identity:
        return Identity.of(
            tokenized=TOKENIZED,
            splits=SPLITS,
            labels=LABELS,
            train=train,
            model=model,
            source=source,
            layout=layout,
            total_batch_size=plan.total_batch_size,
        )

    if compile_if_faster and not train.packing:  # which knows no compiled model
        undecided = replace(_layout(accelerator), dynamo_backend="auto")
        choose_backend(
            accelerator,
            processes,
            lambda: job_with(CheckpointStore(checkpoints("none"), keep=1)),  # which no step of a trial reaches
            plan.total_steps,
            kept=lambda: compile_choice(identity_of(undecided).run_key()),
        )
    training = processes.share(
        processes.on_main(lambda: _open_checkpoints(train, identity_of(_layout(accelerator)), held))
    )
    key = training.run_key
    job = job_with(CheckpointStore(checkpoints(key), keep=train.checkpoint.keep, training=asdict(training)))
    if not accelerator.is_main_process:
        fit(job, accelerator, [])
        return
    with held, tracked_run(key, tracking.experiment_name) as run:
        say(f"train: MLflow run {run.run_id} in experiment {tracking.experiment_name!r}, run_key {key[:10]}")
        run.log_params(logged_params)
        run.log_splits(SPLITS)
        own = [callback() for callback in callbacks]
        to_mlflow = ToMlflow(run, job.checkpoints, train.checkpoint.log_to_mlflow)
        state = fit(job, accelerator, [to_mlflow, ToTerminal(labels.problem_type), *own])
        _export(job, source, model, training)
        write_history(HISTORY, state.evaluations)
        write_curve(CURVE, state.curve)
        learning_curves(HISTORY, CURVES_FIGURE)
        run.log_files([HISTORY, CURVE], "reports")
        run.log_files([CURVES_FIGURE], "figures")
        run.log_model(MODEL, _example(), {"run_key": key, "base_model": source.name})
        run.log_metrics(stage_memory("train"))
        run.log_stage_seconds("train", time.perf_counter() - started)
        _summary(best_by, state)


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


def _check_metric(train: Train, labels: LabelSet, own: tuple[OwnMetric, ...]) -> None:
    own_names = tuple(metric.name for metric in own)
    names = (*metric_names(labels), *own_names)
    wanted = train.metric_for_best_model
    if wanted in own_names and train.greater_is_better is None:
        raise SeqtrackError(
            f"is {wanted} better when higher?",
            where="params.yaml: train.greater_is_better",
            expected="true or false with a metric of your own",
            found="null",
        )
    if wanted is not None and wanted not in names:
        raise SeqtrackError(
            f"unknown metric{did_you_mean(wanted, names)}",
            where="params.yaml: train.metric_for_best_model",
            expected="one of " + ", ".join(names),
            found=wanted,
        )


def labelled(rows: pa.Table, tokens: TokenStore, labels: LabelSet, split: str) -> LabelledRows:
    """Join a split with its tokens and labels by row_id; rows without a label are left out.

    Args:
        rows: canonical rows; `row_id` and `label` are read.
        tokens: of the same rows.
        labels: the label set.
        split: train, validation or test.

    Raises:
        SeqtrackError: the split has no labelled row, or comes from other rows.
    """
    ids = read_row_ids(SPLITS / f"{split}.parquet")
    places = pc.index_in(ids, value_set=rows["row_id"].combine_chunks())
    if places.null_count:
        raise SeqtrackError(
            "splits and validated rows do not belong together", where=str(SPLITS), fix="run `dvc repro`"
        )
    known, targets = read_targets(labels, rows["label"].take(places))
    ids = ids.filter(known)
    if not len(ids):
        raise SeqtrackError(
            f"the {split} split has no labelled rows",
            where=str(SPLITS / f"{split}.parquet"),
            expected="rows to learn from, and rows to choose the best checkpoint by",
            fix=f"raise split.ratios.{split} in params.yaml, or add a file for this split",
        )
    return LabelledRows(positions=tokens.positions(ids), labels=targets)


def _layout(accelerator: Accelerator) -> ProcessLayout:
    return ProcessLayout(
        world_size=accelerator.num_processes,
        device=accelerator.device.type,
        threads=torch.get_num_threads(),
        mixed_precision=accelerator.mixed_precision,
        dynamo_backend=accelerator.state.dynamo_plugin.backend.value.lower(),
        distributed_type=accelerator.distributed_type.value,
    )


def _open_checkpoints(train: Train, identity: Identity, held: ExitStack) -> Training:
    """Say which training this is, keep others out of its checkpoints while `held` is, and take in what it goes on from.

    Raises:
        SeqtrackError: train.resume_from names nothing sound, or something else than this training; another process is
            at it.
    """
    origin = None
    if train.resume_from is not None:
        origin = find_origin(train.resume_from)
        check_origin(origin, identity)
    training = Training(run_key=identity.run_key(None if origin is None else origin.training), identity=identity)
    folder = checkpoints(training.run_key)
    store = CheckpointStore(folder, keep=train.checkpoint.keep, training=asdict(training))
    held.enter_context(store.locked())
    name_old_checkpoints(store)
    if origin is None:
        name_other_layouts(store, identity)
    else:
        adopt(origin, store)
    return training


def _classifier(
    train: Train,
    model: Model,
    source: ModelSource,
    labels: LabelSet,
    own_class: type[PreTrainedModel] | None,
    scale: Scale | None,
) -> tuple[PreTrainedModel, Scale | None]:
    """Load the model and decide which of its weights learn; return it with the scale that it can do regression on."""
    classifier = load_classifier(
        source,
        labels,
        seed=train.seed,
        trust_remote_code=model.trust_remote_code,
        attn_implementation=model.attn_implementation,
        own_class=own_class,
        scale=scale,
        dropout=train.dropout,
    )
    if scale is not None:
        # Now: what training does to the model's forward pass would hide which layer's output is the model's.
        head = find_head(classifier)
        if head is None:
            say(f"train: labels are not standardised: no last layer of {type(classifier).__name__} could restore them")
        scale = Scale() if head is None else replace(scale, head=head[0])
    freeze(classifier, train.freeze)
    if train.lora is not None:
        add_adapters(classifier, train.lora, seed=train.seed)
    if train.gradient_checkpointing:
        enable_gradient_checkpointing(classifier)
    return classifier, scale


def _export(job: Job, source: ModelSource, model: Model, training: Training) -> None:
    max_length = int(read_manifest(TOKENIZED)["params"]["max_length"])
    encoder = Encoder.load(source.folder, max_length, trust_remote_code=model.trust_remote_code)
    if job.recipe.lora is not None:
        merge_adapters(job.model)
    if job.scale.head:
        head = job.model.get_submodule(job.scale.head)
        assert isinstance(head, torch.nn.Linear)
        job.scale.fold(head)
    with output_folder(MODEL) as out:
        export(job.model, encoder, job.labels, out)
        shutil.copyfile(COLUMNS, out / COLUMNS.name)  # so that predict finds the texts in files of other names
        if job.labels.problem_type == "multi_label_classification" and job.recipe.tune_thresholds:
            write_thresholds(out, job.labels.names, _thresholds(job, encoder, out))
        write_manifest(
            out,
            inputs={"tokenized": folder_digest(TOKENIZED), "splits": folder_digest(SPLITS)},
            params={
                "train": job.recipe.model_dump(mode="json", exclude={"resume_from"}),
                "model": model.model_dump(mode="json"),
            },
            rows={"train": len(job.train), "validation": len(job.validation)},
            run_key=training.run_key,
            identity=asdict(training.identity),
            max_length=max_length,
            own_code=job.recipe.custom.model,
        )


def _thresholds(job: Job, encoder: Encoder, folder: Path) -> npt.NDArray[np.float64]:
    """Tune on the validation split, with the exported model: in float32 and by one process, as evaluate scores it."""
    classifier = Classifier.of(folder, encoder, trusted=True)  # its code ran here all along
    positions = job.validation.positions
    logits = classifier.logits(
        job.tokens.lengths[positions],
        lambda rows, step: job.tokens.batch(positions[rows], pad_to_multiple_of=step),
        batch_size=job.recipe.per_device_eval_batch_size,
        on_batch=lambda _: None,
    )
    return tune_thresholds(sigmoid(logits), job.validation.labels)


def _example() -> str | dict[str, str]:
    """Return the first row of the train split as an input example, cut to a readable length."""
    first = read_row_ids(SPLITS / "train.parquet")[:1]
    row = select_rows(ROWS, first, ["row_id", "text", "text_pair"]).to_pylist()[0]
    text, pair = row["text"][:200], row["text_pair"]
    return text if pair is None else {"text": text, "text_pair": pair[:200]}


def _summary(name: str, state: TrainingState) -> None:
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
