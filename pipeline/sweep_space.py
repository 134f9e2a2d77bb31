"""What a sweep searches: keys of params.yaml, each with a range or a list of values.

Promises: a misspelt key or a value that params.yaml would refuse is told before anything runs; a drawn value is short
(four significant digits), so that it reads well wherever it is shown, and within its bounds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import SeqtrackError
from pipeline.params import Range, Sweep
from pipeline.presets import dotted, flag, with_keys
from pipeline.suggestions import nearest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

OWN: Final = ("sweep", "tracking")  # sections that no training depends on
Settings = dict[str, Any]
"""Values by key of params.yaml."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A key and what it may be: `choices`, or numbers from `low` to `high`, both included.

    Attributes:
        key: dotted.
        choices: empty for a range.
        low: of a range; an int where only ints fit.
        high: of a range.
        log: draw from logarithms.
        step: distance of a range's values, None for any in between.
    """

    key: str
    choices: tuple[Any, ...] = ()
    low: int | float = 0
    high: int | float = 0
    log: bool = False
    step: int | float | None = None

    @property
    def whole(self) -> bool:
        """Whether a range has integers alone."""
        return isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step, int | None)

    def distribution(self) -> BaseDistribution:
        """Return Optuna's word for it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self._categories())
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(float(self.low), float(self.high), log=self.log, step=self.step)

    def value(self, drawn: Any) -> Any:
        """Return the value for params.yaml of what Optuna drew."""
        if self.choices:
            return self.choices[self._categories().index(drawn)]
        if self.whole:
            return int(drawn)
        return min(max(float(f"{drawn:.4g}"), self.low), self.high)

    def points(self) -> list[Any]:
        """Return all values as Optuna would draw them, for a grid.

        Raises:
            SeqtrackError: there are endlessly many.
        """
        if self.choices:
            return list(self._categories())
        step = self.step or (1 if self.whole else None)
        if step is None or self.log:
            raise SeqtrackError(
                "a range without a step has no grid",
                where=f"params.yaml: sweep.space: {self.key}",
                fix="list its values, give a step, or set sweep.sampler to tpe",
            )
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return [self.low + index * step for index in range(count)]

    def _categories(self) -> list[Any]:
        """Return the choices as Optuna can store them: those that hold others as they are written behind -S."""
        plain = all(choice is None or isinstance(choice, bool | int | float | str) for choice in self.choices)
        return list(self.choices) if plain else [flag(choice) for choice in self.choices]

    def __str__(self) -> str:
        if self.choices:
            return ", ".join(map(flag, self.choices))
        notes = [note for note in ("log" if self.log else "", f"step {self.step:g}" if self.step else "") if note]
        return f"{self.low:g} to {self.high:g}" + (f" ({', '.join(notes)})" if notes else "")


def read_space(file: Path) -> Sweep:
    """Return a section with the space of a YAML file, which holds what would stand under `sweep.space`.

    Raises:
        SeqtrackError: it is missing, not YAML, or no such mapping.
    """
    try:
        found = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SeqtrackError("file not found", where=str(file)) from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise SeqtrackError(f"not valid YAML ({error})", where=str(file)) from error
    form = "keys of params.yaml, each with a list or with low and high"
    if not isinstance(found, dict) or not all(isinstance(value, list | dict) for value in found.values()):
        raise SeqtrackError("no space for a sweep", where=str(file), expected=form)
    try:
        return Sweep(space=found)
    except ValueError as error:  # pydantic's
        raise SeqtrackError(f"no space for a sweep ({error})", where=str(file), expected=form) from error


def axes_of(
    space: Mapping[str, Range | Sequence[Any]], text: str, where: str = "params.yaml: sweep.space"
) -> list[Axis]:
    """Check a space against params.yaml's text, edges and choices one by one, and return its axes.

    Raises:
        SeqtrackError: it is empty, has an unknown key, or a value that params.yaml cannot have.
    """
    if not space:
        raise SeqtrackError("nothing to search", where=where, fix="name keys there, see docs/sweeps.md")
    known = dotted(text)
    searchable = [key for key in known if key.partition(".")[0] not in OWN]
    found = []
    for key, values in space.items():
        place = f"{where}: {key}"
        if key not in searchable:
            inner = [name for name in searchable if name.startswith(f"{key}.")]
            near = inner[0] if inner else nearest(key, searchable, cutoff=0.4)
            what = "a section" if inner else "what a sweep cannot change" if key in known else "unknown key"
            raise SeqtrackError(what, where=place, fix=f"did you mean {near}?" if near else None)
        if isinstance(values, Range):
            axis = Axis(key=key, **values.model_dump())
            if axis.whole and axis.step is None and _takes_fractions(axis, text):
                axis = Axis(key=key, **values.model_dump() | {"low": float(axis.low), "high": float(axis.high)})
            edges: tuple[Any, ...] = (axis.low, axis.high)
        else:
            axis = Axis(key=key, choices=tuple(values))
            edges = axis.choices
            if len({flag(choice) for choice in edges}) < len(edges):
                raise SeqtrackError("a value twice", where=place, found=str(axis))
        for edge in edges:
            _check(text, {key: edge}, place)
        found.append(axis)
    return found


def grid(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """Yield every combination as Optuna would draw it, the last axis fastest.

    Raises:
        SeqtrackError: an axis has endlessly many values.
    """
    points = [axis.points() for axis in axes]
    return (
        {axis.key: value for axis, value in zip(axes, values, strict=True)} for values in itertools.product(*points)
    )


def _takes_fractions(axis: Axis, text: str) -> bool:
    """Return whether a key whose bounds were written as integers takes other numbers, too."""
    try:
        _check(text, {axis.key: axis.low + (axis.high - axis.low) * 0.3712}, "")
    except SeqtrackError:
        return False
    return True


def _check(text: str, settings: Settings, place: str) -> None:
    try:
        with_keys(text, settings)
    except SeqtrackError as error:
        raise SeqtrackError(
            error.problem, where=place, expected=error.expected, found=error.found, fix=error.fix
        ) from None
