"""A stand-in for training that test_launching.py starts in two processes: each behaves as it is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

from pipeline.errors import SeqtrackError
from pipeline.ranks import settle, told_once


def behave(how: str, rank: int) -> None:
    print(f"rank {rank} prints", flush=True)
    subprocess.run(["sh", "-c", f"echo rank {rank} warns at the level of files >&2"], check=True)
    warnings.warn(f"rank {rank} warns", stacklevel=1)
    if how == "killed" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "mistake" or (how == "mistake_of_one" and rank == 1):
        raise SeqtrackError("no rows", where="data", fix="add some")
    if how == "bug" and rank == 1:
        raise ZeroDivisionError("the bug")
    if how == "mute" and rank == 1:
        os._exit(7)
    if how == "well":
        return
    Path(f"waiting-{rank}").touch()
    time.sleep(300)  # as in a collective operation that the other one will never join


if __name__ == "__main__":
    settle()
    Path(f"pid-{os.getpid()}").touch()
    with told_once():
        behave(sys.argv[1], int(os.environ.get("RANK", "0")))
