"""Metrics of each task as local `evaluate.Metric` classes over scikit-learn and scipy: no hub, no cache files.

Promises: every number equals scikit-learn's with `zero_division=0`, or scipy's; training and the evaluate stage share
this one definition. As in scikit-learn's defaults, a class that occurs neither in the labels nor in the predictions
does not enter the macro averages of single-label classification, and counts as 0 in those of multi-label
classification. What is undefined is 0, never nan: correlations with a constant, R2 of a single row.

`import evaluate` pulls in `transformers.pipelines` however little of it is used: 3 s alone, 1 s where transformers'
models are loaded anyway. So import this module only in stages that load a model.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Features, List, Value
from evaluate import Metric, MetricInfo
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    matthews_corrcoef,
    mean_absolute_error,
    mean_squared_error,
    precision_recall_fscore_support,
    r2_score,
)

from pipeline.decisions import HALF
from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet, ProblemType
from pipeline.parts import instance, load_part, require_call
from pipeline.probabilities import Logits, binary_row_losses, row_losses, sigmoid
from pipeline.targets import Targets

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

AVERAGES = ("macro", "weighted")
MULTI_LABEL_AVERAGES = ("micro", "macro")
PARTS = ("precision", "recall", "f1")
LOWER_IS_BETTER = ("loss", "mse", "mae")
FORM = "(logits, labels)"  # of a metric of the user's
HEADLINES: dict[ProblemType, tuple[str, ...]] = {  # what is shown where there is no room for all
    "single_label_classification": ("accuracy", "f1_macro", "mcc", "loss"),
    "multi_label_classification": ("f1_micro", "f1_macro", "map", "subset_accuracy", "loss"),
    "regression": ("pearson", "spearman", "mae", "r2", "loss"),
}


class _LocalMetric(Metric):  # type: ignore[misc]  # evaluate has no type hints
    """A metric over predicted and actual class ids, kept in memory instead of in files below ~/.cache."""

    prediction: Any = Value("int64")
    reference: Any = Value("int64")
    format: str | None = "numpy"

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _info(self) -> MetricInfo:
        return MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            features=Features({"predictions": self.prediction, "references": self.reference}),
            format=self.format,
        )


class Accuracy(_LocalMetric):
    """Share of rows whose predicted class is the actual one."""

    def _compute(self, predictions: Ids, references: Ids) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class PrecisionRecallF1(_LocalMetric):
    """Precision, recall and F1, averaged over the classes (macro) and with the classes' supports (weighted).

    With two classes also those of class id 1 alone, under the plain names.
    """

    def _compute(self, predictions: Ids, references: Ids, num_classes: int) -> dict[str, float]:
        scores = {}
        for average in AVERAGES:
            values = precision_recall_fscore_support(references, predictions, average=average, zero_division=0)[:3]
            for name, value in zip(("precision", "recall", "f1"), values, strict=True):
                scores[f"{name}_{average}"] = float(value)
        if num_classes == 2:
            values = precision_recall_fscore_support(references, predictions, labels=[1], zero_division=0)[:3]
            for name, value in zip(("precision", "recall", "f1"), values, strict=True):
                scores[name] = float(value[0])
        return scores


class MatthewsCorrelation(_LocalMetric):
    """Matthews correlation coefficient, for any number of classes; 0 where it is undefined."""

    def _compute(self, predictions: Ids, references: Ids) -> dict[str, float]:
        with warnings.catch_warnings():
            # Rows and predictions of one class only: the coefficient is 0 by definition, nothing to warn of.
            warnings.filterwarnings("ignore", message="A single label was found", category=UserWarning)
            return {"mcc": float(matthews_corrcoef(references, predictions))}


class CrossEntropy(_LocalMetric):
    """Mean cross entropy in nats, from logits."""

    prediction = List(Value("float64"))
    format = None  # evaluate allows "numpy" for scalars only

    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, float]:
        return {"loss": float(row_losses(np.array(predictions), np.array(references)).mean())}


class _OfSets(_LocalMetric):
    """A metric over sets of classes, as rows of a number per class."""

    prediction = List(Value("float64"))
    reference = List(Value("float64"))
    format = None


class SubsetAccuracy(_OfSets):
    """Share of rows whose predicted set of classes is the actual one."""

    def _compute(self, predictions: list[list[float]], references: list[list[float]]) -> dict[str, float]:
        return {"subset_accuracy": float(accuracy_score(np.array(references), np.array(predictions)))}


class PrecisionRecallF1OfSets(_OfSets):
    """Precision, recall and F1 over all decisions alike (micro) and averaged over the classes (macro)."""

    def _compute(self, predictions: list[list[float]], references: list[list[float]]) -> dict[str, float]:
        # A single class is a column that scikit-learn takes for one class out of two.
        wanted, found = np.array(references), np.array(predictions)
        if wanted.shape[1] == 1:
            values = precision_recall_fscore_support(wanted[:, 0], found[:, 0], labels=[1], zero_division=0)[:3]
            by_part = {name: float(value[0]) for name, value in zip(PARTS, values, strict=True)}
            return {f"{name}_{average}": by_part[name] for average in MULTI_LABEL_AVERAGES for name in PARTS}
        scores: dict[str, float] = {}
        for average in MULTI_LABEL_AVERAGES:
            values = precision_recall_fscore_support(wanted, found, average=average, zero_division=0)[:3]
            scores |= {f"{name}_{average}": float(value) for name, value in zip(PARTS, values, strict=True)}
        return scores


class MeanAveragePrecision(_OfSets):
    """Average precision of each class's ranking of the rows, averaged over the classes; 0 for a class without rows."""

    def _compute(self, predictions: list[list[float]], references: list[list[float]]) -> dict[str, float]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No positive class found", category=UserWarning)
            return {"map": float(average_precision_score(np.array(references), np.array(predictions)))}


