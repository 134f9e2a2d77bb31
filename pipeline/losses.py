"""What is minimised.

Promises: a loss gives one number per row, and a step minimises their weighted mean over the global batch, so the step
is the same however the batch is divided into processes and micro-batches. By task that mean is, over the whole batch,
`torch.nn.functional.cross_entropy(..., weight=, label_smoothing=)`, the sum of the weighted losses over the sum of the
rows' weights; `binary_cross_entropy_with_logits(..., pos_weight=)`; or `mse_loss`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet, ProblemType
from pipeline.params import Train
from pipeline.parts import instance, load_part, require_call
from pipeline.targets import Targets

RowLosses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From logits, float [rows, classes] ([rows] in regression), and targets to losses, float [rows].

Targets are class ids, int64 [rows]; in multi-label classification 1 or 0, float32 [rows, classes]; in regression
standardised numbers, float32 [rows]."""
KEY = "train.custom.loss"
MOST_WEIGHTS = 6  # of classes that are shown
BUILT_IN: dict[ProblemType, str] = {
    "single_label_classification": "cross entropy",
    "multi_label_classification": "binary cross entropy",
    "regression": "mean squared error",
}


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A loss per row, and how much each row counts.

    Attributes:
        problem_type: the task, which decides the built-in loss.
        own: the user's loss; None is the task's own: cross entropy, the mean of a row's binary cross entropies, or the
            squared error.
        class_weights: float32 [classes], on the CPU; None counts all alike. Single-label: the weight of a row by its
            class. Multi-label: the weight of a row in a class it is of, against 1 in a class it is not of.
        copied_weights: the same where the losses are computed, see `to`.
        label_smoothing: share of the target that is spread evenly over all classes, or over yes and no in multi-label
            classification; built-in losses only.
        r_drop: weight of the divergence between two passes of the same rows, alpha in the paper.
        scale: factor from the mean of the losses to the training loss that is reported.
    """

    problem_type: ProblemType = "single_label_classification"
    own: RowLosses | None = None
    class_weights: torch.Tensor | None = None
    copied_weights: torch.Tensor | None = None
    label_smoothing: float = 0.0
    r_drop: float = 0.0
    scale: float = 1.0

    def summed(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the sum of the weighted losses of some rows, a scalar of the logits' dtype.

        Args:
            logits: float [rows, classes], [rows, 1] in regression.
            labels: targets, see `RowLosses`.
        """
        weights = self._weights(logits.dtype)
        if self.problem_type == "regression":
            logits = logits.squeeze(1)
        if self.own is not None:
            losses = self.own(logits, labels)
            return losses.sum() if weights is None else (losses * weights[labels]).sum()
        if self.problem_type == "regression":
            return torch.nn.functional.mse_loss(logits, labels.to(logits.dtype), reduction="sum")
        if self.problem_type == "multi_label_classification":
            targets = labels.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / 2
            return (
                torch.nn.functional.binary_cross_entropy_with_logits(
                    logits, targets, pos_weight=weights, reduction="sum"
                )
                / logits.shape[1]
            )
        return torch.nn.functional.cross_entropy(
            logits, labels, weight=weights, label_smoothing=self.label_smoothing, reduction="sum"
        )

    @property
    def passes(self) -> int:
        """How many times each row is computed."""
        return 2 if self.r_drop else 1

    def summed_over_passes(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the sum of the weighted losses of some rows; where they were computed twice, with their divergence.

        That is R-Drop: L. Wu et al., R-Drop: Regularized Dropout for Neural Networks, 2021, arXiv:2106.14448; half of
        their loss, the mean of both passes' losses instead of the sum, so that learning rates keep their meaning. A
        row's divergence is the mean of the Kullback-Leibler divergences in both directions; in multi-label
        classification, as with the loss, the mean over the classes of that; in regression the squared difference.

        Args:
            logits: float [passes x rows, classes], a pass after the other.
            labels: targets of the rows, once.
        """
        if self.passes == 1:
            return self.summed(logits, labels)
        first, second = logits.chunk(2)
        divergences, weights = self._divergences(first, second), self._weights(logits.dtype)
        if weights is not None and self.problem_type == "single_label_classification":
            divergences = divergences * weights[labels]
        losses = (self.summed(first, labels) + self.summed(second, labels)) / 2
        return losses + self.r_drop / 2 * divergences.sum()

    def _weights(self, dtype: torch.dtype) -> torch.Tensor | None:
        weights = self.class_weights if self.copied_weights is None else self.copied_weights
        return None if weights is None else weights.to(dtype)

    def _divergences(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Return how far two passes are apart, float [rows]."""
        if self.problem_type == "regression":
            return (first - second).square().squeeze(1)
        if self.problem_type == "single_label_classification":
            difference = first.log_softmax(1) - second.log_softmax(1)
            return ((first.softmax(1) - second.softmax(1)) * difference).sum(1) / 2
        # The same for yes and no: the log odds differ as the logits do.
        return ((first.sigmoid() - second.sigmoid()) * (first - second)).mean(1) / 2

    def total_weight(self, labels: Targets) -> float:
        """Return what the sum over these rows is divided by to give their mean: their number, or their weights' sum."""
        if self.class_weights is None or self.problem_type != "single_label_classification":
            return float(len(labels))
        return float(self.class_weights.double().numpy()[labels].sum())

    def in_words(self, label_names: tuple[str, ...]) -> str:
        """Return what is minimised, for people to read."""
        words = [BUILT_IN[self.problem_type] if self.own is None else type(self.own).__name__]
        if isinstance(self.own, FunctionType):
            words = [self.own.__name__]
        if self.label_smoothing:
            words.append(f"label smoothing {self.label_smoothing:g}")
        if self.r_drop:
            words.append(f"R-Drop {self.r_drop:g}")
        if self.class_weights is not None:
            weights = list(zip(label_names, self.class_weights.tolist(), strict=True))
            shown = ", ".join(f"{name} {weight:.3g}" for name, weight in weights[:MOST_WEIGHTS])
            words.append(f"weights {shown}" + (", ..." if len(weights) > MOST_WEIGHTS else ""))
        return ", ".join(words)

    def reported_by(self, unit: float) -> Criterion:
        """Return the same, with the training loss of standardised numbers reported on the scale of the labels.

        A loss of the user's stays as it is: it may not grow with the square of its errors.

        Args:
            unit: what the numbers were divided by.
        """
        return self if self.own is not None else replace(self, scale=unit**2)

    def to(self, device: torch.device) -> Criterion:
        """Return the same for losses on a device; what is asked of weights in each step does not wait for that."""
        own = self.own.to(device) if isinstance(self.own, torch.nn.Module) else self.own
        weights = None if self.class_weights is None else self.class_weights.to(device)
        return replace(self, own=own, copied_weights=weights)


def build_criterion(train: Train, labels: LabelSet, targets: Targets) -> Criterion:
    """Return the loss of the recipe: the task's own, or the user's.

    Args:
        train: the recipe.
        labels: the label set, which knows the task.
        targets: of the train split, from which balanced weights come.

    Raises:
        SeqtrackError: class_weights names no class, or cannot be had with this task; label smoothing cannot; or the
            user's loss is none.
    """
    path = train.custom.loss
    if labels.problem_type == "regression":
        _refuse("class_weights", train.class_weights is not None, "there are no classes in regression", "null")
        _refuse("label_smoothing_factor", train.label_smoothing_factor > 0, "there are no classes in regression", "0")
    elif labels.problem_type == "multi_label_classification" and path is not None:
        reason = "a loss of your own for several labels gives one number for all classes of a row"
        _refuse("class_weights", train.class_weights is not None, reason, "null, or weigh classes in that loss")
    criterion = Criterion(
        problem_type=labels.problem_type,
        class_weights=_class_weights(train.class_weights, labels, targets),
        label_smoothing=train.label_smoothing_factor,
        r_drop=train.r_drop or 0.0,
    )
    if path is None:
        return criterion
    own: RowLosses = instance(load_part(path, KEY), path, KEY)
    _try(own, path, labels)
    return replace(criterion, own=own)


def _refuse(key: str, given: bool, reason: str, remedy: str) -> None:
    if given:
        raise SeqtrackError(reason, where=f"params.yaml: train.{key}", fix=f"set it to {remedy}")


def _class_weights(
    wanted: Literal["balanced"] | Mapping[str, float] | None, labels: LabelSet, targets: Targets
) -> torch.Tensor | None:
    names = labels.names
    if wanted is None:
        return None
    if wanted == "balanced":
        return torch.tensor(_balanced(labels, targets), dtype=torch.float32)
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise SeqtrackError(
            f"no class is called {unknown[0]}",
            where="params.yaml: train.class_weights",
            expected="weights of " + ", ".join(names),
        )
    return torch.tensor([wanted.get(name, 1.0) for name in names], dtype=torch.float32)


def _balanced(labels: LabelSet, targets: Targets) -> npt.NDArray[np.float64]:
    weights = np.ones(len(labels.names))
    if labels.problem_type == "multi_label_classification":
        # Rows of a class weigh as much altogether as the others do.
        positives = targets.sum(axis=0, dtype=np.float64)
        divisible = (positives > 0) & (positives < len(targets))
        weights[divisible] = (len(targets) - positives[divisible]) / positives[divisible]
        return weights
    # As scikit-learn's class_weight="balanced": every class that occurs has the same weight altogether.
    counts = np.bincount(targets.astype(np.int64, copy=False), minlength=len(labels.names))
    present = counts > 0
    weights[present] = len(targets) / (present.sum() * counts[present])
    return weights


def _try(own: RowLosses, path: str, labels: LabelSet) -> None:
    """Call a user's loss on made-up rows; nothing that it gets wrong should come to light after the model is loaded."""
    logits, targets = torch.zeros(2, labels.width), torch.arange(2) % labels.width
    if labels.problem_type == "multi_label_classification":
        targets = torch.zeros(2, labels.width)
    elif labels.problem_type == "regression":
        logits, targets = logits.squeeze(1), torch.ones(2)
    logits.requires_grad_()
    require_call(own, path, KEY, logits, targets, form="(logits, labels)")
    losses = own(logits, targets)
    expected = "a float tensor of shape (rows,) that logits have a gradient from, here (2,)"
    if not isinstance(losses, torch.Tensor) or losses.shape != (2,):
        found = f"shape {tuple(losses.shape)}" if isinstance(losses, torch.Tensor) else type(losses).__name__
        raise SeqtrackError(
            f"{path} gives no loss per row", where=f"params.yaml: {KEY}", expected=expected, found=found
        )
    if not losses.requires_grad:
        raise SeqtrackError(
            f"{path} gives losses without a gradient",
            where=f"params.yaml: {KEY}",
            expected=expected,
            fix="compute them with torch alone, without detach, item or numpy",
        )
