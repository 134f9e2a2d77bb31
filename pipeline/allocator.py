"""Memory that a training step frees stays with the process, for the next step.

Promises: nothing but speed changes, and only with glibc, whose default is to hand large pieces back to the system,
which then has to fill them with zeros anew: up to a fifth of a step on a CPU.
"""

from __future__ import annotations

import ctypes

# From glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Have this process's allocator keep what is freed; does nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_MMAP_MAX, 0)  # large pieces from the heap too, instead of a mapping of their own each
    mallopt(_TRIM_THRESHOLD, _LARGEST)
    mallopt(_TOP_PAD, 64 * 2**20)  # grow in large steps