class BinaryCrossEntropy(_OfSets):
    """Mean binary cross entropy in nats over rows and classes, from logits."""

    def _compute(self, predictions: list[list[float]], references: list[list[float]]) -> dict[str, float]:
        return {"loss": float(binary_row_losses(np.array(predictions), np.array(references)).mean())}


class _OfNumbers(_LocalMetric):
    """A metric over predicted and actual numbers."""

    prediction = Value("float64")
    reference = Value("float64")
    format = None  # "numpy" would make float32 of them


class Correlations(_OfNumbers):
    """Pearson's and Spearman's correlation; 0 where either side is constant, and of a single row."""

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        if len(references) < 2 or np.ptp(predictions) == 0 or np.ptp(references) == 0:
            return {"pearson": 0.0, "spearman": 0.0}
        with warnings.catch_warnings():
            # Nearly constant numbers: the correlation is noise, and is reported as scipy computes it.
            warnings.simplefilter("ignore", RuntimeWarning)
            values = {"pearson": pearsonr, "spearman": spearmanr}
            found = {name: float(compute(predictions, references).statistic) for name, compute in values.items()}
        # Numbers so close that their squared distances are all zero count as constant.
        return {name: value if math.isfinite(value) else 0.0 for name, value in found.items()}


class RegressionErrors(_OfNumbers):
    """Mean squared and mean absolute error on the labels' scale, and R2, the share of their variance explained.

    R2 of constant labels is 1 where every prediction is right, else 0, as in scikit-learn.
    """

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        squared = float(mean_squared_error(references, predictions))
        return {
            "mse": squared,
            "mae": float(mean_absolute_error(references, predictions)),
            "r2": float(r2_score(references, predictions)) if len(references) > 1 else 0.0,
            "loss": squared,
        }


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """How one class fared.

    Attributes:
        name: the class.
        precision, recall, f1: scores of this class against the rest; 0 where undefined.
        support: rows of this class.
        predicted: rows predicted to be of this class.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


def metric_names(labels: LabelSet) -> tuple[str, ...]:
    """Return the names of `task_metrics`, for the task and classes of a label set."""
    if labels.problem_type == "regression":
        return ("pearson", "spearman", "mse", "mae", "r2", "loss")
    if labels.problem_type == "multi_label_classification":
        averaged = [f"{name}_{average}" for average in MULTI_LABEL_AVERAGES for name in PARTS]
        return ("subset_accuracy", *averaged, "map", "loss")
    averaged = [f"{name}_{average}" for average in AVERAGES for name in PARTS]
    positive = PARTS if len(labels.names) == 2 else ()
    return ("accuracy", *averaged, *positive, "mcc", "loss")


def default_metric(problem_type: ProblemType) -> str:
    """Return the metric that chooses the model where train.metric_for_best_model is null."""
    return "pearson" if problem_type == "regression" else "f1_macro"


def is_maximized(name: str, greater_is_better: bool | None) -> bool:
    """Return whether a higher value of a metric is a better one: what the user says, else what is known."""
    return name not in LOWER_IS_BETTER if greater_is_better is None else greater_is_better


@dataclass(frozen=True, kw_only=True)
class OwnMetric:
    """A metric of the user's.

    Attributes:
        name: what it is reported as.
        score: given logits, float32 [rows, classes] ([rows] in regression), and targets, a number.
    """

    name: str
    score: Callable[[Logits, Any], float]

    def __call__(self, logits: Logits, labels: Targets) -> float:
        """Return the score of some rows: logits [rows, classes], [rows] in regression, and their targets.

        Raises:
            SeqtrackError: it is no finite number.
        """
        value = self.score(logits, labels)
        if not isinstance(value, int | float | np.number) or not math.isfinite(value):
            raise SeqtrackError(
                f"the metric {self.name} gives no finite number",
                where="params.yaml: train.custom.metrics",
                found=f"{value!r} for {len(labels):,} rows",
            )
        return float(value)


def own_metrics(paths: Sequence[str], labels: LabelSet) -> tuple[OwnMetric, ...]:
    """Load the user's metrics; each is reported under its function's name.

    Args:
        paths: import paths, from train.custom.metrics.
        labels: the label set, which knows the task.

    Raises:
        SeqtrackError: one cannot be imported or called, or has the name of a built-in one.
    """
    key = "train.custom.metrics"
    found = []
    for path in paths:
        name = path.partition(":")[2]
        if name in metric_names(labels):
            raise SeqtrackError(f"{name} is a built-in metric", where=f"params.yaml: {key}", fix="give it another name")
        score = instance(load_part(path, key), path, key)
        require_call(score, path, key, np.zeros((2, labels.width), np.float32), np.zeros(2, np.int64), form=FORM)
        found.append(OwnMetric(name=name, score=score))
    return tuple(found)


def task_metrics(
    labels: LabelSet,
    logits: Logits,
    targets: Targets,
    own: tuple[OwnMetric, ...] = (),
    thresholds: Floats | None = None,
) -> dict[str, float]:
    """Score predictions of any task: a number under each of `metric_names`, then the user's own.

    Args:
        labels: the label set, which knows the task.
        logits: [rows, classes], [rows, 1] in regression; finite, at least one row.
        targets: of the same rows, see `pipeline.targets.Targets`.
        own: further metrics.
        thresholds: of multi-label classes, float64 [classes]; None is 0.5 for all.
    """
    if labels.problem_type == "regression":
        predicted = logits[:, 0]
        return regression_metrics(predicted, targets) | {metric.name: metric(predicted, targets) for metric in own}
    if labels.problem_type == "multi_label_classification":
        scores = multi_label_metrics(logits, targets, thresholds)
        return scores | {metric.name: metric(logits, targets) for metric in own}
    return classification_metrics(logits, targets.astype(np.int64, copy=False), labels.names, own)


def regression_metrics(predicted: Logits, actual: npt.NDArray[np.number[Any]]) -> dict[str, float]:
    """Score numbers: Pearson's and Spearman's correlation, mean squared and absolute error, R2; `loss` is `mse`.

    Args:
        predicted: [rows], finite, at least one row.
        actual: [rows].
    """
    scores: dict[str, float] = {}
    for metric in (Correlations(), RegressionErrors()):
        scores |= metric.compute(predictions=predicted.astype(np.float64), references=actual.astype(np.float64))
    return scores


def multi_label_metrics(
    logits: Logits, targets: npt.NDArray[np.number[Any]], thresholds: Floats | None = None
) -> dict[str, float]:
    """Score sets of classes: a row is said to be of each class whose probability reaches its threshold.

    Args:
        logits: [rows, classes], finite, at least one row.
        targets: 1 where a row is of a class, else 0, [rows, classes].
        thresholds: float64 [classes]; None is 0.5 for all.

    Returns:
        Share of rows with exactly the right set; precision, recall and F1, micro and macro; mean average precision,
        which no threshold enters; mean binary cross entropy.
    """
    chosen = sigmoid(logits) >= (HALF if thresholds is None else thresholds)
    scores: dict[str, float] = {}
    scores |= SubsetAccuracy().compute(predictions=chosen, references=targets)
    scores |= PrecisionRecallF1OfSets().compute(predictions=chosen, references=targets)
    # Ranked by logits: probabilities near 1 are equal in float64 where logits are not.
    scores |= MeanAveragePrecision().compute(predictions=logits, references=targets)
    scores |= BinaryCrossEntropy().compute(predictions=logits, references=targets)
    return scores


def classification_metrics(
    logits: Logits, labels: Ids, names: tuple[str, ...], own: tuple[OwnMetric, ...] = ()
) -> dict[str, float]:
    """Score classes: the one with the highest logit is predicted, the lowest id among equals.

    Args:
        logits: [rows, classes], finite, at least one row.
        labels: actual class ids, [rows].
        names: class names in id order.
        own: further metrics.

    Returns:
        A number under each of `metric_names`: accuracy; precision, recall and F1, macro and weighted, and for two
        classes those of class id 1; Matthews correlation; mean cross entropy; then the user's own.
    """
    predicted = logits.argmax(axis=1)
    scores: dict[str, float] = {}
    scores |= Accuracy().compute(predictions=predicted, references=labels)
    scores |= PrecisionRecallF1().compute(predictions=predicted, references=labels, num_classes=len(names))
    scores |= MatthewsCorrelation().compute(predictions=predicted, references=labels)
    scores |= CrossEntropy().compute(predictions=logits, references=labels)
    return scores | {metric.name: metric(logits, labels) for metric in own}


def class_scores(logits: Logits, labels: Ids, names: tuple[str, ...]) -> tuple[ClassScore, ...]:
    """Score each class, in id order; arguments as for `classification_metrics`."""
    predicted = logits.argmax(axis=1)
    columns = precision_recall_fscore_support(labels, predicted, labels=range(len(names)), zero_division=0)
    return _by_name(names, columns, np.bincount(predicted, minlength=len(names)))


def label_scores(chosen: Flags, wanted: Flags, names: tuple[str, ...]) -> tuple[ClassScore, ...]:
    """Score each label of multi-label data, in id order.

    Args:
        chosen: whether the row was said to be of the label, [rows, labels].
        wanted: whether it is, [rows, labels].
        names: of the labels.
    """
    columns = precision_recall_fscore_support(wanted, chosen, zero_division=0)
    return _by_name(names, columns, chosen.sum(axis=0))


def _by_name(names: tuple[str, ...], columns: tuple[npt.NDArray[Any], ...], counts: Ids) -> tuple[ClassScore, ...]:
    """Put scikit-learn's columns (precision, recall, F1, support) and how often each was predicted under names."""
    return tuple(
        ClassScore(
            name=name,
            precision=float(precision),
            recall=float(recall),
            f1=float(f1),
            support=int(support),
            predicted=int(count),
        )
        for name, precision, recall, f1, support, count in zip(names, *columns, counts, strict=True)
    )


def confusion(logits: Logits, labels: Ids, names: tuple[str, ...]) -> Ids:
    """Count rows by actual (first axis) and predicted class, int64 [classes, classes]."""
    counts: Ids = confusion_matrix(labels, logits.argmax(axis=1), labels=range(len(names)))
    return counts
