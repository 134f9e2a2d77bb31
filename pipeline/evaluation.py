"""The evaluate stage's work: score a trained model on the labelled rows of validation and test.

Promises: rows, tokens and splits are joined on row_id; rows without a label are counted and left out, a split without
labelled rows is absent from every report rather than scored as something it is not; every metric of a split has an
interval, and all are drawn from the same resamples.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.bootstrap import intervals, probability_scores, scorer
from pipeline.calibration import Choices, fit_temperature
from pipeline.console import say
from pipeline.errors import SeqtrackError
from pipeline.inference import Classifier
from pipeline.labels import LabelSet
from pipeline.metrics import OwnMetric, own_metrics, task_metrics
from pipeline.params import Evaluate
from pipeline.progress import progress
from pipeline.resampling import Ids
from pipeline.rows import read_row_ids, select_rows
from pipeline.slices import COLUMNS, FEW_ROWS, check_kept, is_given, length_bounds, slices
from pipeline.targets import Targets, read_targets
from pipeline.tokens import TokenStore

SCORED = ("validation", "test")
AS_GIVEN = (
    "test_as_given"  # the user's test split, before the split stage dropped leaks from it; scored where it exists
)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Numbers with their intervals.

    Attributes:
        metrics: a number per name of `pipeline.metrics.metric_names`, of the user's metrics, and of
            `pipeline.bootstrap.probability_scores` where there are classes.
        intervals: (low, high) under the same names.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]

    def flat(self) -> dict[str, float]:
        """Return the metrics with their intervals beside them, as `<name>_low` and `<name>_high`."""
        lows = {f"{name}_low": low for name, (low, _) in self.intervals.items()}
        highs = {f"{name}_high": high for name, (_, high) in self.intervals.items()}
        return {**self.metrics, **lows, **highs}


@dataclass(frozen=True, kw_only=True)
class SliceEvaluation:
    """A model's outcome on part of a split; the user's own metrics are not among the scores.

    Attributes:
        kind: what its rows have in common.
        name: the value of it.
        rows: how many they are.
        scores: of these rows.
    """

    kind: str
    name: str
    rows: int
    scores: Scores

    @property
    def few(self) -> bool:
        """Whether the rows are so few that the scores say little."""
        return self.rows < FEW_ROWS


@dataclass(frozen=True, kw_only=True)
class SplitEvaluation:
    """A model's outcome on one split.

    Attributes:
        split: validation or test.
        row_ids: the labelled rows, strings, shape (rows,).
        targets: what is right, by task as in `pipeline.targets.Targets`.
        logits: float32 [rows, classes], [rows, 1] in regression.
        lengths: in tokens, before truncation, int32 [rows].
        unlabelled: rows of the split left out for want of a label.
        scores: of all labelled rows.
        slices: parts of the split, by kind.
        given: whether the user's files say of every row that it belongs to this split.
    """

    split: str
    row_ids: pa.Array
    targets: Targets
    logits: npt.NDArray[np.float32]
    lengths: npt.NDArray[np.int32]
    unlabelled: int
    scores: Scores
    slices: tuple[SliceEvaluation, ...]
    given: bool

    def sources(self) -> dict[str, Scores]:
        """Return scores by the user's evaluation file, under names such as `validation_matched`.

        Empty where the split is not the user's own, or is a single file. The name is the file's, after the split's
        unless it begins with it.
        """
        if not self.given:
            return {}
        found = {}
        for part in self.slices:
            if part.kind == "source":
                stem = PurePosixPath(part.name).name.partition(".")[0]
                name = stem if stem.startswith(f"{self.split}_") else f"{self.split}_{stem}"
                # Two files of one name in different folders are told apart by the whole path.
                found[f"{self.split}_{part.name}" if name in found else name] = part.scores
        return found


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model's outcome on all splits that can be scored.

    Attributes:
        labels: the task, and the classes in id order.
        thresholds: of multi-label classes, float64 [classes]; None is 0.5 for all.
        model_digest: identity of the model folder.
        run_key: identity of the training run.
        parameters: how many weights the model has.
        own: the user's metrics among those of the splits.
        temperature: fitted on the validation split; None where none was asked for.
        splits: those with labelled rows, at least one: validation, test as given if leaks were dropped from it, test.
        rows_per_second: how fast the model was; differs from run to run, so no report holds it.
    """

    labels: LabelSet
    thresholds: npt.NDArray[np.float64] | None
    model_digest: str
    run_key: str
    parameters: int
    own: tuple[OwnMetric, ...]
    temperature: float | None
    splits: tuple[SplitEvaluation, ...]
    rows_per_second: float

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return what metrics.json holds: split, or evaluation file of the user's, to metric to number."""
        found = {split.split: split.scores.flat() for split in self.splits}
        for split in self.splits:
            found |= {name: scores.flat() for name, scores in split.sources().items() if name not in found}
        return found


