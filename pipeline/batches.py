"""Which rows make up which step: a pure function of (seed, epoch, step).

Promises: the sequence of global batches does not depend on the number of processes or on how a step is divided into
micro-batches, and any step can be computed without replaying those before it; so resuming needs no loader state.
Every row comes once per epoch, whether batches are drawn at random or of texts of similar length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import SeqtrackError

Indices = npt.NDArray[np.int64]
# Rows are sorted by length within random pools of at most this many batches, and of at most a quarter of all batches:
# enough for little padding, and small enough that who shares a batch with whom changes from epoch to epoch.
POOL_BATCHES = 50
POOLS = 4


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
        lengths: tokens per row, integers, shape (rows,); needed by the two below.
        group_by_length: whether batches hold rows of similar length, which saves padding; else random ones.
        max_tokens: most tokens of a micro-batch with its padding, if it has more than one row; None is no limit.
        packed: whether micro-batches have no padding.
    """

    rows: int
    per_device_batch_size: int
    world_size: int
    accumulation: int
    epochs: float
    seed: int
    lengths: npt.NDArray[np.integer[Any]] | None = field(default=None, compare=False, repr=False)
    group_by_length: bool = False
    max_tokens: int | None = None
    packed: bool = False

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
        return self._order(epoch)[start : start + self.total_batch_size]

    def micro_batches(self, step: int, rank: int) -> list[MicroBatch]:
        """Return what process `rank` computes in a step: `accumulation` micro-batches, or more if they are large.

        A short last batch is dealt out evenly. A process that has fewer micro-batches than another gets stand-in rows
        that do not count, since gradients are exchanged by all processes at once.
        """
        batch = self.global_batch(step)
        pieces = np.array_split(batch, self.accumulation * self.world_size)
        shares = [
            [part for piece in pieces[process :: self.world_size] if len(piece) for part in self._divided(piece)]
            for process in range(self.world_size)
        ]
        micro_batches = [MicroBatch(indices=part, counts=True) for part in shares[rank]]
        missing = max(self.accumulation, *map(len, shares)) - len(micro_batches)
        return micro_batches + [MicroBatch(indices=batch[-1:], counts=False)] * missing

    def padding(self, epoch: int = 0) -> float:
        """Return the share of an epoch's tokens that is padding, if each step were one batch per process."""
        assert self.lengths is not None
        lengths = self.lengths[self._order(epoch)]
        pieces = [
            piece
            for start in range(0, self.rows, self.total_batch_size)
            for piece in np.array_split(
                lengths[start : start + self.total_batch_size], self.accumulation * self.world_size
            )
            if len(piece)
        ]
        padded = sum(len(piece) * int(piece.max()) for piece in pieces)
        return 1 - int(lengths.sum()) / padded

    def _divided(self, piece: Indices) -> list[Indices]:
        """Cut rows into parts that each respect `max_tokens`, in order."""
        if self.max_tokens is None:
            return [piece]
        assert self.lengths is not None
        cuts, start, longest, total = [], 0, 0, 0
        for place, length in enumerate(self.lengths[piece].tolist()):
            longest, total = max(longest, length), total + length
            if place > start and (total if self.packed else longest * (place + 1 - start)) > self.max_tokens:
                cuts.append(place)
                start, longest, total = place, length, length
        return np.split(piece, cuts)

    def _order(self, epoch: int) -> Indices:
        """Return the rows of an epoch in the order in which batches take them."""
        if epoch not in self._orders:
            if len(self._orders) > 1:
                self._orders.clear()
            self._orders[epoch] = self._new_order(epoch)
        return self._orders[epoch]

    @cached_property
    def _orders(self) -> dict[int, Indices]:
        return {}

    def _new_order(self, epoch: int) -> Indices:
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(self.rows)
        if not self.group_by_length:
            return order
        assert self.lengths is not None
        size = self.total_batch_size
        pool = size * max(1, min(POOL_BATCHES, self.steps_per_epoch // POOLS))
        pools = np.split(order, range(pool, self.rows, pool))
        order = np.concatenate([rows[np.argsort(-self.lengths[rows], kind="stable")] for rows in pools])
        whole = self.rows // size * size  # the last batch of an epoch may be a shorter one, and stays the last
        batches = order[:whole].reshape(-1, size)
        batches = batches[generator.permutation(len(batches))]
        if epoch == 0 and whole:  # what the device's memory has no room for fails at once, not in an hour
            longest = int(self.lengths[batches].max(axis=1).argmax())
            batches[[0, longest]] = batches[[longest, 0]]
        return np.concatenate([batches.reshape(-1), order[whole:]])


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


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of all randomness (dropout) within one step on one process.

    Reseeding at each step makes a step's masks a function of its number, so a resumed run needs no generator state.
    """
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])
