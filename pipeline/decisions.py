"""From a model's outputs to what it says of a row: a class, a set of classes, or a number.

Promises: one definition, shared by evaluate, predict and MLflow; numpy alone. Thresholds of multi-label classes are a
file in the model folder, tuned on the validation split by `tune_thresholds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet
from pipeline.outputs import read_json, write_json
from pipeline.probabilities import Logits, probabilities, sigmoid
from pipeline.targets import Targets

THRESHOLDS = "thresholds.json"  # in a model folder
HALF = 0.5  # the threshold of classes that have none of their own
Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """What a model says of some rows.

    Attributes:
        labels: per row a class name, a list of class names in id order (perhaps empty), or a number.
        ids: single-label: class ids, int64 [rows]; multi-label: 1 where the row is said to be of the class, else 0,
            int64 [rows, classes]; regression: the numbers again, float64 [rows].
        probabilities: float64 [rows, classes]: softmax, or each class's sigmoid in multi-label classification; None in
            regression.
    """

    labels: Sequence[str] | Sequence[list[str]] | Sequence[float]
    ids: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    probabilities: Probabilities | None


def decide(
    labels: LabelSet, logits: Logits, thresholds: npt.NDArray[np.float64] | None = None, temperature: float = 1.0
) -> Decisions:
    """Say what a model's outputs mean.

    Single-label: the class with the highest logit, the lowest id among equals. Multi-label: all classes whose
    probability reaches their threshold. Regression: the output itself, with the digits that float32 has.

    Args:
        labels: the model's label set.
        logits: float32 [rows, classes], [rows, 1] in regression; finite.
        thresholds: of multi-label classes, float64 [classes]; None is 0.5 for all.
        temperature: divides the logits behind the probabilities that are told; what is decided stays the same.
    """
    cooled = logits if temperature == 1.0 else logits.astype(np.float64) / temperature
    if labels.problem_type == "regression":
        values = [float(str(value)) for value in logits[:, 0]]
        return Decisions(labels=values, ids=np.array(values, np.float64), probabilities=None)
    if labels.problem_type == "multi_label_classification":
        chosen = sigmoid(logits) >= (HALF if thresholds is None else thresholds)
        named = [[labels.names[place] for place in np.flatnonzero(row)] for row in chosen]
        return Decisions(labels=named, ids=chosen.astype(np.int64), probabilities=sigmoid(cooled))
    winners = logits.argmax(axis=1)
    return Decisions(labels=[labels.names[i] for i in winners], ids=winners, probabilities=probabilities(cooled))


def tune_thresholds(chances: Probabilities, targets: Targets) -> npt.NDArray[np.float64]:
    """Return for each class the threshold with the highest F1, float64 [classes].

    The best that can be had on these rows (Lipton et al., 2014, arXiv:1402.1892): with few rows of a class, better than
    it will be on others. Between two neighbouring probabilities any threshold gives the same decisions: 0.5 is taken
    where it lies between them, else the middle. Of several with the same F1 the one nearest to 0.5 is taken, the lower
    one of two as near. A class without rows in `targets` keeps 0.5.

    Args:
        chances: probabilities, float64 [rows, classes].
        targets: 1 where a row is of a class, else 0, [rows, classes].
    """
    return np.array([_best(chances[:, place], targets[:, place]) for place in range(targets.shape[1])], np.float64)


def _best(chances: npt.NDArray[np.float64], targets: Targets) -> float:
    positives = float(targets.sum())
    if not positives:
        return HALF
    order = np.argsort(-chances, kind="stable")
    ranked = chances[order]
    hits = np.cumsum(targets[order], dtype=np.float64)
    # Rows with one probability are taken together: a cut is possible after the last of them.
    cuts = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    f1 = 2 * hits[cuts] / (cuts + 1 + positives)
    lowest = ranked[cuts]  # the lowest probability that is taken
    left_out = np.append(lowest[1:], 0.0)  # the highest that is not
    middle = (left_out + lowest) / 2
    # Neighbouring numbers have no middle of their own.
    middle = np.where(middle > left_out, middle, lowest)
    candidates = np.where((left_out < HALF) & (lowest >= HALF), HALF, middle)
    best = candidates[f1 == f1.max()]
    # Ranked from high to low, so the last of equally near ones is the lower.
    return float(best[::-1][np.argmin(np.abs(best[::-1] - HALF))])


def write_thresholds(folder: Path, names: tuple[str, ...], thresholds: npt.NDArray[np.float64]) -> None:
    """Write the thresholds of classes into a model folder."""
    write_json(folder / THRESHOLDS, dict(zip(names, thresholds.tolist(), strict=True)))


def read_thresholds(folder: Path, labels: LabelSet) -> npt.NDArray[np.float64] | None:
    """Read what `write_thresholds` wrote, float64 [classes]; None where the folder has none.

    Raises:
        SeqtrackError: the file is not one threshold per class of the set.
    """
    path = folder / THRESHOLDS
    if not path.is_file():
        return None
    match read_json(path):
        case dict(found) if set(found) == set(labels.names) and all(isinstance(v, int | float) for v in found.values()):
            return np.array([found[name] for name in labels.names], np.float64)
        case found:
            raise SeqtrackError(
                "not the thresholds of this model's classes",
                where=str(path),
                expected="a number for each of " + ", ".join(labels.names),
                found=str(found),
                fix="run `dvc repro`",
            )
