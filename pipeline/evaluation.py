"""The evaluate stage's work: score a trained model on the labelled rows of validation and test.

Promises: rows, tokens and splits are joined on row_id; rows without a label are counted and left out, a split without
labelled rows is absent from every report rather than scored as something it is not.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.bootstrap import bootstrap_intervals
from pipeline.console import progress, say, table
from pipeline.errors import SeqtrackError
from pipeline.figures import confusion_figure, f1_figure
from pipeline.inference import Classifier
from pipeline.labels import LabelSet
from pipeline.metrics import ClassScore, OwnMetric, class_scores, classification_metrics, confusion, own_metrics
from pipeline.outputs import Json, write_json, write_text
from pipeline.params import Evaluate
from pipeline.probabilities import probabilities, row_losses
from pipeline.rows import SCHEMA, read_row_ids, select_rows
from pipeline.tokens import TokenStore

SCORED = ("validation", "test")
AS_GIVEN = (
    "test_as_given"  # the user's test split, before the split stage dropped leaks from it; scored where it exists
)
HEADLINE = ("accuracy", "f1_macro", "mcc", "loss")


@dataclass(frozen=True, kw_only=True)
class SplitEvaluation:
    """A model's outcome on one split.

    Attributes:
        split: validation or test.
        row_ids: the labelled rows, strings, shape (rows,).
        labels: actual class ids, int64 [rows].
        logits: float32 [rows, classes].
        unlabelled: rows of the split left out for want of a label.
        metrics: a number per name of `pipeline.metrics.metric_names`.
        intervals: (low, high) under the same names.
        classes: scores by class, in id order.
        confusion: int64 [classes, classes], actual by predicted.
    """

    split: str
    row_ids: pa.Array
    labels: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    unlabelled: int
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    classes: tuple[ClassScore, ...]
    confusion: npt.NDArray[np.int64]

    def flat(self) -> dict[str, float]:
        """Return the metrics with their intervals beside them, as `<name>_low` and `<name>_high`."""
        lows = {f"{name}_low": low for name, (low, _) in self.intervals.items()}
        highs = {f"{name}_high": high for name, (_, high) in self.intervals.items()}
        return {**self.metrics, **lows, **highs}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model's outcome on all splits that can be scored.

    Attributes:
        names: class names in id order.
        model_digest: identity of the model folder.
        run_key: identity of the training run.
        own: the user's metrics among those of the splits.
        splits: those with labelled rows, at least one: validation, test as given if leaks were dropped from it, test.
    """

    names: tuple[str, ...]
    model_digest: str
    run_key: str
    own: tuple[OwnMetric, ...]
    splits: tuple[SplitEvaluation, ...]

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return what metrics.json holds: split to metric to number."""
        return {split.split: split.flat() for split in self.splits}


def evaluate_splits(
    classifier: Classifier, tokens: TokenStore, *, splits: Path, rows: Path, labels: Path, evaluate: Evaluate
) -> Evaluation:
    """Score the model on validation and test.

    Args:
        classifier: the trained model.
        tokens: all tokenized rows.
        splits: folder with validation.parquet, test.parquet and, where leaks were dropped from test,
            test_as_given.parquet.
        rows: canonical rows.
        labels: the label set of the rows.
        evaluate: the section.

    Raises:
        SeqtrackError: files are missing or do not belong together, or no row has a label.
    """
    known = LabelSet.read(labels)
    if known != classifier.labels:
        raise SeqtrackError(
            "the model was trained on other labels",
            where=str(labels),
            expected=", ".join(classifier.labels.names),
            found=", ".join(known.names),
            fix="run `dvc repro` to train on these",
        )
    own = own_metrics(classifier.metrics, len(known.names))
    # Test stays last: the figures are about it.
    names = ("validation", AS_GIVEN, "test") if (splits / f"{AS_GIVEN}.parquet").is_file() else SCORED
    parts = [(name, _labelled(splits / f"{name}.parquet", rows, known)) for name in names]
    if not any(len(part.row_ids) for _, part in parts):
        raise SeqtrackError(
            "no labelled rows to score the model on",
            where=str(splits),
            expected="labels in " + " or ".join(SCORED),
            fix="raise split.ratios in params.yaml, or label these rows",
        )
    counts = ", ".join(f"{len(part.row_ids):,} rows of {name}" for name, part in parts)
    say(f"evaluate: {counts}, on {classifier.device}, batches of {evaluate.per_device_batch_size}")
    scored = []
    for name, part in parts:
        if len(part.row_ids) == 0:
            say(f"evaluate: {name} has no labelled rows and is not scored")
            continue
        logits = _logits(classifier, tokens, name, part, evaluate.per_device_batch_size)
        scored.append(_score(name, part, logits, known.names, evaluate, own))
    return Evaluation(
        names=classifier.labels.names,
        model_digest=classifier.digest,
        run_key=classifier.run_key,
        own=own,
        splits=tuple(scored),
    )


def write_reports(evaluation: Evaluation, *, rows: Path, reports: Path, evaluate: Evaluate) -> tuple[Path, ...]:
    """Write what was found.

    Files: metrics.json (numbers and intervals), all_results.json (everything), errors.jsonl (wrong rows, highest loss
    first); of the last scored split, which is test where it can be scored, confusion.csv (a line per row),
    figures/confusion.png and figures/f1_by_class.png.

    Args:
        evaluation: what to report.
        rows: canonical rows, for the texts of wrong ones.
        reports: folder to write into; other files in it stay.
        evaluate: the section.

    Returns:
        The figures.
    """
    last = evaluation.splits[-1]
    names = evaluation.names
    write_json(reports / "all_results.json", _all_results(evaluation, evaluate))
    write_text(reports / "confusion.csv", _confusion_csv(last, names))
    # Test as given has the rows of test once more.
    own = [split for split in evaluation.splits if split.split != AS_GIVEN]
    errors = [error for split in own for error in _errors(split, names, rows, evaluate)]
    lines = [json.dumps(error, ensure_ascii=False, allow_nan=False) + "\n" for error in errors]
    write_text(reports / "errors.jsonl", "".join(lines))
    title = f"{last.split}, {len(last.labels):,} rows"
    figures = (reports / "figures" / "confusion.png", reports / "figures" / "f1_by_class.png")
    confusion_figure(last.confusion, names, title, figures[0])
    f1_figure(
        [score.f1 for score in last.classes],
        [score.support for score in last.classes],
        names,
        f"F1 by class on {title}",
        figures[1],
    )
    # Last, so that a metrics.json means that all the others are there.
    write_json(reports / "metrics.json", evaluation.metrics())
    _show(evaluation, reports, evaluate)
    return figures


@dataclass(frozen=True)
class _Labelled:
    """The labelled rows of a split: ids (strings), class ids (int64), and how many rows have no label."""

    row_ids: pa.Array
    labels: npt.NDArray[np.int64]
    unlabelled: int


def _labelled(split: Path, rows: Path, labels: LabelSet) -> _Labelled:
    row_ids = read_row_ids(split)
    found = labels.ids(select_rows(rows, row_ids, ["row_id", "label"])["label"])
    has_label = pc.is_valid(found)
    return _Labelled(
        row_ids=pc.filter(row_ids, has_label),
        labels=pc.filter(found, has_label).to_numpy(zero_copy_only=False),
        unlabelled=found.null_count,
    )


def _logits(
    classifier: Classifier, tokens: TokenStore, name: str, part: _Labelled, batch_size: int
) -> npt.NDArray[np.float32]:
    positions = tokens.positions(part.row_ids)
    with progress() as bar:
        task = bar.add_task(name, total=len(positions), note="")
        return classifier.logits(
            tokens.lengths[positions],
            lambda chosen: tokens.batch(positions[chosen]),
            batch_size=batch_size,
            on_batch=lambda done: bar.advance(task, done),
        )


def _score(
    name: str,
    part: _Labelled,
    logits: npt.NDArray[np.float32],
    names: tuple[str, ...],
    evaluate: Evaluate,
    own: tuple[OwnMetric, ...],
) -> SplitEvaluation:
    return SplitEvaluation(
        split=name,
        row_ids=part.row_ids,
        labels=part.labels,
        logits=logits,
        unlabelled=part.unlabelled,
        metrics=classification_metrics(logits, part.labels, names, own),
        intervals=bootstrap_intervals(
            logits,
            part.labels,
            samples=evaluate.bootstrap_samples,
            confidence=evaluate.confidence,
            seed=evaluate.seed,
            own={metric.name: metric.score for metric in own},
        ),
        classes=class_scores(logits, part.labels, names),
        confusion=confusion(logits, part.labels, names),
    )


def _all_results(evaluation: Evaluation, evaluate: Evaluate) -> Json:
    return {
        "model": evaluation.model_digest,
        "run_key": evaluation.run_key,
        "labels": list(evaluation.names),
        "bootstrap": {
            "method": "percentile",
            "samples": evaluate.bootstrap_samples,
            "confidence": evaluate.confidence,
            "seed": evaluate.seed,
        },
        "splits": {
            split.split: {
                "rows": len(split.labels),
                "unlabelled_rows": split.unlabelled,
                "metrics": split.metrics,
                "intervals": {name: list(interval) for name, interval in split.intervals.items()},
                "classes": [dataclasses.asdict(score) for score in split.classes],
                "confusion_matrix": split.confusion.tolist(),
            }
            for split in evaluation.splits
        },
    }


def _confusion_csv(split: SplitEvaluation, names: tuple[str, ...]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["actual", "predicted"])
    for actual, predicted in zip(split.labels, split.logits.argmax(axis=1), strict=True):
        writer.writerow([names[actual], names[predicted]])
    return text.getvalue()


def _errors(split: SplitEvaluation, names: tuple[str, ...], rows: Path, evaluate: Evaluate) -> list[dict[str, Json]]:
    """Return the wrong rows of a split, highest loss first."""
    losses = row_losses(split.logits, split.labels)
    predicted = split.logits.argmax(axis=1)
    wrong = np.flatnonzero(predicted != split.labels)
    worst = wrong[np.argsort(-losses[wrong], kind="stable")][: evaluate.max_errors]
    texts = select_rows(rows, split.row_ids.take(pa.array(worst)), SCHEMA.names).to_pylist()
    return [
        {
            "row_id": row["row_id"],
            "split": split.split,
            "text": row["text"],
            "text_pair": row["text_pair"],
            "label": row["label"],
            "predicted": names[predicted[index]],
            "loss": round(float(losses[index]), 6),
            "probabilities": dict(zip(names, chances.round(6).tolist(), strict=True)),
            "source": row["source"],
            "line": row["line"],
        }
        for index, row, chances in zip(worst, texts, probabilities(split.logits[worst]), strict=True)
    ]


def _show(evaluation: Evaluation, reports: Path, evaluate: Evaluate) -> None:
    table(
        f"scores with {evaluate.confidence:.0%} intervals",
        ["metric", *(split.split for split in evaluation.splits)],
        [
            [name, *(_with_interval(split.metrics[name], split.intervals[name]) for split in evaluation.splits)]
            for name in (*HEADLINE, *(metric.name for metric in evaluation.own))
        ],
    )
    wrong = ", ".join(
        f"{len(split.labels) - int(np.trace(split.confusion)):,} of {len(split.labels):,} in {split.split}"
        for split in evaluation.splits
    )
    say(
        f"wrong rows: {wrong}; worst first in {reports / 'errors.jsonl'}, scores by class in all_results.json beside it"
    )


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.4f} ({interval[0]:.4f} to {interval[1]:.4f})"
