"""The name that somebody probably meant who wrote one that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str | None:
    """Return the known name most like another, or None where none is.

    Args:
        name: what was written.
        known: what could have been.
        cutoff: how alike they must be, from 0 to 1; see `difflib.get_close_matches`.
    """
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return found[0] if found else None


def did_you_mean(name: str, known: Iterable[str], *, cutoff: float = 0.5, shown: Callable[[str], str] = str) -> str:
    """Return ` (did you mean X?)` to end a message with; nothing where no name is near.

    Args:
        name: what was written.
        known: what could have been.
        cutoff: as in `nearest`.
        shown: makes of the name found what is to stand in the message.
    """
    found = nearest(name, known, cutoff=cutoff)
    return f" (did you mean {shown(found)}?)" if found is not None else ""
