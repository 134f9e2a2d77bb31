"""Classification metrics as local `evaluate.Metric` classes over scikit-learn: no hub, no cache files.

Promises: every number equals scikit-learn's with `zero_division=0`; training and the evaluate stage share this one
definition. As in scikit-learn's defaults, a class that occurs neither in the labels nor in the predictions does not
enter the macro averages.

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
from sklearn.metrics import accuracy_score, confusion_matrix, matthews_corrcoef, precision_recall_fscore_support

from pipeline.errors import SeqtrackError
from pipeline.parts import instance, load_part, require_call
from pipeline.probabilities import Logits, row_losses

Ids = npt.NDArray[np.int64]

AVERAGES = ("macro", "weighted")
FORM = "(logits, labels)"  # of a metric of the user's


class _LocalMetric(Metric):  # type: ignore[misc]  # evaluate has no type hints
    """A metric over predicted and actual class ids, kept in memory instead of in files below ~/.cache."""

    prediction: Any = Value("int64")
    format: str | None = "numpy"

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _info(self) -> MetricInfo:
        return MetricInfo(
            description=type(self).__doc__ or "",
            citation="",
            features=Features({"predictions": self.prediction, "references": Value("int64")}),
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


def metric_names(num_classes: int) -> tuple[str, ...]:
    """Return the names of `classification_metrics`, for a problem with so many classes."""
    averaged = [f"{name}_{average}" for average in AVERAGES for name in ("precision", "recall", "f1")]
    positive = ["precision", "recall", "f1"] if num_classes == 2 else []
    return ("accuracy", *averaged, *positive, "mcc", "loss")


def is_maximized(name: str, greater_is_better: bool | None) -> bool:
    """Return whether a higher value of a metric is a better one: what the user says, else what is known."""
    return name != "loss" if greater_is_better is None else greater_is_better


@dataclass(frozen=True, kw_only=True)
class OwnMetric:
    """A metric of the user's.

    Attributes:
        name: what it is reported as.
        score: given logits, float32 [rows, classes], and class ids, int64 [rows], a number.
    """

    name: str
    score: Callable[[Logits, Ids], float]

    def __call__(self, logits: Logits, labels: Ids) -> float:
        """Return the score of some rows.

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


def own_metrics(paths: Sequence[str], num_classes: int) -> tuple[OwnMetric, ...]:
    """Load the user's metrics; each is reported under its function's name.

    Args:
        paths: import paths, from train.custom.metrics.
        num_classes: how many classes there are.

    Raises:
        SeqtrackError: one cannot be imported or called, or has the name of a built-in one.
    """
    key = "train.custom.metrics"
    found = []
    for path in paths:
        name = path.partition(":")[2]
        if name in metric_names(num_classes):
            raise SeqtrackError(f"{name} is a built-in metric", where=f"params.yaml: {key}", fix="give it another name")
        score = instance(load_part(path, key), path, key)
        require_call(score, path, key, np.zeros((2, num_classes), np.float32), np.zeros(2, np.int64), form=FORM)
        found.append(OwnMetric(name=name, score=score))
    return tuple(found)


def classification_metrics(
    logits: Logits, labels: Ids, names: tuple[str, ...], own: tuple[OwnMetric, ...] = ()
) -> dict[str, float]:
    """Score predictions: the class with the highest logit, the lowest id among equals.

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
    classes = range(len(names))
    columns = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    counts = np.bincount(predicted, minlength=len(names))
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
