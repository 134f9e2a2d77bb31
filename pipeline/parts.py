"""The user's own parts, named in params.yaml by import path: a model class, a loss, a metric, an optimiser, callbacks.

Promises: what cannot be imported or called is said in one line, before a model is loaded; the sources of a part (or the
version of the package it comes from) have an identity, so another version of it is another training.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.errors import SeqtrackError
from pipeline.params import Custom
from pipeline.suggestions import did_you_mean

PLACES = ("purelib", "platlib", "stdlib", "platstdlib")


def load_part(path: str, key: str) -> Any:
    """Import what a path names.

    Args:
        path: `module:name`, as params.py has checked.
        key: the params.yaml key that names it.

    Raises:
        SeqtrackError: there is no such module or name, the module's own imports fail, or the part is not callable.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError, NameError, AttributeError) as error:
        raise SeqtrackError(
            f"cannot import {module_name} ({type(error).__name__}: {error})",
            where=_where(key),
            found=path,
            fix="your own files belong in the folder custom/; a package must be installed in this environment",
        ) from error
    if not hasattr(module, name):
        raise SeqtrackError(
            f"{module_name} has no {name}{did_you_mean(name, dir(module))}",
            where=_where(key),
            found=path,
        )
    part = getattr(module, name)
    if not callable(part):
        raise SeqtrackError(
            f"{path} is not callable", where=_where(key), expected="a function or a class", found=type(part).__name__
        )
    return part


def instance(part: Any, path: str, key: str) -> Any:
    """Return a function as it is, and an object of a class, which is made without arguments.

    Raises:
        SeqtrackError: the class wants arguments, or its objects cannot be called.
    """
    if not inspect.isclass(part):
        return part
    require_call(part, path, key, form="()")
    return part()


def require_call(part: Callable[..., Any], path: str, key: str, *args: Any, form: str, **kwargs: Any) -> None:
    """Check that a part can be called with these arguments.

    Args:
        part: what will be called.
        path: what params.yaml calls it.
        key: the params.yaml key that names it.
        *args: stand-ins.
        form: the call in words, such as `(logits, labels)`.
        **kwargs: stand-ins.

    Raises:
        SeqtrackError: its parameters are others.
    """
    try:
        signature = inspect.signature(part)
    except (ValueError, TypeError):  # some functions written in C do not tell
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise SeqtrackError(
            f"{path} has the wrong parameters ({error})",
            where=_where(key),
            expected=f"a call with {form}",
            found=str(signature),
        ) from error


def part_digests(custom: Custom) -> dict[str, str]:
    """Return by import path what decides the behaviour of each part.

    For a module of an installed package the package's name and version; else the sha256 over all Python files of the
    top-level folder it lies in (`custom/`), since one file may import another.

    Raises:
        SeqtrackError: there is no such top-level module.
    """
    named = [(key, path) for key in ("model", "loss", "optimizer") if (path := getattr(custom, key)) is not None]
    named += [("metrics", path) for path in custom.metrics] + [("callbacks", path) for path in custom.callbacks]
    return {path: _digest(path, f"train.custom.{key}") for key, path in named}


def _digest(path: str, key: str) -> str:
    top = path.partition(":")[0].partition(".")[0]
    spec = importlib.util.find_spec(top)  # locates a top-level module without running any of its code
    if spec is None:
        raise SeqtrackError(
            f"there is no module {top}",
            where=_where(key),
            found=path,
            fix="your own files belong in the folder custom/; a package must be installed in this environment",
        )
    if spec.submodule_search_locations:
        home = Path(next(iter(spec.submodule_search_locations))).resolve()
        files = sorted(home.rglob("*.py"))
    elif spec.has_location and spec.origin is not None:
        home = Path(spec.origin).resolve().parent
        files = [Path(spec.origin).resolve()]
    else:
        return "built into Python"
    if any(home.is_relative_to(Path(sysconfig.get_path(place)).resolve()) for place in PLACES):
        packages = sorted(set(importlib.metadata.packages_distributions().get(top, [])))
        return " ".join(f"{name}=={importlib.metadata.version(name)}" for name in packages) or "standard library"
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(home).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return total.hexdigest()


def _where(key: str) -> str:
    return f"params.yaml: {key}"
