"""What a check is: a name, what it found, and what policy makes of that.

Promises: a check looks and counts, and knows nothing of policy; `judge_one` alone turns what it found into pass, warn
or fail. Every result says what was found, where (a handful of examples) and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from pipeline.params import Policy
from pipeline.reading_base import shorten

Status = Literal["pass", "warn", "fail", "off"]
Action = Literal["error", "warn", "drop", "off"]

MOST_EXAMPLES: Final = 5
SNIPPET: Final = 80  # characters of a text that an example shows

NAMES: Final = tuple(field.alias or name for name, field in Policy.model_fields.items())
REJECTING: Final = ("schema", "encoding", "empty_text", "missing_label", "unknown_label")
"""Checks whose rows cannot be kept: they are rejected whatever policy says."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A place in the user's files, and what stands there."""

    source: str
    line: int
    snippet: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check saw.

    Attributes:
        count: how many things are wrong: 0 when all is well. The message says of what.
        message: what was found, or looked at in vain, as a clause without a final full stop.
        fix: what to do about it, an imperative sentence; "" when all is well.
        examples: at most MOST_EXAMPLES of them, in the order of the files.
    """

    count: int
    message: str
    fix: str = ""
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """A finding judged; the fields of Finding, and how it was judged."""

    name: str
    status: Status
    policy: Action
    count: int
    message: str
    fix: str
    examples: tuple[Example, ...]


def judge(findings: Mapping[str, Finding], policy: Policy) -> tuple[CheckResult, ...]:
    """Return a result for every check, in the order of `NAMES`.

    Args:
        findings: by check name; a check without one could not be asked of these data, or is switched off.
        policy: what each check does when it finds something.
    """
    actions: dict[str, Action] = policy.model_dump(by_alias=True)
    return tuple(judge_one(name, findings.get(name), actions[name]) for name in NAMES)


def judge_one(name: str, finding: Finding | None, action: Action) -> CheckResult:
    """Return the result of one check.

    Args:
        name: what it is called in reports.
        finding: what it saw; None: it could not be asked of these data.
        action: what is to be done when it finds something.
    """
    status: Status
    if action == "off" or finding is None:
        status = "off"
        message = "switched off" if action == "off" else "does not apply to these data, or was not reached"
        finding = Finding(count=0, message=message)
    elif finding.count == 0:
        status = "pass"
    else:
        status = "fail" if action == "error" else "warn"
    return CheckResult(
        name=name,
        status=status,
        policy=action,
        count=finding.count,
        message=finding.message,
        fix="" if status in {"pass", "off"} else finding.fix,
        examples=finding.examples,
    )


def snippet(text: str, at: int = 0) -> str:
    """Return the part of a text around a place in it, on one line, what is invisible written as \\u escapes."""
    start = max(0, at - SNIPPET // 2)
    part = ("…" if start else "") + shorten(text[start:], SNIPPET)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in part)
