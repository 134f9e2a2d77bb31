"""What `make doctor` finds: a fact, or a fact with what is wrong about it and what to do.

Promises: each finding stands by itself, for a person in a line or two and for a program as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final, Literal

Severity = Literal["ok", "warning", "error"]
MARKS: Final[Mapping[Severity, str]] = {"ok": " ", "warning": "!", "error": "X"}
GIB: Final = 2**30


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what it is, for example `disk`.
        value: what was found.
        severity: `error`: the pipeline, as params.yaml has it, will fail; `warning`: something will be slow, lost or
            missing; `ok`: neither.
        problem: what is wrong; None where nothing is.
        fix: what to do about it; None where nothing is wrong.
    """

    name: str
    value: str
    severity: Severity = "ok"
    problem: str | None = None
    fix: str | None = None

    def lines(self) -> list[str]:
        """Return the finding as text: a line, and another one where something is wrong."""
        told = [f"{MARKS[self.severity]} {self.name:<18} {self.value}"]
        if self.problem is not None:
            told.append(f"  {'':<18} {self.severity}: {self.problem}; {self.fix}")
        return told

    def to_json(self) -> dict[str, str | None]:
        """Return the finding as JSON."""
        return asdict(self)


def fact(name: str, value: str) -> Finding:
    """Return a finding with which nothing is wrong."""
    return Finding(name=name, value=value)


def warning(name: str, value: str, problem: str, fix: str) -> Finding:
    """Return a finding that the pipeline survives."""
    return Finding(name=name, value=value, severity="warning", problem=problem, fix=fix)


def error(name: str, value: str, problem: str, fix: str) -> Finding:
    """Return a finding that makes a stage fail."""
    return Finding(name=name, value=value, severity="error", problem=problem, fix=fix)


def gib(count: float) -> str:
    """Return a number of bytes in words."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.0f} MiB"
