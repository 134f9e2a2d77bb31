"""The predict stage's work: apply a model to files, row by row.

Promises: one record per row, in the rows' order; memory does not grow with a data file; nothing half-written is left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from pipeline.console import say, table
from pipeline.encoding import Encoded
from pipeline.inference import Classifier
from pipeline.labels import LabelSet
from pipeline.outputs import output_folder, write_manifest
from pipeline.params import Predict
from pipeline.prediction_input import Example, Source
from pipeline.prediction_output import writer
from pipeline.progress import progress
from pipeline.submission import FOLDER, Submission, submission_file, submission_for

# Rows read, sorted by length and written together: little padding, bounded memory.
WINDOW_ROWS = 8192
WINDOW_CHARACTERS = 2**25

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What was written.

    Attributes:
        files: a file of predictions per source, in their order.
        submissions: files as GLUE takes them.
        rows: records in all of `files`.
        counts: class name to rows said to be of it, in id order; none in regression.
        run_key: identity of the training run.
    """

    files: tuple[Path, ...]
    submissions: tuple[Path, ...]
    rows: int
    counts: dict[str, int]
    run_key: str


def predict_sources(classifier: Classifier, sources: Sequence[Source], folder: Path, settings: Predict) -> Predictions:
    """Apply the model to every row and write `<folder>/<name>.<format>` for each source, with one manifest for all.

    A source that fetch wrote as a test set of GLUE also gets `<folder>/submission/<name>.tsv`.

    Args:
        classifier: the trained model.
        sources: what to classify.
        folder: output folder, replaced whole.
        settings: format, batch size and temperature; see `pipeline.prediction_output` for what a record holds.

    Raises:
        SeqtrackError: the model gives NaN or infinity.
    """
    say(f"predict: with model {classifier.digest[:10]} on {classifier.device}")
    counts: Counter[str] = Counter()
    submissions = []
    with output_folder(folder) as out:
        for source in sources:
            say(f"predict: {source.rows:,} rows of {source.path} ({source.described})")
            submission = _submission(source, classifier.labels)
            submissions += [submission] if submission else []
            counts.update(_predict(classifier, source, submission, out, settings))
        by_name = {name: counts[name] for name in classifier.labels.names}
        rows = sum(source.rows for source in sources)
        write_manifest(
            out,
            inputs={
                "model": classifier.digest,
                **{f"{source.name}/{name}": digest for source in sources for name, digest in source.inputs.items()},
            },
            params={
                "batch_size": settings.batch_size,
                "mixed_precision": classifier.mixed_precision,
                "temperature": settings.temperature,
                "read_as": {source.path.name: source.described for source in sources},
            },
            rows={source.name: source.rows for source in sources},
            predicted=by_name,
            run_key=classifier.run_key,
        )
    files = tuple(folder / f"{source.name}.{settings.format}" for source in sources)
    written = tuple(folder / FOLDER / f"{submission.name}.tsv" for submission in submissions)
    _show(by_name, rows, (*files, *written))
    return Predictions(files=files, submissions=written, rows=rows, counts=by_name, run_key=classifier.run_key)


def logits_of(
    classifier: Classifier, rows: Sequence[Example], batch_size: int, on_batch: Callable[[int], None]
) -> npt.NDArray[np.float32]:
    """Return the model's outputs for rows held in memory, float32 [rows, classes].

    Args:
        classifier: the model.
        rows: at least one.
        batch_size: rows per forward pass at most.
        on_batch: called after each with the number of rows in it.

    Raises:
        SeqtrackError: the model gives NaN or infinity.
    """
    return _logits(classifier, _encoded(classifier, rows), batch_size, on_batch)


def _encoded(classifier: Classifier, rows: Sequence[Example]) -> Encoded:
    return classifier.encoder.encode([row.text for row in rows], [row.text_pair for row in rows])


def _logits(
    classifier: Classifier, encoded: Encoded, batch_size: int, on_batch: Callable[[int], None]
) -> npt.NDArray[np.float32]:
    types = encoded.token_type_ids
    return classifier.logits(
        np.array([len(ids) for ids in encoded.input_ids]),
        lambda places, step: classifier.encoder.padding.batch(
            [encoded.input_ids[place] for place in places],
            None if types is None else [types[place] for place in places],
            multiple_of=step,
        ),
        batch_size=batch_size,
        on_batch=on_batch,
    )


def _predict(
    classifier: Classifier, source: Source, submission: Submission | None, out: Path, settings: Predict
) -> Iterator[str]:
    """Write the predictions of one source; yields the classes of its rows."""
    file = out / f"{source.name}.{settings.format}"
    with ExitStack() as stack:
        opened = writer(file, settings.format, classifier.labels, classifier.digest, integer_ids=source.integer_ids)
        write = stack.enter_context(opened)
        submitted = stack.enter_context(submission_file(out, submission)) if submission else None
        bar = stack.enter_context(progress(f"predict: {source.name}", source.rows, "rows"))
        windows: Iterable[tuple[list[Example], Encoded]] = (
            (window, _encoded(classifier, window)) for window in _windows(source.examples(), classifier.processes)
        )
        if _overlaps(classifier.device):
            windows = stack.enter_context(closing(ahead(windows)))
        for window, encoded in windows:
            logits = _logits(classifier, encoded, settings.batch_size, bar.advance)
            decisions = classifier.decide(logits, settings.temperature)
            ids = [example.id for example in window]
            write(ids, decisions)
            if submission and submitted:
                submitted.writelines(submission.lines(ids, decisions))
            for said in decisions.labels:
                yield from [said] if isinstance(said, str) else said if isinstance(said, list) else []


def _windows(examples: Iterable[Example], processes: int) -> Iterator[list[Example]]:
    """Yield rows in order, some thousand for each process at a time; fewer where texts are very long."""
    window: list[Example] = []
    characters = 0
    for example in examples:
        window.append(example)
        characters += len(example.text) + len(example.text_pair or "")
        if len(window) >= WINDOW_ROWS * processes or characters >= WINDOW_CHARACTERS * processes:
            yield window
            window, characters = [], 0
    if window:
        yield window


def _overlaps(device: torch.device) -> bool:
    """Return whether rows are read and tokenized while the model computes: on a CPU both want the same cores."""
    return device.type != "cpu"


def ahead(values: Iterable[Value]) -> Generator[Value]:
    """Yield values, none of them None, each made by a thread while the caller uses the one before it.

    An error in making a value comes where the value would have. The caller closes the generator; that waits for the
    value in the making.
    """
    iterator = iter(values)
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = thread.submit(next, iterator, None)
        while (value := coming.result()) is not None:
            coming = thread.submit(next, iterator, None)
            yield value


def _submission(source: Source, labels: LabelSet) -> Submission | None:
    submission = submission_for(source.path)
    if submission and not submission.fits(labels):
        say(f"no submission file for {submission.name}: the model was trained on other labels")
        return None
    return submission


def _show(counts: Mapping[str, int], rows: int, files: Sequence[Path]) -> None:
    lines = [[name, f"{number:,}", f"{number / rows:.1%}"] for name, number in counts.items() if rows]
    if lines:
        table("predicted classes", ["class", "rows", "share"], lines)
    for file in files:
        say(f"predictions: {file}")
