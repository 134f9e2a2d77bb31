"""The predict stage's work: classify a split or any data file, row by row, into JSON Lines.

Promises: one line per row, in the rows' order; memory does not grow with a data file; a row that cannot be classified
stops the stage with its file and line before the model is loaded, and nothing half-written is left.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from pipeline.columns import Columns, find_columns
from pipeline.console import progress, say, table
from pipeline.errors import SeqtrackError
from pipeline.inference import Classifier
from pipeline.outputs import output_folder, sha256_file, write_manifest
from pipeline.params import Data
from pipeline.probabilities import probabilities
from pipeline.reading import Defect, Format, format_of, shorten
from pipeline.rows import read_row_ids, select_rows

ID_NAMES = ("id", "idx", "index", "guid")  # best first, whatever their case
WINDOW_BATCHES = 32  # batches read, sorted by length and written together: little padding, bounded memory
DECIMALS = 6  # of probabilities: six say all that float32 logits know, and more would show its noise


class Example(NamedTuple):
    """A row to classify. The id is what the file says (a JSON value), or the row's number from 0."""

    id: Any
    text: str
    text_pair: str | None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Rows to classify, checked.

    Attributes:
        path: the file they come from.
        rows: how many there are.
        described: how the file is read, in words.
        inputs: name to sha256 of what is read.
        examples: starts a pass over the rows, in order.
    """

    path: Path
    rows: int
    described: str
    inputs: Mapping[str, str]
    examples: Callable[[], Iterator[Example]]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What was written.

    Attributes:
        file: the JSON Lines file.
        rows: lines in it.
        counts: class name to rows predicted to be of it, in id order.
        run_key: identity of the training run.
    """

    file: Path
    rows: int
    counts: dict[str, int]
    run_key: str


def open_source(path: Path, data: Data, *, rows: Path) -> Source:
    """Find out what a file holds and check every row of it.

    Args:
        path: a split file (row ids, `.parquet`), or a CSV, TSV or JSON Lines file, labelled or not.
        data: the section that may name columns.
        rows: canonical rows, for a split file.

    Raises:
        SeqtrackError: the file is missing or unreadable, its columns are unclear, or a row has no text.
    """
    if not path.is_file():
        raise SeqtrackError("file not found", where=f"params.yaml: predict.path: {path}")
    # The labels of the training files are not those of this one.
    data = data.model_copy(update={"labels_path": None})
    return _split_source(path, rows) if path.suffix == ".parquet" else _file_source(path, data)


def predict_source(classifier: Classifier, source: Source, folder: Path, *, batch_size: int) -> Predictions:
    """Classify rows and write `<folder>/<stem>.jsonl` with a manifest.

    Each line holds `id`, `label` (the class with the highest logit), `probabilities` (softmax in float64, rounded to
    six decimals, by class name in id order) and `model` (the digest of the model folder).

    Args:
        classifier: the trained model.
        source: what to classify.
        folder: output folder, replaced whole.
        batch_size: rows per forward pass.

    Raises:
        SeqtrackError: the model gives NaN or infinity.
    """
    names = classifier.labels.names
    file = f"{source.path.stem}.jsonl"
    say(f"predict: {source.rows:,} rows of {source.path} ({source.described})")
    say(f"predict: with model {classifier.digest[:10]} on {classifier.device}, batches of {batch_size}")
    counts: Counter[int] = Counter()
    with output_folder(folder) as out:
        with progress() as bar, (out / file).open("w", encoding="utf-8", newline="\n") as stream:
            task = bar.add_task("predict", total=source.rows, note="")
            examples = source.examples()
            while window := list(islice(examples, batch_size * WINDOW_BATCHES)):
                logits = _logits(classifier, window, batch_size, lambda done: bar.advance(task, done))
                predicted = logits.argmax(axis=1)
                counts.update(predicted.tolist())
                chances = probabilities(logits).round(DECIMALS).tolist()
                for example, winner, row in zip(window, predicted, chances, strict=True):
                    line = {
                        "id": example.id,
                        "label": names[winner],
                        "probabilities": dict(zip(names, row, strict=True)),
                        "model": classifier.digest,
                    }
                    stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        by_name = {name: counts[index] for index, name in enumerate(names)}
        write_manifest(
            out,
            inputs={"model": classifier.digest, **source.inputs},
            params={"batch_size": batch_size, "file": source.path.name, "read_as": source.described},
            rows={"rows": source.rows},
            predicted=by_name,
            run_key=classifier.run_key,
        )
    _show(by_name, source.rows, folder / file)
    return Predictions(file=folder / file, rows=source.rows, counts=by_name, run_key=classifier.run_key)


