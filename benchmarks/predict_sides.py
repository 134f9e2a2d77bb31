"""One side of `benchmarks.predict`, in a process of its own: applies data/model to rows.jsonl and tells the seconds.

The clock starts when the model is loaded and has seen a few rows, and stops when every row is answered; in ours that
includes reading and checking the file, and writing the predictions. Probabilities go to said.json, for comparison.

    python -m benchmarks.predict_sides <side>        in the folder that benchmarks.predict prepared
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline.paths import COLUMNS, MODEL, ROWS

ROWS_FILE, WARM_FILE, SAID_FILE = Path("rows.jsonl"), Path("warm.jsonl"), Path("said.json")
Said = list[dict[str, float]]  # class name to probability, a row each


def main() -> None:
    side = sys.argv[1]
    precision = "bf16" if side.endswith("-bf16") else "no"
    processes = 2 if "processes" in side else 1
    with ExitStack() as stack:
        if side.startswith("seqtrack"):
            classify = ours(precision, processes, stack, converting="converting" in side)
        else:
            classify = theirs(side, precision)
        classify(WARM_FILE)
        started = time.perf_counter()
        said = classify(ROWS_FILE)
        seconds = time.perf_counter() - started
    SAID_FILE.write_text(json.dumps(said()))
    print(json.dumps({"seconds": seconds, "threads": torch.get_num_threads(), "device": device().type}))


def device() -> torch.device:
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def ours(precision: Any, processes: int, stack: ExitStack, *, converting: bool) -> Callable[[Path], Callable[[], Said]]:
    """Return our side; `converting` leaves it to autocast to make bfloat16 of float32 weights, in each batch."""
    from pipeline.allocator import keep_freed_memory
    from pipeline.columns import read_columns
    from pipeline.inference import Classifier
    from pipeline.params import load_params
    from pipeline.prediction import predict_sources
    from pipeline.prediction_input import open_sources
    from pipeline.replicas import replicated

    keep_freed_memory()
    params = load_params()
    loaded = Classifier.load(MODEL, mixed_precision="no" if converting else precision)
    classifier = stack.enter_context(replicated(replace(loaded, mixed_precision=precision), MODEL, processes))

    def classify(file: Path) -> Callable[[], Said]:
        sources = open_sources(file, params.data, rows=ROWS, trained=read_columns(MODEL / COLUMNS.name))
        (written,) = predict_sources(classifier, sources, Path("predictions"), params.predict).files
        return lambda: read_said(written)

    return classify


def read_said(file: Path) -> Said:
    """Return the probabilities in what predict wrote as JSON Lines."""
    return [json.loads(line)["probabilities"] for line in file.read_text(encoding="utf-8").splitlines()]


def theirs(side: str, precision: str) -> Callable[[Path], Callable[[], Said]]:
    from transformers import pipeline

    answer = pipeline(
        "text-classification",
        model=str(MODEL),
        device=device(),
        dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
    )
    settings = {"top_k": None, "truncation": True}

    def classify(file: Path) -> Callable[[], Said]:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if side.startswith("pipeline-rows"):
            found = [answer([row], **settings)[0] for row in rows]
        else:
            found = answer(rows, batch_size=32, **settings)
        return lambda: [{one["label"]: one["score"] for one in row} for row in found]

    return classify


if __name__ == "__main__":
    main()
