"""Whether torch.compile pays for a training, by a short measurement.

Promises: a training's weights, order and masks are what they would be without the measurement; the choice is kept
under what the training is, so that resuming it computes as before; where nothing can be compiled, that is said and the
training goes on without.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend, TorchDynamoPlugin
from torch._dynamo.exc import TorchDynamoException

from pipeline.console import say
from pipeline.control import Processes
from pipeline.outputs import read_json, write_json
from pipeline.training import Job, time_steps

COMPILED = DynamoBackend.INDUCTOR
WARM_STEPS = 12
"""Steps that compile: for the first lengths of texts, and again for lengths in general."""
TIMED_STEPS = 12
FEWEST_STEPS = 200
"""Of a training; a shorter one is over before compiling has paid for itself."""
GAIN = 0.9
"""Compiled must take at most this share of the plain time, all in all: what saves less is not worth other bits."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What some steps took.

    Attributes:
        warm_seconds: of the first WARM_STEPS together, compiling included.
        step_seconds: median of the TIMED_STEPS after them.
    """

    warm_seconds: float
    step_seconds: float

    @staticmethod
    def of(seconds: Sequence[float]) -> Trial:
        """Judge the seconds of WARM_STEPS + TIMED_STEPS steps."""
        return Trial(warm_seconds=math.fsum(seconds[:WARM_STEPS]), step_seconds=statistics.median(seconds[WARM_STEPS:]))

    def total(self, steps: int) -> float:
        """Return the seconds that a training of some steps would take."""
        return self.warm_seconds + max(steps - WARM_STEPS, 0) * self.step_seconds


def choose_backend(
    accelerator: Accelerator,
    processes: Processes,
    make_job: Callable[[], Job],
    steps: int,
    *,
    kept: Callable[[], Path],
) -> None:
    """Set the accelerator to compile where that makes a training faster; all processes choose alike.

    Args:
        accelerator: not yet used; its backend is set.
        processes: of the training.
        make_job: gives a job with a fresh model, which is used up.
        steps: of the training.
        kept: gives the file where the choice is kept; called on the main process alone.
    """
    known: bool | None = processes.share(processes.on_main(lambda: _known(kept())))
    if known is not None:
        pays = known
    elif steps < FEWEST_STEPS:
        pays = False
        say(f"train: not compiled: {steps:,} steps are over before it pays")
    else:
        pays = processes.share(_measured(accelerator, processes, make_job, steps))
        processes.on_main(lambda: write_json(kept(), {"compile": pays}))
    _use(accelerator, COMPILED if pays else DynamoBackend.NO)


def _known(file: Path) -> bool | None:
    return bool(read_json(file)["compile"]) if file.is_file() else None


def _measured(accelerator: Accelerator, processes: Processes, make_job: Callable[[], Job], steps: int) -> bool:
    chosen = [place * steps // (WARM_STEPS + TIMED_STEPS) for place in range(WARM_STEPS + TIMED_STEPS)]
    plain = _trial(accelerator, processes, DynamoBackend.NO, make_job, chosen)
    try:
        compiled = _trial(accelerator, processes, COMPILED, make_job, chosen)
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        if accelerator.is_main_process:
            say(f"train: not compiled: {reason}")
        return False
    pays = compiled.total(steps) <= GAIN * plain.total(steps)
    if accelerator.is_main_process:
        say(
            f"train: {'compiled' if pays else 'not compiled'}: {1000 * plain.step_seconds:.1f} ms a step plain, "
            f"{1000 * compiled.step_seconds:.1f} ms compiled, once {compiled.warm_seconds:.0f} s have gone into that"
        )
    return pays


def _trial(
    accelerator: Accelerator,
    processes: Processes,
    backend: DynamoBackend,
    make_job: Callable[[], Job],
    steps: Sequence[int],
) -> Trial:
    _use(accelerator, backend)
    try:
        return Trial.of(time_steps(make_job(), accelerator, processes, steps))
    finally:
        accelerator.free_memory()
        torch.compiler.reset()


def _use(accelerator: Accelerator, backend: DynamoBackend) -> None:
    accelerator.state.dynamo_plugin = TorchDynamoPlugin(backend=backend)
