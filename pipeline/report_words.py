"""Numbers, names and texts as a report's page writes them.

Promises: what is cut says so, and by how much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.outputs import Json
from pipeline.report_blocks import Cell

NAMED = 8  # classes of a row that are named


def count(number: float) -> str:
    """Write a whole number: 12,345."""
    return f"{number:,.0f}"


def score(number: float) -> str:
    """Write a score: four decimals, or as many figures where it is far from 1."""
    if not math.isfinite(number):
        return "undefined"
    return f"{number:.4f}" if abs(number) < 100 else f"{number:.6g}"


def with_interval(scores: Json, name: str) -> str:
    """Write a score of all_results.json with its interval."""
    interval = scores["intervals"].get(name)
    value = score(scores["metrics"][name])
    return value if interval is None else f"{value} ({score(interval[0])} to {score(interval[1])})"


def share(part: float) -> str:
    """Write a share: 12.3%."""
    return f"{part:.1%}"


def clipped(text: str, most: int) -> str:
    """Return a text, or its beginning and how much is left out."""
    return text if len(text) <= most else f"{text[:most]}… [{len(text) - most:,} more characters]"


def size(bytes_: float) -> str:
    """Write a size in bytes."""
    for unit in ("bytes", "KiB", "MiB"):
        if bytes_ < 1024:
            return f"{bytes_:.0f} {unit}" if unit == "bytes" else f"{bytes_:.1f} {unit}"
        bytes_ /= 1024
    return f"{bytes_:.1f} GiB"


def duration(seconds: float) -> str:
    """Write seconds: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def label(value: Json) -> Cell:
    """Return a row's label, or what was predicted: a class, classes, or a number."""
    if isinstance(value, list):
        more = f" and {len(value) - NAMED} more" if len(value) > NAMED else ""
        return Cell(text=", ".join(clipped(name, 60) for name in value[:NAMED]) + more or "none", user=bool(value))
    if isinstance(value, float):
        return Cell(text=f"{value:.4g}")
    return Cell(text="none") if value is None else Cell(text=clipped(str(value), 120), user=True)


def named(name: str, most: int = 60) -> Cell:
    """Return the user's name for something."""
    return Cell(text=clipped(name, most), user=True)


def plain(*texts: str) -> list[Cell]:
    """Return texts of ours as cells."""
    return [Cell(text=text) for text in texts]


def where(row: Json) -> str:
    """Return the place of a row in the user's files."""
    return f"{row['source']}:{row['line']}"


def listed(names: Sequence[str], most: int = NAMED) -> str:
    """Join names, the first few of many."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
