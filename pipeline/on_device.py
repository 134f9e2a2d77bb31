"""A batch from the host through a model on a device, and its logits back, without a wait in between.

Promises: while the device computes, the host goes on to the next batch; logits are, to the bit, those that the model
gives when it is called.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

# transformers leaves out a mask that hides nothing, and to know it fetches that from the device in every forward pass.
SKIPS: Final = ("allow_is_causal_skip", "allow_is_bidirectional_skip")
_padded: ContextVar[bool | None] = ContextVar("padded", default=None)


def to_device(batch: Mapping[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Copy a batch to a device; to a GPU without waiting for what it computes at the time."""
    if device.type != "cuda":
        return {name: tensor.to(device) for name, tensor in batch.items()}
    return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in batch.items()}


def logits_of(model: Callable[..., Any], batch: Mapping[str, torch.Tensor], device: torch.device) -> torch.Tensor:
    """Begin to compute a batch.

    Args:
        model: a sequence classifier on that device, perhaps in accelerate's wrapping.
        batch: its inputs, on the CPU.
        device: where to.

    Returns:
        On the device, [rows, classes], of the model's dtype; the device may still be at it.
    """
    logits: torch.Tensor
    if device.type == "cpu":
        logits = model(**batch).logits
        return logits
    _answer_for_masks()
    mask = batch.get("attention_mask")
    known = _padded.set(None if mask is None else not bool(mask.all()))
    try:
        logits = model(**to_device(batch, device)).logits
    finally:
        _padded.reset(known)
    return logits


def begin_to_fetch(logits: torch.Tensor) -> Callable[[], npt.NDArray[np.float32]]:
    """Begin to copy logits to the host, before the device is given anything else: a later copy would wait for that.

    Returns:
        Waits for the copy; float32, of the logits' shape.
    """
    found = logits.float()
    if found.device.type != "cuda":
        return lambda: found.cpu().numpy()
    copied = found.to("cpu", non_blocking=True)  # into pinned memory
    done = torch.cuda.current_stream(found.device).record_event()

    def wait() -> npt.NDArray[np.float32]:
        done.synchronize()
        numbers: npt.NDArray[np.float32] = copied.numpy()
        return numbers

    return wait


@functools.cache
def _answer_for_masks() -> None:
    """Have transformers' masks go by what `logits_of` knows of its batch; nothing changes outside of it."""
    for name in ("eager", "sdpa"):
        AttentionMaskInterface.register(name, without_asking(ALL_MASK_ATTENTION_FUNCTIONS[name]))


def without_asking(make_mask: Callable[..., torch.Tensor | None]) -> Callable[..., torch.Tensor | None]:
    """Return what makes the same masks as a function of transformers', without a look at the device in `logits_of`."""

    @functools.wraps(make_mask)
    def make(*args: Any, **kwargs: Any) -> torch.Tensor | None:
        padded = None if torch.compiler.is_compiling() else _padded.get()
        if padded is True:
            kwargs |= dict.fromkeys(SKIPS, False)
        elif padded is False:
            kwargs["attention_mask"] = None
        return make_mask(*args, **kwargs)

    return make