def choices_of(labels: LabelSet, logits: npt.NDArray[np.float32], targets: Targets) -> Choices:
    """Return what a classifier chose, for its calibration.

    Args:
        labels: of a task with classes.
        logits: [rows, classes].
        targets: of the same rows.
    """
    if labels.problem_type == "multi_label_classification":
        return Choices.of_labels(logits, targets)
    return Choices.of_classes(logits, targets.astype(np.int64, copy=False))


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
        SeqtrackError: files are missing or do not belong together, no row has a label, or a temperature is asked for
            where it cannot be fitted.
    """
    known = LabelSet.read(labels)
    if known != classifier.labels:
        raise SeqtrackError(
            "the model was trained on other labels",
            where=str(labels),
            expected=", ".join(classifier.labels.names) or classifier.labels.problem_type,
            found=", ".join(known.names) or known.problem_type,
            fix="run `dvc repro` to train on these",
        )
    own = own_metrics(classifier.metrics, known)
    # Test stays last: the figures are about it.
    names = ("validation", AS_GIVEN, "test") if (splits / f"{AS_GIVEN}.parquet").is_file() else SCORED
    parts = [_labelled(name, splits / f"{name}.parquet", rows, known, evaluate) for name in names]
    labelled = [part for part in parts if len(part.row_ids)]
    if not labelled:
        raise SeqtrackError(
            "no labelled rows to score the model on",
            where=str(splits),
            expected="labels in " + " or ".join(SCORED),
            fix="raise split.ratios in params.yaml, or label these rows",
        )
    if evaluate.temperature_scaling:
        _check_temperature(known, labelled)
    counts = ", ".join(f"{len(part.row_ids):,} rows of {part.split}" for part in parts)
    say(f"evaluate: {counts}, on {classifier.device}")
    for part in parts:
        if not len(part.row_ids):
            say(f"evaluate: {part.split} has no labelled rows and is not scored")
    started = time.perf_counter()
    outcomes = [_outcome(classifier, tokens, part, evaluate.per_device_batch_size) for part in labelled]
    seconds = time.perf_counter() - started
    temperature = None
    if evaluate.temperature_scaling:
        temperature = fit_temperature(choices_of(known, outcomes[0].logits, outcomes[0].part.targets))
        say(f"evaluate: temperature {temperature} fits {labelled[0].split} best; predict.temperature applies it")
    score = _Scorer(known, classifier.thresholds, own, temperature, evaluate)
    bounds = length_bounds(np.concatenate([outcome.lengths for outcome in outcomes]))
    return Evaluation(
        labels=known,
        thresholds=classifier.thresholds,
        model_digest=classifier.digest,
        run_key=classifier.run_key,
        parameters=sum(weights.numel() for weights in classifier.model.parameters()),
        own=own,
        temperature=temperature,
        splits=tuple(_evaluated(outcome, score, rows, bounds, evaluate) for outcome in outcomes),
        rows_per_second=sum(len(outcome.logits) for outcome in outcomes) / seconds,
    )


@dataclass(frozen=True, kw_only=True)
class _Labelled:
    """The labelled rows of a split: ids (strings), targets, and how many rows have no label."""

    split: str
    row_ids: pa.Array
    targets: Targets
    unlabelled: int


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What the model says of labelled rows: logits, float32 [rows, classes], and lengths in tokens, int32 [rows]."""

    part: _Labelled
    logits: npt.NDArray[np.float32]
    lengths: npt.NDArray[np.int32]


