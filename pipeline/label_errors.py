"""Labels that are probably wrong: cross-validated confident learning, with a cheap model in place of the trained one.

Promises: a row is judged by a model that never saw it: logistic regression on sentence vectors of a pretrained encoder,
in five folds; equal rows give equal suspects. What is found are suspects, for people to look at: no label is changed.

Method: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70, 2021, as
cleanlab computes it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.embedding import Embedder
from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet
from pipeline.progress import progress
from pipeline.targets import read_targets

if TYPE_CHECKING:
    import pyarrow as pa

FOLDS = 5  # a class with fewer rows cannot be in each of them, and is not judged
_SEED = 13  # of the folds
_C = 10.0  # inverse strength of the penalty: sentence vectors are of length 1, so their components are small
_EXTRA = 'install the extra: python -m pip install ".[label-errors]", or set report.label_errors to false'


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A row whose label is probably wrong.

    Attributes:
        row: position among the rows that were given.
        label: the class in question: with one class per row the row's own, else the one that is too many or missing.
        suggested: what it probably is: a class, or with several classes per row None where `label` is to go, `label`
            itself where it is missing.
        chance: that the row is of class `label`, by a model that never saw it; from 0 to 1.
    """

    row: int
    label: str
    suggested: str | None
    chance: float


@dataclass(frozen=True, kw_only=True)
class LabelErrors:
    """What was found.

    Attributes:
        judged: rows that were looked at; others are of a class too rare.
        accuracy: share of decisions of the cheap model, on rows that it never saw, that agree with the labels.
        suspects: most suspicious first.
    """

    judged: int
    accuracy: float
    suspects: tuple[Suspect, ...]


def require_cleanlab() -> None:
    """Check that cleanlab is installed.

    Raises:
        SeqtrackError: it is not.
    """
    if importlib.util.find_spec("cleanlab") is None:
        raise SeqtrackError("cleanlab is not installed", where="params.yaml: report.label_errors", fix=_EXTRA)


def find_label_errors(labels: LabelSet, rows: pa.Table, embedder: Embedder) -> LabelErrors:
    """Judge the labels of rows.

    Args:
        labels: a label set with classes: there is no such judgement of numbers.
        rows: `text`, `text_pair` and `label` are read; all are labelled.
        embedder: makes vectors of the texts.
    """
    _, targets = read_targets(labels, rows["label"])
    vectors = _vectors(rows, embedder)
    if labels.problem_type == "multi_label_classification":
        return _of_sets(labels, vectors, targets > 0)
    return _of_classes(labels, vectors, targets.astype(np.int64, copy=False))


def _vectors(rows: pa.Table, embedder: Embedder) -> npt.NDArray[np.float32]:
    """Return a vector per row: of a text; of a pair both, how they differ and in what they agree."""
    first = rows["text"].to_pylist()
    second = [text or "" for text in rows["text_pair"].to_pylist()]
    paired = rows["text_pair"].null_count < rows.num_rows
    with progress("report: embed", len(first) * (1 + paired), "texts") as bar:
        left = embedder.embed(first, bar.advance)
        if not paired:
            return left
        right = embedder.embed(second, bar.advance)
    return np.concatenate([left, right, np.abs(left - right), left * right], axis=1)


def _of_classes(labels: LabelSet, vectors: npt.NDArray[np.float32], ids: npt.NDArray[np.int64]) -> LabelErrors:
    from cleanlab.filter import find_label_issues

    counts = np.bincount(ids, minlength=len(labels.names))
    classes = np.flatnonzero(counts >= FOLDS)
    if len(classes) < 2:
        return LabelErrors(judged=0, accuracy=0.0, suspects=())
    rows = np.flatnonzero(np.isin(ids, classes))
    given = np.searchsorted(classes, ids[rows])
    chances = _chances(vectors[rows], given)
    order: Sequence[int] = find_label_issues(given, chances, return_indices_ranked_by="self_confidence", n_jobs=1)
    best = chances.argmax(axis=1)
    return LabelErrors(
        judged=len(rows),
        accuracy=float((best == given).mean()),
        suspects=tuple(
            Suspect(
                row=int(rows[place]),
                label=labels.names[classes[given[place]]],
                suggested=labels.names[classes[best[place]]],
                chance=float(chances[place, given[place]]),
            )
            for place in order
            # A row of which the cheap model is unsure, but whose label it likes best, has nothing to change to.
            if best[place] != given[place]
        ),
    )


def _of_sets(labels: LabelSet, vectors: npt.NDArray[np.float32], wanted: npt.NDArray[np.bool_]) -> LabelErrors:
    from cleanlab.multilabel_classification.filter import find_label_issues

    rows = len(wanted)
    positive = wanted.sum(axis=0)
    classes = np.flatnonzero((positive >= FOLDS) & (rows - positive >= FOLDS))
    if not len(classes):
        return LabelErrors(judged=0, accuracy=0.0, suspects=())
    given = wanted[:, classes]
    chances = np.stack([_chances(vectors, column.astype(np.int64))[:, 1] for column in given.T], axis=1)
    order: Sequence[int] = find_label_issues(
        [np.flatnonzero(row).tolist() for row in given],
        chances,
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    doubts = np.abs(given - chances)
    suspects = []
    for place in order:
        worst = int(doubts[place].argmax())
        if doubts[place, worst] > 0.5:
            name = labels.names[classes[worst]]
            chance = float(chances[place, worst])
            suggested = None if given[place, worst] else name
            suspects.append(Suspect(row=int(place), label=name, suggested=suggested, chance=chance))
    accuracy = float(((chances >= 0.5) == given).mean())
    return LabelErrors(judged=rows, accuracy=accuracy, suspects=tuple(suspects))


def _chances(vectors: npt.NDArray[np.float32], ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return probabilities of classes, [rows, classes], each row's from a model that never saw it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=_SEED)
    model: Any = LogisticRegression(C=_C, max_iter=1000)
    chances: npt.NDArray[np.float64] = cross_val_predict(model, vectors, ids, cv=folds, method="predict_proba")
    return chances
