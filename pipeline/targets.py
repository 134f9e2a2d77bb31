"""What the labels of canonical rows are to a model: class ids, sets of classes or numbers, as arrays.

Promises: one form per task, shared by training and scoring; labels that do not belong to the task are a mistake told
in one line, never a silent number.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet, is_number, parted

Targets = npt.NDArray[np.int64] | npt.NDArray[np.float32] | npt.NDArray[np.float64]
"""By task: single-label, class ids, int64 [rows]; multi-label, 1 where a row is of a class, else 0, float32 [rows,
classes]; regression, numbers on the scale of the labels, float64 [rows]."""


def read_targets(labels: LabelSet, column: pa.Array | pa.ChunkedArray) -> tuple[pa.BooleanArray, Targets]:
    """Return which rows have a label, bool [rows], and the targets of those rows.

    Args:
        labels: the label set, which knows the task.
        column: labels as canonical rows hold them, strings, shape (rows,).

    Raises:
        SeqtrackError: a label is no class of the set, no list of classes, or no number.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    known = pc.is_valid(column)
    present = column.filter(known)
    if labels.problem_type == "single_label_classification":
        return known, labels.ids(present).to_numpy(zero_copy_only=False)
    if labels.problem_type == "multi_label_classification":
        return known, _many_hot(labels, present)
    return known, _numbers(present)


def _many_hot(labels: LabelSet, column: pa.Array) -> npt.NDArray[np.float32]:
    places = {name: place for place, name in enumerate(labels.names)}
    targets = np.zeros((len(column), len(places)), np.float32)
    # Sets of classes repeat: each is parsed once.
    coded = column.dictionary_encode()
    try:
        members = [[places[name] for name in parted(label)] for label in coded.dictionary.to_pylist()]
    except KeyError as error:
        expected = "classes among " + ", ".join(labels.names)
        raise SeqtrackError(f"label {error.args[0]!r} is not in the label set", expected=expected) from error
    except ValueError as error:
        raise SeqtrackError(str(error), expected="a JSON list of classes", fix="run `dvc repro`") from error
    for row, code in enumerate(coded.indices.to_pylist()):
        targets[row, members[code]] = 1.0
    return targets


def _numbers(column: pa.Array) -> npt.NDArray[np.float64]:
    texts = column.to_pylist()
    stranger = next((text for text in texts if not is_number(text)), None)
    if stranger is not None:
        raise SeqtrackError(f"label {stranger!r} is no number", expected="numbers", fix="run `dvc repro`")
    return np.array([float(text) for text in texts], np.float64)
