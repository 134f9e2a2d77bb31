"""Files of predictions: JSON Lines, CSV, TSV or Parquet, written as they come.

Promises: the same rows in the same order in every format; memory for one window of rows; equal rows give equal bytes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.decisions import Decisions
from pipeline.labels import LabelSet, ProblemType
from pipeline.params import PredictFormat

DECIMALS: Final = 6  # of probabilities: six say all that float32 logits know, and more would show its noise
RESULTS: Final[dict[ProblemType, str]] = {
    "single_label_classification": "label",
    "multi_label_classification": "labels",
    "regression": "score",
}
"""What a row's result is called, by task: a class name, a list of class names, or a number."""

Write = Callable[[Sequence[Any], Decisions], None]
"""Takes the ids of some rows, and what the model says of them."""


@contextmanager
def writer(file: Path, form: PredictFormat, labels: LabelSet, digest: str, *, integer_ids: bool) -> Iterator[Write]:
    """Open a file of predictions.

    JSON Lines have the fields `id`, `label` (`labels`, `score`), `probabilities` by class name (none in regression) and
    `model`; the others a column for each, and one for each class: `probability_<class>`.

    Args:
        file: where to.
        form: its format.
        labels: the model's label set.
        digest: identity of the model.
        integer_ids: whether all ids are integers; else a Parquet file holds them as strings.
    """
    if form == "parquet":
        with pq.ParquetWriter(file, _schema(labels, integer_ids=integer_ids), compression="zstd") as table:
            yield lambda ids, decisions: table.write_table(
                pa.Table.from_pylist(
                    [
                        record | {"id": record["id"] if integer_ids else _plain(record["id"])}
                        for record in _flat(ids, decisions, labels, digest)
                    ],
                    table.schema,
                )
            )
        return
    with file.open("w", encoding="utf-8", newline="") as stream:
        if form == "jsonl":

            def write_lines(ids: Sequence[Any], decisions: Decisions) -> None:
                for record in records(ids, decisions, labels, digest):
                    stream.write(json.dumps(record, ensure_ascii=False) + "\n")

            yield write_lines
            return
        columns = _schema(labels, integer_ids=integer_ids).names
        rows = csv.DictWriter(stream, columns, delimiter="\t" if form == "tsv" else ",", lineterminator="\n")
        rows.writeheader()
        yield lambda ids, decisions: rows.writerows(
            {name: _plain(value) for name, value in record.items()} for record in _flat(ids, decisions, labels, digest)
        )


def records(ids: Sequence[Any], decisions: Decisions, labels: LabelSet, digest: str) -> Iterator[dict[str, Any]]:
    """Iterate over predictions as JSON values: `id`, the result, `probabilities` by class, `model`."""
    result = RESULTS[labels.problem_type]
    chances = [] if decisions.probabilities is None else decisions.probabilities.round(DECIMALS).tolist()
    for place, (name, value) in enumerate(zip(ids, decisions.labels, strict=True)):
        record: dict[str, Any] = {"id": name, result: value}
        if chances:
            record["probabilities"] = dict(zip(labels.names, chances[place], strict=True))
        yield record | {"model": digest}


def _flat(ids: Sequence[Any], decisions: Decisions, labels: LabelSet, digest: str) -> Iterator[dict[str, Any]]:
    for record in records(ids, decisions, labels, digest):
        chances = record.pop("probabilities", {})
        yield record | {f"probability_{name}": chance for name, chance in chances.items()}


def _plain(value: Any) -> str:
    """Return a value as a cell of text: strings as they are, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _schema(labels: LabelSet, *, integer_ids: bool) -> pa.Schema:
    kinds = {"label": pa.string(), "labels": pa.list_(pa.string()), "score": pa.float64()}
    result = RESULTS[labels.problem_type]
    return pa.schema(
        [
            ("id", pa.int64() if integer_ids else pa.string()),
            (result, kinds[result]),
            *((f"probability_{name}", pa.float64()) for name in labels.names),
            ("model", pa.string()),
        ]
    )