def _split_source(path: Path, rows: Path) -> Source:
    if pq.read_schema(path).names != ["row_id"]:
        raise SeqtrackError(
            "not a split file",
            where=f"params.yaml: predict.path: {path}",
            expected="data/splits/<train|validation|test>.parquet, or a CSV, TSV or JSON Lines file",
            fix="convert other Parquet files to JSON Lines",
        )
    row_ids = read_row_ids(path)
    chosen = select_rows(rows, row_ids, ["row_id", "text", "text_pair"])

    def examples() -> Iterator[Example]:
        for batch in chosen.to_batches(max_chunksize=1_000):
            yield from map(Example, *(batch[name].to_pylist() for name in ("row_id", "text", "text_pair")))

    return Source(
        path=path,
        rows=len(row_ids),
        described="a split; id: row_id",
        inputs={"split": sha256_file(path), "rows": sha256_file(rows)},
        examples=examples,
    )


def _file_source(path: Path, data: Data) -> Source:
    kind = format_of(path, data)
    found = kind.shape(path).columns
    columns = find_columns(found, data, where=str(path), label_needed=False)
    id_column = _id_column(found, columns)
    parts = {"text": columns.text, "text_pair": columns.text_pair, "id": id_column or "row number from 0"}

    def examples() -> Iterator[Example]:
        return _read(kind, path, columns, id_column)

    return Source(
        path=path,
        rows=sum(1 for _ in examples()),
        described=", ".join(f"{part}: {column}" for part, column in parts.items() if column),
        inputs={"file": sha256_file(path)},
        examples=examples,
    )


def _id_column(found: tuple[str, ...], columns: Columns) -> str | None:
    taken = {columns.text, columns.text_pair, columns.label}
    by_name = {name.strip().lower(): name for name in reversed(found) if name not in taken}
    return next((by_name[name] for name in ID_NAMES if name in by_name), None)


def _read(kind: Format, path: Path, columns: Columns, id_column: str | None) -> Iterator[Example]:
    numbers = count()
    for row in kind.rows(path):
        where = f"{path}:{row.line}"
        if isinstance(row, Defect):
            raise SeqtrackError(f"the row cannot be read: {row.reason}: {row.detail}", where=where)
        number = next(numbers)
        text = _text(row.values, columns.text, where)
        pair = None if columns.text_pair is None else _text(row.values, columns.text_pair, where)
        name = number if id_column is None else row.values.get(id_column)
        if name is None or name == "":
            raise SeqtrackError(
                f"no value in the id column {id_column!r}", where=where, fix="fill it or drop the column"
            )
        yield Example(name, text, pair)


def _text(values: Mapping[str, Any], column: str, where: str) -> str:
    """Return a row's text.

    Raises:
        SeqtrackError: it is missing, blank or no text: leaving the row out would shift every line after it.
    """
    value = values.get(column)
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, str):
        found = "blank text"
    else:
        found = "nothing" if value is None else f"{shorten(json.dumps(value, ensure_ascii=False))}, not a string"
    raise SeqtrackError(
        f"no text in column {column!r}",
        where=where,
        found=found,
        fix="fill it or remove the row: every row gets a prediction",
    )


def _logits(
    classifier: Classifier, window: list[Example], batch_size: int, on_batch: Callable[[int], None]
) -> npt.NDArray[np.float32]:
    encoded = classifier.encoder.encode([example.text for example in window], [example.text_pair for example in window])
    types = encoded.token_type_ids
    return classifier.logits(
        np.array([len(ids) for ids in encoded.input_ids]),
        lambda rows: classifier.encoder.padding.batch(
            [encoded.input_ids[row] for row in rows], None if types is None else [types[row] for row in rows]
        ),
        batch_size=batch_size,
        on_batch=on_batch,
    )


def _show(counts: Mapping[str, int], rows: int, file: Path) -> None:
    lines = [[name, f"{number:,}", f"{number / rows:.1%}"] for name, number in counts.items() if rows]
    table("predicted classes", ["class", "rows", "share"], lines)
    say(f"predictions: {file}")
