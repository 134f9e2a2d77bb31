"""What a model says of every labelled row that evaluate scored, in one file, so that two evaluations can be compared.

Promises: the outputs themselves, so that every metric can be computed again to the last bit; equal evaluations give
equal bytes. Texts are not in it: `data/validated/rows.parquet` has them under the same row_id.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.decisions import decide
from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet, joined
from pipeline.rows import write_parquet

FILE: Final = "predictions.parquet"  # in data/reports/evaluation
SCHEMA: Final = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),  # as canonical rows have it
        pa.field("predicted", pa.string(), nullable=False),  # in the same form
        pa.field("logits", pa.list_(pa.float32()), nullable=False),  # one per class in id order; one in regression
    ]
)
_TASK: Final = b"seqtrack"  # the key in the file's metadata


@dataclass(frozen=True, kw_only=True)
class SplitPredictions:
    """A model's outputs on the labelled rows of a split.

    Attributes:
        split: its name.
        row_ids: strings, [rows].
        labels: as canonical rows have them, strings, [rows].
        logits: float32 [rows, classes], [rows, 1] in regression.
    """

    split: str
    row_ids: pa.Array
    labels: pa.Array
    logits: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class RowPredictions:
    """A model's outputs on all rows that were scored.

    Attributes:
        labels: the model's label set.
        thresholds: of multi-label classes, float64 [classes]; None is 0.5 for all.
        splits: by name, in the order in which they were scored.
    """

    labels: LabelSet
    thresholds: npt.NDArray[np.float64] | None
    splits: dict[str, SplitPredictions]


def write_predictions(
    path: Path, labels: LabelSet, thresholds: npt.NDArray[np.float64] | None, splits: Sequence[SplitPredictions]
) -> None:
    """Write the outputs of one model."""
    task = {
        "problem_type": labels.problem_type,
        "names": list(labels.names),
        "thresholds": None if thresholds is None else thresholds.tolist(),
    }
    schema = SCHEMA.with_metadata({_TASK: json.dumps(task, ensure_ascii=False).encode()})
    parts = [
        pa.table(
            [
                split.row_ids,
                pa.repeat(split.split, len(split.row_ids)),
                split.labels,
                pa.array(_written(labels, split.logits, thresholds), pa.string()),
                pa.array(list(split.logits), pa.list_(pa.float32())),
            ],
            schema=schema,
        )
        for split in splits
    ]
    write_parquet(pa.concat_tables(parts), path)


def read_predictions(path: Path, where: str) -> RowPredictions:
    """Read what `write_predictions` wrote.

    Args:
        path: the file.
        where: what to call it in a message.

    Raises:
        SeqtrackError: it is something else.
    """
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise _other(where, str(error)) from None
    metadata = table.schema.metadata or {}
    if not table.schema.equals(SCHEMA) or _TASK not in metadata:
        raise _other(where, ", ".join(table.schema.names))
    task: dict[str, Any] = json.loads(metadata[_TASK])
    labels = LabelSet(problem_type=task["problem_type"], names=tuple(task["names"]))
    splits = {}
    for name in table["split"].unique().to_pylist():
        part = table.filter(pa.compute.equal(table["split"], name)).combine_chunks()
        flat = part["logits"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        splits[name] = SplitPredictions(
            split=name,
            row_ids=part["row_id"].combine_chunks(),
            labels=part["label"].combine_chunks(),
            logits=flat.reshape(len(part), labels.width),
        )
    thresholds = None if task["thresholds"] is None else np.array(task["thresholds"], np.float64)
    return RowPredictions(labels=labels, thresholds=thresholds, splits=splits)


def _written(
    labels: LabelSet, logits: npt.NDArray[np.float32], thresholds: npt.NDArray[np.float64] | None
) -> list[str]:
    return [
        value if isinstance(value, str) else joined(value) if isinstance(value, list) else repr(value)
        for value in decide(labels, logits, thresholds).labels
    ]


def _other(where: str, found: str) -> SeqtrackError:
    return SeqtrackError(
        "not the predictions that evaluate writes", where=where, found=found, fix="run `dvc repro` to write them anew"
    )
