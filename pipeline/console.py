"""Terminal output in one voice: tables and lines.

Promises: piped output is plain lines without control codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """Return a console on standard output; 100 columns wide when it is not a terminal."""
    probe = Console()
    return probe if probe.is_terminal else Console(width=100)


def say(line: str) -> None:
    """Print one line as it is: no markup, no highlighting, no wrapping."""
    console().print(line, markup=False, highlight=False, soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> None:
    """Print a table; the first `left` columns are left-aligned, the others to the right."""
    grid = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        grid.add_column(column, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    console().print(grid, markup=False)


def facts(title: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Print a title and aligned `name  value` lines under it; long values are not wrapped, so they can be copied."""
    if title:
        say(title)
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        say(f"  {name:<{width}}  {value}")
