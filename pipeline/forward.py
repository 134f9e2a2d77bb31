"""Rows through a model for its outputs alone: which of them together, and in what precision.

Promises: every row comes once; the rows of a batch are alike in length, so little of it is padding; no batch has more
rows or, padding included, more tokens than allowed, unless it is a single row.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from pipeline.errors import SeqtrackError
from pipeline.params import Precision

# Tokens of a batch. More do not make a device faster, and on a CPU drive each other out of its caches.
TOKENS_PER_THREAD: Final = 1024
TOKENS_ON_ACCELERATOR: Final = 32_768
# Of the largest number compared. Float32's rounding stays a hundred times below, tokens seen or left out lie far above.
TOLERANCE: Final = 1e-4
# How PyTorch calls types of 16 bits where it refuses them.
HALF: Final = re.compile("bfloat16|half", re.IGNORECASE)


def token_budget(device: torch.device, threads: int | None = None) -> int:
    """Return how many tokens a batch should have at most, padding included, for a device to be fastest.

    Args:
        device: where it is computed.
        threads: that compute it, if that is on a CPU; None is those of this process.
    """
    if device.type != "cpu":
        return TOKENS_ON_ACCELERATOR
    return TOKENS_PER_THREAD * (threads or torch.get_num_threads())


def width_step(device: torch.device) -> int:
    """Return what the width of a batch should be a multiple of: tensor cores want 8, a CPU has no use for padding."""
    return 1 if device.type == "cpu" else 8


def longest_first(lengths: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Return the order in which rows are computed, int64 [rows]; rows of one length keep theirs.

    Longest first: a batch too large for the device fails at once, not at the end.
    """
    return np.argsort(-lengths.astype(np.int64), kind="stable").astype(np.int64, copy=False)


def batch_bounds(
    lengths: npt.NDArray[np.integer[Any]], *, max_rows: int, max_tokens: int, multiple_of: int
) -> list[slice]:
    """Divide sorted rows into batches.

    Args:
        lengths: tokens per row, integers [rows], longest first.
        max_rows: of a batch.
        max_tokens: of a batch with its padding; a row that has more makes a batch of its own.
        multiple_of: a batch's width is rounded up to this.

    Returns:
        Where each batch lies in `lengths`, in order.
    """
    bounds = []
    start = 0
    while start < len(lengths):
        width = -(-int(lengths[start]) // multiple_of) * multiple_of
        end = min(len(lengths), start + max(1, min(max_rows, max_tokens // width)))
        bounds.append(slice(start, end))
        start = end
    return bounds


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which a model with float32 weights computes in a precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextlib.contextmanager
def refusal_told(key: str) -> Iterator[None]:
    """Turn a model that cannot compute in 16 bits into a user's mistake; DeBERTa's first version is one.

    Args:
        key: what of params.yaml asks for 16 bits.

    Raises:
        SeqtrackError: PyTorch refuses an operation in this block for the type of its inputs.
    """
    try:
        yield
    except RuntimeError as error:
        if not HALF.search(str(error)):
            raise
        raise SeqtrackError(
            "this model cannot compute in mixed precision",
            where=f"params.yaml: {key}",
            found=str(error).splitlines()[0],
            fix='set it to "no"',
        ) from error


def of_transformers(model: torch.nn.Module) -> bool:
    """Return whether a model's class is transformers' own: code of other hands may do what nobody here knows of."""
    return type(model).__module__.startswith("transformers.")


def store_as_multiplied(model: torch.nn.Module) -> None:
    """Convert the weights that `autocast` multiplies in bfloat16, in place, so that it need not do so in every batch.

    Autocast remembers what it converted only where gradients can be asked for, and inference mode excludes that. Within
    `autocast(device, "bf16")` outputs stay equal to the bit; outside it the model no longer computes. Models with code
    that is not transformers' stay as they are: it may read these weights in another way.

    Args:
        model: with float32 weights, for inference alone.
    """
    if not of_transformers(model):
        return
    plain = [module for module in model.modules() if type(module).forward is torch.nn.Linear.forward]
    others = (module for module in model.modules() if type(module).forward is not torch.nn.Linear.forward)
    shared = {id(weights) for module in others for weights in module.parameters(recurse=False)}
    for module in plain:
        for weights in module.parameters(recurse=False):
            if id(weights) not in shared:
                weights.data = weights.data.bfloat16()


def same_but_for_rounding(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Return whether two ways to compute the same float32 outputs agree; with a NaN they do not."""
    return float((found - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())
