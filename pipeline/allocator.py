"""Memory that a training step frees stays with the process, for the next step, and large pieces lie in large pages.

Promises: nothing but speed and memory change. With glibc alone, whose default is to hand large pieces back to the
system, which then has to fill them with zeros anew: up to a fifth of a step on a CPU. Large pages need Linux, which
gives them on request: PyTorch aligns tensors from 2 MiB on to pages and asks, which spares the processor look-ups. It
was also seen to keep the heap in one piece, where memory grew with each of the first hundred steps without.
"""

from __future__ import annotations

import ctypes

from pipeline.paths import ask_for_large_pages

# From glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Have this process's allocators keep what is freed, and use large pages; to be called before PyTorch is loaded.

    Does nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    ask_for_large_pages()
    mallopt(_MMAP_MAX, 0)  # large pieces from the heap too, instead of a mapping of their own each
    mallopt(_TRIM_THRESHOLD, _LARGEST)
    mallopt(_TOP_PAD, 64 * 2**20)  # grow in large steps
