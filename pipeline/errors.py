"""The one exception users are meant to see, and the one that says they asked for it.

Promises: every message names the problem and, where known, the place, what was expected, what was found and the
remedy, always in that order, so that all stages complain in one voice. `stages.runner` prints it without a traceback.
"""

from __future__ import annotations

import re


class SeqtrackError(Exception):
    """A mistake in the user's data, parameters or machine, explained.

    Args:
        problem: what is wrong, as a clause without a final full stop.
        where: the place: `file:line`, a column, a params.yaml key.
        expected: what would have been right.
        found: what was there instead.
        fix: what to do about it, as an imperative sentence.
    """

    def __init__(
        self,
        problem: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        found: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.problem = problem
        self.where = where
        self.expected = expected
        self.found = found
        self.fix = fix
        super().__init__(self.render())

    def render(self) -> str:
        """Return the message as one line, parts in a fixed order, absent ones left out."""
        parts = [f"{self.where}: {self.problem}" if self.where else self.problem]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.found:
            parts.append(f"found {self.found}")
        if self.fix:
            parts.append(self.fix)
        # Libraries' messages, quoted in ours, may run over several lines.
        return "; ".join(re.sub(r"\s*[\r\n]+\s*", " ", part).rstrip(".; ") for part in parts) + "."


class LostProcessError(SeqtrackError):
    """Another process of this training is gone; why, that one or its launcher knows."""


class Stopped(KeyboardInterrupt):
    """A signal has ended the work; the message is for the user, and empty on all processes but one.

    Attributes:
        status: the exit status by convention, 128 and the signal's number.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number
