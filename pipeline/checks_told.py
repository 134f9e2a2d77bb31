"""How the results of checks reach the user: a table, examples, and the one line that a stage ends with.

Promises: all stages that check tell of it alike, and a check that stops a stage names a place to look at and the
setting that lets it pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.checks import CheckResult
from pipeline.console import say, table
from pipeline.errors import SeqtrackError


def failed(checks: Sequence[CheckResult]) -> tuple[CheckResult, ...]:
    """Return the checks that stop a stage."""
    return tuple(check for check in checks if check.status == "fail")


def show_checks(checks: Sequence[CheckResult]) -> None:
    """Print checks as a table, and the examples of those that fail."""
    table(
        "Checks",
        ("check", "status", "found", "count"),
        [
            (check.name, check.status, check.message, "-" if check.status == "off" else f"{check.count:,}")
            for check in checks
        ],
        left=3,
    )
    for check in failed(checks):
        say(f"{check.name} ({check.count:,}): {check.message}")
        for example in check.examples:
            say(f"  {example.source}:{example.line}: {example.snippet}")
        say(f"  {check.fix}")


def failure(failures: Sequence[CheckResult], where: str, setting: str) -> SeqtrackError:
    """Return what to say of checks that fail, in one line.

    Args:
        failures: at least one.
        where: what was checked.
        setting: what lets the first of them pass, for example `tokenize.truncation: warn`.
    """
    first = failures[0]
    place = f", the first at {first.examples[0].source}:{first.examples[0].line}" if first.examples else ""
    return SeqtrackError(
        ("1 check fails: " if len(failures) == 1 else f"{len(failures)} checks fail: ")
        + ", ".join(f"{check.name} ({check.count:,})" for check in failures),
        where=where,
        found=first.message + place,
        fix=f"{first.fix}; or go on all the same with {setting}",
    )
