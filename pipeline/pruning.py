"""Checkpoints that no training needs any more.

Promises: only trainings whose last step is done lose theirs, and one that a process is doing is left alone; what is
deleted are files to train on from, never results: models, runs and reports lie elsewhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.checkpoints import LOCK_FILE, CheckpointStore, file_stats, read_state
from pipeline.console import say, table
from pipeline.errors import SeqtrackError
from pipeline.findings import gib


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The checkpoints of one training.

    Attributes:
        folder: where they lie; its name is the run_key.
        step: optimisation steps of the newest one; None without any that can be read.
        finished: whether that is of the training's last step.
        size: of all files, in bytes.
        written: when the newest one was, in seconds since 1970.
    """

    folder: Path
    step: int | None
    finished: bool
    size: int
    written: float

    @property
    def condition(self) -> str:
        """In words: whether something would be lost."""
        if self.step is None:
            return "unreadable" if self.size else "none yet"
        return "finished" if self.finished else "can go on"


def stored(home: Path) -> list[Stored]:
    """Return what lies in the folder of all trainings, the oldest first.

    Nothing is verified: digests of gigabytes would take minutes.
    """
    folders = [folder for folder in home.iterdir() if folder.is_dir()] if home.is_dir() else []
    return sorted(map(_look, folders), key=lambda found: (found.written, found.folder))


def delete_finished(trainings: Iterable[Stored]) -> int:
    """Delete the checkpoints of finished trainings; return the bytes that are free now.

    One that a process is doing is named and left; so is one that went on since it was looked at.

    Raises:
        SeqtrackError: files cannot be deleted.
    """
    freed = 0
    for training in trainings:
        if not training.finished:
            continue
        lock = FileLock(training.folder / LOCK_FILE, timeout=0)
        try:
            with lock:
                if not _look(training.folder).finished:
                    say(f"prune: {training.folder.name} goes on by now, and stays")
                    continue
                for path in training.folder.iterdir():
                    if path.is_dir():
                        shutil.rmtree(path)
                (training.folder / LOCK_FILE).unlink(missing_ok=True)
            with suppress(OSError):  # a training that began meanwhile is at home in it
                training.folder.rmdir()
        except Timeout:
            say(f"prune: a process is at {training.folder.name}, which stays")
            continue
        except OSError as error:
            raise SeqtrackError(
                f"cannot delete checkpoints ({error})", where=str(training.folder), fix="fix permissions"
            ) from error
        freed += training.size
    return freed


def show(trainings: Iterable[Stored]) -> None:
    """Print a table of what lies there."""
    table(
        "checkpoints",
        ("training", "", "newest", "step", "size"),
        (
            (
                training.folder.name[:12],
                training.condition,
                f"{datetime.fromtimestamp(training.written):%Y-%m-%d %H:%M}",
                "" if training.step is None else f"{training.step:,}",
                gib(training.size),
            )
            for training in trainings
        ),
        left=2,
    )


def _look(folder: Path) -> Stored:
    files = file_stats(folder)
    newest = next(CheckpointStore(folder, keep=1).newest_first(), None)
    step, finished = None, False
    if newest is not None:
        try:
            state = read_state(newest)
        except (SeqtrackError, KeyError, TypeError):  # damaged, or of another version of this project
            pass
        else:
            step, finished = state.step, state.finished
    return Stored(
        folder=folder,
        step=step,
        finished=finished,
        size=sum(file.st_size for file in files),
        written=max((file.st_mtime for file in files), default=folder.stat().st_mtime),
    )
