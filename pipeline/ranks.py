"""How one training process among several behaves towards the terminal and its launcher.

Promises: only rank 0 writes to the terminal; a process that fails leaves its reason with the launcher, which says the
one that counts; no process outlives `pipeline.launching`. Without that launcher nothing but the first holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from pipeline.errors import LostProcessError, SeqtrackError
from pipeline.paths import failures, rank

PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a process ended.

    Attributes:
        text: a line for the user, or a traceback.
        known: whether it is a line for the user.
        time: when it was left, seconds since the epoch.
    """

    text: str
    known: bool
    time: float


def settle() -> None:
    """Prepare this process for being one of several: to be called once, before any work."""
    if rank() > 0:
        # At the level of files: libraries in C++ warn too.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.close(nowhere)
    folder = failures()
    if folder is not None:
        _die_with_launcher()
        sys.excepthook = functools.partial(_leave_exception, folder)


@contextlib.contextmanager
def told_once() -> Iterator[None]:
    """Leave a user's mistake with the launcher where there is one, since every process finds the same; else let it out.

    Raises:
        SystemExit: the launcher has been told.
    """
    try:
        yield
    except SeqtrackError as error:
        folder = failures()
        if folder is None:
            raise
        _leave(folder, f"error: {error}", known=not isinstance(error, LostProcessError))
        raise SystemExit(1) from None


def read_failures(folder: Path) -> list[Failure]:
    """Return what failing processes have left, the most telling one first."""
    left = [Failure(**json.loads(file.read_text(encoding="utf-8"))) for file in folder.glob("rank-*.json")]
    return sorted(left, key=lambda failure: (not failure.known, failure.time))


def _die_with_launcher() -> None:
    """Let the kernel kill this process when the launcher dies, or a new training would meet the old one's writes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _leave_exception(
    folder: Path, kind: type[BaseException], error: BaseException, trace: TracebackType | None, /
) -> None:
    _leave(folder, "".join(traceback.format_exception(kind, error, trace)).rstrip(), known=False)


def _leave(folder: Path, text: str, *, known: bool) -> None:
    whole = folder / f"rank-{rank()}.json"
    partial = folder / f".{whole.name}"
    partial.write_text(json.dumps(asdict(Failure(text=text, known=known, time=time.time()))), encoding="utf-8")
    partial.rename(whole)  # this process may be killed meanwhile