@dataclass(frozen=True)
class _Scorer:
    """Scores rows of any split."""

    labels: LabelSet
    thresholds: npt.NDArray[np.float64] | None
    own: tuple[OwnMetric, ...]
    temperature: float | None
    evaluate: Evaluate

    def __call__(self, logits: npt.NDArray[np.float32], targets: Targets, *, with_own: bool) -> Scores:
        own = self.own if with_own else ()
        metrics = task_metrics(self.labels, logits, targets, own, self.thresholds)
        resampled = scorer(self.labels, logits, targets, self.thresholds, self.temperature)
        # What the user calls by the same name is theirs.
        metrics = probability_scores(resampled, len(logits)) | metrics
        found = intervals(
            resampled,
            len(logits),
            samples=self.evaluate.bootstrap_samples,
            confidence=self.evaluate.confidence,
            seed=self.evaluate.seed,
            own={metric.name: self._on_rows(metric, logits, targets) for metric in own},
        )
        return Scores(metrics=metrics, intervals={name: value for name, value in found.items() if name in metrics})

    def _on_rows(self, metric: OwnMetric, logits: npt.NDArray[np.float32], targets: Targets) -> Callable[[Ids], float]:
        outputs = logits[:, 0] if self.labels.problem_type == "regression" else logits
        return lambda rows: metric.score(outputs[rows], targets[rows])


def _labelled(split: str, file: Path, rows: Path, labels: LabelSet, evaluate: Evaluate) -> _Labelled:
    row_ids = read_row_ids(file)
    found = select_rows(rows, row_ids, ["row_id", "label", "kept"])
    check_kept(evaluate.slices, found)
    known, targets = read_targets(labels, found["label"])
    labelled = pc.filter(row_ids, known)
    return _Labelled(split=split, row_ids=labelled, targets=targets, unlabelled=len(row_ids) - len(labelled))


def _check_temperature(labels: LabelSet, labelled: list[_Labelled]) -> None:
    where = "params.yaml: evaluate.temperature_scaling"
    if labels.problem_type == "regression":
        raise SeqtrackError("numbers have no temperature", where=where, expected="classes", fix="set it to false")
    if labelled[0].split != "validation":
        raise SeqtrackError(
            "no labelled rows of validation to fit a temperature on", where=where, fix="set it to false"
        )


def _outcome(classifier: Classifier, tokens: TokenStore, part: _Labelled, batch_size: int) -> _Outcome:
    positions = tokens.positions(part.row_ids)
    with progress(f"evaluate: {part.split}", len(positions), "rows") as bar:
        logits = classifier.logits(
            tokens.lengths[positions],
            lambda chosen, step: tokens.batch(positions[chosen], pad_to_multiple_of=step),
            batch_size=batch_size,
            on_batch=bar.advance,
        )
    return _Outcome(part=part, logits=logits, lengths=tokens.full_lengths[positions])


def _evaluated(
    outcome: _Outcome, score: _Scorer, rows: Path, bounds: tuple[int, ...], evaluate: Evaluate
) -> SplitEvaluation:
    part, logits = outcome.part, outcome.logits
    known = select_rows(rows, part.row_ids, list(COLUMNS))
    return SplitEvaluation(
        split=part.split,
        row_ids=part.row_ids,
        targets=part.targets,
        logits=logits,
        lengths=outcome.lengths,
        unlabelled=part.unlabelled,
        scores=score(logits, part.targets, with_own=True),
        slices=tuple(
            SliceEvaluation(
                kind=piece.kind,
                name=piece.name,
                rows=len(piece.rows),
                scores=score(logits[piece.rows], part.targets[piece.rows], with_own=False),
            )
            for piece in slices(evaluate.slices, known, outcome.lengths, bounds)
        ),
        given=is_given(known, part.split),
    )
