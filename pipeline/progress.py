"""How far long work is: a bar on a terminal, now and then a plain line elsewhere.

Promises: both tell what is done, the rate, the time left and the caller's note; piped output has no control codes, and
no line for work that is over in half a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from pipeline.console import console, say

LINE_SECONDS = 30.0
"""Between plain lines: enough to see that work goes on, and little in a log of a night."""


class Bar(Protocol):
    """What work calls as it gets on."""

    def advance(self, done: int, note: str | None = None) -> None:
        """`done` more units are finished; a note, such as the loss, stands until the next one."""


@contextmanager
def progress(what: str, total: int, unit: str, *, done: int = 0, quiet: bool = False) -> Iterator[Bar]:
    """Show how far work is, until the block ends.

    Args:
        what: names the work, first on the line.
        total: units in all, those done before included.
        unit: what is counted, in the plural.
        done: units that were done before, by a training that is resumed, say; they are left out of the rate.
        quiet: show nothing; for processes beside the main one.
    """
    out = console()
    if quiet:
        yield _Silent()
    elif out.is_terminal:
        with _display(out, unit) as display:
            yield _Drawn(display, display.add_task(what, total=total, completed=done, note=""))
    else:
        yield Lines(what, total, unit, done=done)


class _Silent:
    def advance(self, done: int, note: str | None = None) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class _Drawn:
    display: Progress
    task: TaskID

    def advance(self, done: int, note: str | None = None) -> None:
        if note is not None:
            self.display.update(self.task, note=note)
        self.display.advance(self.task, done)


class Lines:
    """Plain lines, `LINE_SECONDS` apart at least, told by a clock in seconds."""

    def __init__(
        self,
        what: str,
        total: int,
        unit: str,
        *,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[str], None] = say,
    ) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.before = self.done = done
        self.note = ""
        self.clock, self.tell = clock, tell
        self.started = self.told = clock()

    def advance(self, done: int, note: str | None = None) -> None:
        """Count; print a line when one is due."""
        self.done += done
        self.note = self.note if note is None else note
        now = self.clock()
        if now - self.told < LINE_SECONDS or self.done >= self.total:  # the end is told by whoever does the work
            return
        self.told = now
        rate = (self.done - self.before) / (now - self.started)
        parts = [f"{self.done:,} of {self.total:,} {self.unit}", f"{rate_in_words(rate)} {self.unit}/s"]
        if rate:
            parts.append(f"{timedelta(seconds=round((self.total - self.done) / rate))} left")
        self.tell(f"{self.what}: {', '.join([*parts, self.note] if self.note else parts)}")


def rate_in_words(rate: float) -> str:
    """Return a rate with two figures at least: 0.042, 4.2, 42, 4,200."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


class _Rate(ProgressColumn):
    """Units a second, of the last few seconds."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{rate_in_words(task.speed)} {self.unit}/s" if task.speed else "")


def _display(out: Console, unit: str) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=out,
    )
