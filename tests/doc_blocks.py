"""The code blocks of the project's pages, and what each is for."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.code import HOME

RUN: Final = ("bash", "python")  # work as they stand in a clone after `dvc repro`, in the order of the page
READ: Final = ("yaml", "json")  # parsed; YAML is a part of params.yaml
SHOWN: Final = ("console", "text")  # commands that need another machine, the hub or hours; output
PROGRAMS: Final = (
    "dvc",
    "git",
    "make",
    "python",
    "python3",
    "pip",
    "mlflow",
    "accelerate",
    "export",
    "cd",
    "curl",
    "$",
)
SERVER: Final = re.compile(r"^(mlflow (ui|server)|make (ui|serve)|python -m stages\.serve|python -m http\.server)\b")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: as seen from the project's folder.
        line: of its opening fence, from 1.
        language: behind the fence; empty where there is none.
        text: what stands between the fences.
    """

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """The commands of a bash block, continued lines in one piece, without lines of comments."""
        joined = self.text.replace("\\\n", " ")
        return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]

    @property
    def file(self) -> Path | None:
        """The file that a Python block is the content of, named in its first line; None for one that is a program."""
        named = re.match(r"# ([\w/]+\.py)\n", self.text)
        return Path(named[1]) if named else None


def give_environment(folder: Path) -> None:
    """Put this interpreter's environment where `make setup` makes one, so that make's targets find it set up."""
    environment = folder / ".venv"
    environment.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        if (found := Path(sys.prefix) / name).exists():
            (environment / name).symlink_to(found)
    (environment / ".installed").touch()


def pages() -> list[Path]:
    """Return all pages that have code for users, as seen from the project's folder."""
    found = [*HOME.glob("*.md"), *(HOME / "docs").rglob("*.md"), HOME / "custom" / "README.md"]
    return sorted(page.relative_to(HOME) for page in found)


def blocks(page: Path) -> list[Block]:
    """Return a page's fenced blocks, in order; a fence that is never closed is an error."""
    return list(_blocks(page, (HOME / page).read_text(encoding="utf-8")))


def _blocks(page: Path, text: str) -> Iterator[Block]:
    start: tuple[int, str] | None = None
    body: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        fence = re.match(r" *```(\w*)", line)
        if fence and start is None:
            start, body = (number, fence[1]), []
        elif fence and start is not None:
            yield Block(page=page, line=start[0], language=start[1], text="\n".join(body) + "\n")
            start = None
        else:
            body.append(line)
    assert start is None, f"{page}:{start}: no end"
