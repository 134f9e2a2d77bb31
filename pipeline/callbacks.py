"""The user's callbacks: classes that hear of a training's progress.

Promises: a class that is no listener is refused before the model is loaded; objects are made when training starts, on
the main process alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

from pipeline.errors import SeqtrackError
from pipeline.parts import load_part, require_call
from pipeline.training import Listener

KEY = "train.custom.callbacks"
METHODS = tuple(name for name in vars(Listener) if name.startswith("on_"))


def own_callbacks(paths: Sequence[str]) -> tuple[Callable[[], Listener], ...]:
    """Load the user's callback classes.

    Raises:
        SeqtrackError: one cannot be imported, is no class, lacks a listener's methods or wants arguments.
    """
    found: list[Callable[[], Listener]] = []
    for path in paths:
        part = load_part(path, KEY)
        missing = [name for name in METHODS if not hasattr(part, name)]
        is_class = inspect.isclass(part)
        if not is_class or missing:
            raise SeqtrackError(
                f"{path} is no callback",
                where=f"params.yaml: {KEY}",
                expected="a class derived from pipeline.training.Listener",
                found="one without " + ", ".join(missing) if is_class else type(part).__name__,
            )
        require_call(part, path, KEY, form="()")
        found.append(part)
    return tuple(found)
