"""What is minimised.

Promises: a loss gives one number per row, and a step minimises their weighted mean over the global batch, so the step
is the same however the batch is divided into processes and micro-batches. With class weights and label smoothing that
mean is `torch.nn.functional.cross_entropy(..., weight=, label_smoothing=)` over the whole batch: the sum of the
weighted losses over the sum of the rows' weights.
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
from pipeline.params import Train
from pipeline.parts import instance, load_part, require_call

RowLosses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From logits, float [rows, classes], and class ids, int64 [rows], to losses, float [rows]."""
KEY = "train.custom.loss"
MOST_WEIGHTS = 6  # of classes that are shown


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A loss per row, and how much each row counts.

    Attributes:
        own: the user's loss; None is cross entropy.
        class_weights: float32 [classes], the weight of a row by its class; None counts all rows alike.
        label_smoothing: share of the target that is spread evenly over all classes; cross entropy only.
    """

    own: RowLosses | None = None
    class_weights: torch.Tensor | None = None
    label_smoothing: float = 0.0

    def summed(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the sum of the weighted losses of some rows, a scalar of the logits' dtype.

        Args:
            logits: float [rows, classes].
            labels: class ids, int64 [rows].
        """
        weights = None if self.class_weights is None else self.class_weights.to(logits.dtype)
        if self.own is None:
            return torch.nn.functional.cross_entropy(
                logits, labels, weight=weights, label_smoothing=self.label_smoothing, reduction="sum"
            )
        losses = self.own(logits, labels)
        return losses.sum() if weights is None else (losses * weights[labels]).sum()

    def total_weight(self, labels: npt.NDArray[np.int64]) -> float:
        """Return what the sum over these rows is divided by to give their mean: their number, or their weights' sum."""
        if self.class_weights is None:
            return float(len(labels))
        return float(self.class_weights.cpu().double().numpy()[labels].sum())

    def in_words(self, label_names: tuple[str, ...]) -> str:
        """Return what is minimised, for people to read."""
        words = ["cross entropy" if self.own is None else type(self.own).__name__]
        if isinstance(self.own, FunctionType):
            words = [self.own.__name__]
        if self.label_smoothing:
            words.append(f"label smoothing {self.label_smoothing:g}")
        if self.class_weights is not None:
            weights = list(zip(label_names, self.class_weights.tolist(), strict=True))
            shown = ", ".join(f"{name} {weight:.3g}" for name, weight in weights[:MOST_WEIGHTS])
            words.append(f"weights {shown}" + (", ..." if len(weights) > MOST_WEIGHTS else ""))
        return ", ".join(words)

    def to(self, device: torch.device) -> Criterion:
        """Return the same with its tensors on a device."""
        own = self.own.to(device) if isinstance(self.own, torch.nn.Module) else self.own
        weights = None if self.class_weights is None else self.class_weights.to(device)
        return replace(self, own=own, class_weights=weights)


def build_criterion(train: Train, label_names: tuple[str, ...], labels: npt.NDArray[np.int64]) -> Criterion:
    """Return the loss of the recipe: cross entropy, or the user's own.

    Args:
        train: the recipe.
        label_names: class names in id order.
        labels: class ids of the train split, int64 [rows], from which balanced weights come.

    Raises:
        SeqtrackError: class_weights names no class, or the user's loss is none.
    """
    weights = _class_weights(train.class_weights, label_names, labels)
    path = train.custom.loss
    if path is None:
        return Criterion(class_weights=weights, label_smoothing=train.label_smoothing_factor)
    own: RowLosses = instance(load_part(path, KEY), path, KEY)
    _try(own, path, len(label_names))
    return Criterion(own=own, class_weights=weights)


def _class_weights(
    wanted: Literal["balanced"] | Mapping[str, float] | None,
    names: tuple[str, ...],
    labels: npt.NDArray[np.int64],
) -> torch.Tensor | None:
    if wanted is None:
        return None
    if wanted == "balanced":
        # As scikit-learn's class_weight="balanced": every class that occurs has the same weight altogether.
        counts = np.bincount(labels, minlength=len(names))
        present = counts > 0
        weights = np.ones(len(names))
        weights[present] = len(labels) / (present.sum() * counts[present])
        return torch.tensor(weights, dtype=torch.float32)
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise SeqtrackError(
            f"no class is called {unknown[0]}",
            where="params.yaml: train.class_weights",
            expected="weights of " + ", ".join(names),
        )
    return torch.tensor([wanted.get(name, 1.0) for name in names], dtype=torch.float32)


def _try(own: RowLosses, path: str, classes: int) -> None:
    """Call a user's loss on made-up rows; nothing that it gets wrong should come to light after the model is loaded."""
    logits = torch.zeros(2, classes, requires_grad=True)
    labels = torch.arange(2) % classes
    require_call(own, path, KEY, logits, labels, form="(logits, labels)")
    losses = own(logits, labels)
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
