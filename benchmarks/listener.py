"""A listener of a training that writes down how fast it was; named in train.custom.callbacks, it changes nothing else.

Promises: a line of JSON per point of the curve, evaluation and checkpoint in `PACE`, in the folder the stage runs in.
"""

from __future__ import annotations

import json
import time
from typing import Any

import torch

from benchmarks.workspace import PACE
from pipeline.checkpoints import CheckpointStore, CurvePoint, Evaluation, TrainingState
from pipeline.training import Listener


class Pace(Listener):
    """Writes steps with their throughput, and the time at which other things were over."""

    def on_start(self, state: TrainingState) -> None:
        PACE.write_text("")
        self._write("start", step=state.step)

    def on_curve(self, point: CurvePoint, samples_per_second: float) -> None:
        self._write("curve", step=point.step, samples_per_second=samples_per_second)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self._write("evaluation", step=evaluation.step, metrics=evaluation.metrics)

    def on_checkpoint(self, store: CheckpointStore, state: TrainingState) -> None:
        self._write("checkpoint", step=state.step, name=store.path(state.step).name)

    def _write(self, what: str, **facts: Any) -> None:
        device = torch.cuda.max_memory_reserved() / 2**20 if torch.cuda.is_available() else None
        with PACE.open("a") as out:
            out.write(json.dumps({"what": what, "at": time.perf_counter(), "device_mib": device, **facts}) + "\n")
