"""A lineage shown: a tree in the terminal, and the first broken link in one line.

Promises: piped output is plain lines, never wrapped; a link that cannot be told is marked so, and breaks nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rich.text import Text

from pipeline.console import console
from pipeline.errors import SeqtrackError
from pipeline.lineage import Link, State

STYLES: Final[dict[State, str]] = {"ok": "green", "changed": "bold red", "missing": "bold red", "unknown": "yellow"}


def show(lineage: Link) -> None:
    """Print a lineage as a tree, what was made later above what it was made from."""
    out = console()
    for line in _lines(lineage, "", ""):
        out.print(line, soft_wrap=True, highlight=False)


def require_whole(lineage: Link) -> None:
    """Raise the first broken link as what the user sees.

    Raises:
        SeqtrackError: a link is changed or missing.
    """
    if (broken := lineage.broken) is not None:
        others = sum(link.state in ("changed", "missing") for link in lineage.all()) - 1
        more = f" ({others} more after it)" if others else ""
        raise SeqtrackError(
            f"{broken.state}: {broken.told}{more}", where=f"first broken link: {broken.name}", fix=broken.fix
        )


def _lines(link: Link, first: str, others: str) -> Iterator[Text]:
    """Yield the lines of a link and those behind it, under these pieces of the tree's trunk."""
    # The rich library's own tree wraps or cuts long lines, and digests are there to be copied.
    yield Text.assemble(first, (link.state, STYLES[link.state]), " ", (link.name, "bold"), f": {link.told}")
    for place, behind in enumerate(link.behind):
        last = place == len(link.behind) - 1
        yield from _lines(behind, others + ("└── " if last else "├── "), others + ("    " if last else "│   "))
