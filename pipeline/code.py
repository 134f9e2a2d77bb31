"""Which of our own source files a module runs on.

Promises: found by reading imports (those inside functions too), not by running them, so the answer is the same on every
machine. Used for a run's identity, and by the tests to check the dependencies that dvc.yaml lists.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

PACKAGES = ("pipeline", "stages")
HOME = Path(__file__).resolve().parent.parent


def closure(module: str, home: Path = HOME) -> tuple[Path, ...]:
    """Return the files behind a module: its own and those of all our modules it imports, directly or not, sorted.

    Args:
        module: dotted name, for example `stages.train`.
        home: the folder that holds the packages.

    Raises:
        FileNotFoundError: the module is not one of ours.
    """
    seen: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen[name] = _file(name, home)
        waiting += _imports(seen[name], home)
    return tuple(sorted(seen.values()))


def code_digest(module: str) -> str:
    """Return the hex sha256 over names and contents of `closure(module)`."""
    total = hashlib.sha256()
    for file in closure(module):
        total.update(f"{file.relative_to(HOME).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return total.hexdigest()


def _file(module: str, home: Path) -> Path:
    path = home.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        raise FileNotFoundError(f"no module {module} in {home}")
    return file


def _imports(file: Path, home: Path) -> list[str]:
    """Return our modules that a file names in its import statements, with the packages they lie in."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            # `from pipeline import timings` names a module, `from pipeline.rows import SCHEMA` does not.
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    ours = set()
    for name in names:
        parts = name.split(".")
        if parts[0] not in PACKAGES:
            continue
        for end in range(1, len(parts) + 1):
            candidate = ".".join(parts[:end])
            path = home.joinpath(*parts[:end])
            if path.is_dir() or path.with_suffix(".py").is_file():
                ours.add(candidate)
    return sorted(ours)
