"""Sides measured in turn, each run in a process of its own: medians and spread, growth, tables.

Promises: in every round each side runs once, in an order that turns round from one round to the next, so that what a
machine does over the hours meets all sides alike; a program that fails ends the benchmark with its last lines.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LAST_LINES = 15

Measured = TypeVar("Measured")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The median of some measurements with the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median=statistics.median(values), low=min(values), high=max(values))

    def text(self, form: str = ",.1f") -> str:
        """Return `median (low to high)`, or the number alone where there is but one."""
        if self.low == self.high:
            return format(self.median, form)
        return f"{self.median:{form}} ({self.low:{form}} to {self.high:{form}})"


@dataclass(frozen=True, kw_only=True)
class Process:
    """What a program took.

    Attributes:
        seconds: of the wall clock, from its start to its end.
        cpu_seconds: of processors, children included.
        peak_mib: memory of the largest process among it and its children; never less than that of the benchmark itself.
        output: what it printed.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float
    output: str


def alternate(sides: Mapping[str, Callable[[int], Measured]], rounds: int) -> dict[str, list[Measured]]:
    """Return what each side measured, round after round; a side is told the number of the round."""
    found: dict[str, list[Measured]] = {name: [] for name in sides}
    for turn in range(rounds):
        names = list(sides)
        for name in names[::-1] if turn % 2 else names:
            found[name].append(sides[name](turn))
    return found


def run_program(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> Process:
    """Run a program in a folder; stages and benchmarks are importable there."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.perf_counter()
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        for stream in (out, err):
            stream.seek(0)
        output, errors = out.read().decode(), err.read().decode()
    if process.returncode:
        last = "\n".join((output + errors).splitlines()[-LAST_LINES:])
        sys.exit(f"{' '.join(command)}\nended with exit status {process.returncode}:\n{last}")
    return Process(
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_mib=usage.ru_maxrss / 1024,
        output=output,
    )


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the slope of log cost against log size, by least squares: 1 is linear, 2 quadratic."""
    slope, _ = statistics.linear_regression([math.log(size) for size in sizes], [math.log(cost) for cost in costs])
    return round(slope, 3)


def tell(text: str) -> None:
    """Say how far a benchmark is: on standard error, since standard output is for its tables."""
    print(text, file=sys.stderr, flush=True)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table: words in the first column, numbers in the others."""
    print(f"| {' | '.join(header)} |")
    print(f"| --- |{' ---: |' * (len(header) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
