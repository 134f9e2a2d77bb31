"""From logits to probabilities and losses of classes, in float64.

Promises: no overflow for any finite logits; needs numpy alone, so that predict does not depend on scikit-learn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.floating[Any]]


def log_probabilities(logits: Logits) -> npt.NDArray[np.float64]:
    """Return the log softmax, float64 [rows, classes].

    Args:
        logits: [rows, classes], finite.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def probabilities(logits: Logits) -> npt.NDArray[np.float64]:
    """Return the softmax, float64 [rows, classes]; rows sum to 1.

    Args:
        logits: [rows, classes], finite.
    """
    result: npt.NDArray[np.float64] = np.exp(log_probabilities(logits))
    return result


def sigmoid(logits: Logits) -> npt.NDArray[np.float64]:
    """Return the logistic function of each logit, float64 of the same shape.

    Args:
        logits: finite.
    """
    exact = logits.astype(np.float64)
    small = np.exp(-np.abs(exact))  # at most 1, so nothing overflows
    result: npt.NDArray[np.float64] = np.where(exact >= 0, 1 / (1 + small), small / (1 + small))
    return result


def binary_row_losses(logits: Logits, targets: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Return each row's binary cross entropy in nats, averaged over the classes, float64 [rows].

    Args:
        logits: [rows, classes], finite.
        targets: 1 where a row is of a class, else 0, [rows, classes].
    """
    exact = logits.astype(np.float64)
    losses = np.maximum(exact, 0) - exact * targets + np.log1p(np.exp(-np.abs(exact)))
    result: npt.NDArray[np.float64] = losses.mean(axis=1)
    return result


def row_losses(logits: Logits, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return each row's cross entropy in nats, float64 [rows].

    Args:
        logits: [rows, classes], finite.
        labels: class ids, [rows].
    """
    result: npt.NDArray[np.float64] = -log_probabilities(logits)[np.arange(len(labels)), labels]
    return result
