"""The closed, ordered label set that every later stage agrees on.

Promises: class order is natural ("2" before "10") or the user's own, never that of the files; ids are positions in it.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal, get_args

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import SeqtrackError
from pipeline.outputs import canonical_json, read_json, write_json

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]

# No exponent: Decimal would take one, and a name such as 1e999999 must not cost memory or time.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)")
_LIST = re.compile(r"\s*\[.*\]\s*", re.DOTALL)
_LONGEST_LIST = 10_000  # characters
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """What a model predicts.

    Attributes:
        problem_type: transformers' name for the task.
        names: class names in id order; none in regression.
    """

    problem_type: ProblemType
    names: tuple[str, ...]

    @property
    def width(self) -> int:
        """How many outputs a model has: one per class, one in regression."""
        return 1 if self.problem_type == "regression" else len(self.names)

    def ids(self, labels: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Return int64 class ids, null where the label is null.

        Args:
            labels: strings, shape (rows,).

        Raises:
            SeqtrackError: a label is not in the set.
        """
        ids = pc.index_in(labels, value_set=pa.array(self.names, pa.string()))
        if isinstance(ids, pa.ChunkedArray):
            ids = ids.combine_chunks()
        strangers = pc.and_(pc.is_null(ids), pc.is_valid(labels))
        if pc.any(strangers).as_py():
            name = pc.filter(labels, strangers)[0].as_py()
            raise SeqtrackError(f"label {name!r} is not in the label set", expected="one of " + ", ".join(self.names))
        return ids.cast(pa.int64())

    def write(self, path: Path) -> None:
        """Write the set as JSON."""
        write_json(path, {"problem_type": self.problem_type, "names": list(self.names)})

    @staticmethod
    def read(path: Path) -> LabelSet:
        """Read what `write` wrote.

        Raises:
            SeqtrackError: the file is missing, damaged or names a problem type this version does not know.
        """
        value = read_json(path)
        match value:
            case {"problem_type": problem_type, "names": [*names]} if problem_type in get_args(ProblemType):
                return LabelSet(problem_type=problem_type, names=tuple(names))
            case _:
                raise SeqtrackError(
                    "not a label set of this version",
                    where=str(path),
                    expected="names, and a problem_type that is one of " + ", ".join(get_args(ProblemType)),
                    found=canonical_json(value),
                    fix="run `dvc repro` to rebuild it",
                )


def natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort distinct names the way people count, whatever order they come in.

    Names that are all numbers sort by value: -1, 0, 1, 10. Others sort so that runs of digits compare as numbers:
    "2" before "10", "level 9" before "level 10".
    """
    distinct = set(names)
    if all(_NUMBER.fullmatch(name) for name in distinct):
        return tuple(sorted(distinct, key=lambda name: (Decimal(name), name)))

    def key(name: str) -> tuple[list[tuple[int, int, str]], str]:
        # Digits are [0-9] only: other scripts' digits have values too, and mixing both would not be a total order.
        pieces = re.findall(r"[0-9]+|[^0-9]+", name)
        # Without leading zeros, the longer number is the larger; int() refuses more than 4,300 digits.
        digits = [piece.lstrip("0") if piece[0] in "0123456789" else None for piece in pieces]
        parts = [
            (1, 0, piece) if number is None else (0, len(number), number)
            for piece, number in zip(pieces, digits, strict=True)
        ]
        return parts, name

    return tuple(sorted(distinct, key=key))


def label_text(value: object) -> str | None:
    """Return the class name that a value in a file stands for, the same from every format.

    A string is taken without surrounding whitespace and otherwise as given: "1.0" stays "1.0". JSON's numbers and
    booleans become what JSON writes for them: 1 is "1", 1.0 is "1.0", true is "true". Null and "" are no label.

    Raises:
        TypeError: the value is a list or an object.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    raise TypeError(f"a {'list' if isinstance(value, list) else 'JSON object'}")


def label_texts(value: object, delimiter: str | None = None) -> str | tuple[str, ...] | None:
    """Return what a value in a file says about the label: one class, several, or nothing.

    Args:
        value: a scalar, or a list of scalars.
        delimiter: what separates several classes in one string; None takes a string as one class.

    Returns:
        One class as `label_text` gives it; several as a tuple in natural order, each once, () for an empty list: a row
        of multi-label data may be of no class. None: no label.

    Raises:
        TypeError: the value is an object, or a list that holds anything but class names.
    """
    if isinstance(value, str) and delimiter is not None:
        stripped = value.strip()
        return natural_order(name for part in stripped.split(delimiter) if (name := part.strip())) if stripped else None
    if not isinstance(value, list):
        return label_text(value)
    names = [label_text(item) for item in value]
    if None in names:
        raise TypeError("a list with an empty label in it")
    return natural_order(name for name in names if name is not None)


def written_list(value: object) -> object:
    """Return the list that a string holds as JSON or Python write one, any other value as it is.

    CSV has no lists: pandas writes `['a', 'b']` there.
    """
    if not isinstance(value, str) or len(value) > _LONGEST_LIST or not _LIST.fullmatch(value):
        return value
    try:
        items = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # all that its documentation names
        return value
    plain = isinstance(items, list) and all(isinstance(item, str | int | float) for item in items)
    return items if plain else value


def joined(names: Iterable[str]) -> str:
    """Return several classes as one string, as canonical rows hold them: a JSON list, the same for equal sets."""
    return orjson.dumps(natural_order(names)).decode()


def parted(label: str) -> tuple[str, ...]:
    """Return what `joined` was given.

    Raises:
        ValueError: the string is not what `joined` returns.
    """
    names = orjson.loads(label)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"not a list of labels: {label!r}")
    return tuple(names)


def is_number(name: str) -> bool:
    """Return whether a label is a finite number: "3", "-0.5", "1e-3"."""
    return _FLOAT.fullmatch(name) is not None and math.isfinite(float(name))


def is_fraction(name: str) -> bool:
    """Return whether a label is a number with a part after the point that is not zero, such as "3.8" but not "3.0"."""
    number = float(name) if _FLOAT.fullmatch(name) else 0.0
    return math.isfinite(number) and not number.is_integer()


def spelled_twice(names: Iterable[str]) -> tuple[str, str] | None:
    """Return two names that mean one class, if any: "1" and "1.0", "true" and "True".

    Tools write one column as integers here and as floats there, and two classes would come of it without a word.
    """
    seen: dict[str, str] = {}
    for name in names:
        if _NUMBER.fullmatch(name):
            meaning = re.sub(r"\.0+$", "", name)
        elif name.lower() in {"true", "false"}:
            meaning = name.lower()
        else:
            continue
        first = seen.setdefault(meaning, name)
        if first != name:
            return first, name
    return None
