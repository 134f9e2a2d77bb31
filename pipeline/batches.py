"""Which rows make up which step: a pure function of (seed, epoch, step).

Promises: the sequence of global batches does not depend on the number of processes or on how a step is divided into
micro-batches, and any step can be computed without replaying those before it; so resuming needs no loader state.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import SeqtrackError

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What one process feeds through the model at once.

    Attributes:
        indices: rows of the training split, int64, shape (rows,), never empty.
        counts: False for a stand-in row that keeps this process in step with others that still have rows; its loss
            must be multiplied by zero.
    """

    indices: Indices
    counts: bool


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The order of training.

    Attributes:
        rows: size of the training split.
        per_device_batch_size: rows of one micro-batch.
        world_size: processes.
        accumulation: micro-batches per process and step.
        epochs: passes over the rows; may end within an epoch.
        seed: of the shuffling.
    """

    rows: int
    per_device_batch_size: int
    world_size: int
    accumulation: int
    epochs: float
    seed: int

    @property
    def total_batch_size(self) -> int:
        """Rows per optimisation step: per-device batch size x processes x accumulation."""
        return self.per_device_batch_size * self.world_size * self.accumulation

    @property
    def steps_per_epoch(self) -> int:
        """Optimisation steps in an epoch; the last may have fewer rows."""
        return math.ceil(self.rows / self.total_batch_size)

    @property
    def total_steps(self) -> int:
        """Optimisation steps of the whole training."""
        # Rounded first: 1.1 epochs of 50 steps are 55 steps, though 1.1 * 50 is a little more in floating point.
        return max(1, math.ceil(round(self.epochs * self.steps_per_epoch, 6)))

    def epoch_at(self, step: int) -> float:
        """Return the epochs completed after `step` steps."""
        return step / self.steps_per_epoch

    def ends_epoch(self, step: int) -> bool:
        """Return whether the step with number `step`, counted from 1, is the last of its epoch."""
        return step % self.steps_per_epoch == 0

    def global_batch(self, step: int) -> Indices:
        """Return the rows of one optimisation step, counted from 0, in order."""
        epoch, within = divmod(step, self.steps_per_epoch)
        start = within * self.total_batch_size
        return _order(self.rows, self.seed, epoch)[start : start + self.total_batch_size]

    def micro_batches(self, step: int, rank: int) -> list[MicroBatch]:
        """Return what process `rank` computes in a step: `accumulation` micro-batches.

        A short last batch is dealt out evenly; when it has fewer rows than there are micro-batches, the rest get a
        stand-in row that does not count.
        """
        batch = self.global_batch(step)
        pieces = np.array_split(batch, self.accumulation * self.world_size)
        mine = pieces[rank :: self.world_size]
        return [MicroBatch(indices=piece if len(piece) else batch[:1], counts=len(piece) > 0) for piece in mine]


def accumulation_for(total: int, per_device: int, world_size: int) -> int:
    """Return the micro-batches per process that make up a total batch.

    Raises:
        SeqtrackError: the total is no multiple of what all processes take at once.
    """
    at_once = per_device * world_size
    if total % at_once:
        sizes = [size for size in (total // at_once * at_once, (total // at_once + 1) * at_once) if size]
        raise SeqtrackError(
            "not divisible by per_device_train_batch_size x processes",
            where="params.yaml: train.total_train_batch_size",
            expected=f"a multiple of {per_device} x {world_size} = {at_once}, such as {' or '.join(map(str, sizes))}",
            found=str(total),
        )
    return total // at_once


def smaller_batch(per_device: int) -> int:
    """Return the largest size of at most half of `per_device`, which must be above 1, that divides it.

    With accumulation raised by the same factor, a step keeps exactly its rows.
    """
    return next(size for size in range(per_device // 2, 0, -1) if per_device % size == 0)


@functools.lru_cache(maxsize=2)
def _order(rows: int, seed: int, epoch: int) -> Indices:
    """Return the shuffled rows of an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of all randomness (dropout) within one step on one process.

    Reseeding at each step makes a step's masks a function of its number, so a resumed run needs no generator state.
    """
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])
