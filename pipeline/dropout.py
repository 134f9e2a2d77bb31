"""Dropout (Srivastava et al., 2014, JMLR 15) whose random numbers cost less than the matrix products they go with.

Promises: on a CPU, elements are dropped independently with the probability asked for, to within 1/131072, and what
is left is scaled by the exact reciprocal of the share kept, so that expectations stay; masks are a function of
torch's CPU generator, so that what reseeds or restores that (resuming, gradient checkpointing) repeats them. On other
devices, and where nothing is dropped, PyTorch's own runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn import functional

_TORCH_DROPOUT = functional.dropout
LEVELS = 1 << 16  # an element takes 16 random bits


def cheap_dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """Do what `torch.nn.functional.dropout` does, of which these are the arguments, with other random numbers.

    PyTorch draws a 64-bit number per element from one Mersenne Twister, which takes ten times as long.

    Args:
        input: any shape, floating point.
        p: the probability of an element to become 0, rounded to a multiple of 1/65536.
        training: without it the input is returned.
        inplace: whether the input may be overwritten; it never is.
    """
    dropped = round(p * LEVELS)
    if not training or input.device.type != "cpu" or not 0 < dropped < LEVELS:
        return _TORCH_DROPOUT(input, p, training, inplace)
    # One draw from torch's generator seeds a stream of its own per call: fast, and as repeatable as that generator.
    seed = int(torch.empty((), dtype=torch.int64).random_())
    words = np.random.SFC64(seed).random_raw(-(-input.numel() // 4))
    noise = torch.from_numpy(words.view(np.int16)[: input.numel()]).view(input.shape)
    kept = torch.empty_like(input, memory_format=torch.contiguous_format)
    torch.ge(noise, dropped - LEVELS // 2, out=kept)
    return input * kept.mul_(LEVELS / (LEVELS - dropped))


@contextmanager
def dropout_made_cheap() -> Iterator[None]:
    """While this is entered, every dropout of any model is `cheap_dropout`, by layers and by functions alike.

    PyTorch's function is replaced, for this process. A mode (`torch.overrides`) would not reach into backward passes,
    where gradient checkpointing computes forward again, and layers of another class not what attention calls itself.
    """
    functional.dropout = cheap_dropout
    try:
        yield
    finally:
        functional.dropout = _TORCH_DROPOUT
