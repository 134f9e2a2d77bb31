"""What the processes of a training tell each other besides gradients.

Promises: a decision is the same on every process and needs no wait for the device, since it goes over a group of its
own on the CPU; when a process is gone, one of the others says so, in one line.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import distributed

from pipeline.errors import LostProcessError, SeqtrackError

T = TypeVar("T")

# How gloo and NCCL report a process at the other end that is no more.
LOST = re.compile(r"(connection|socket) (closed|reset|was|refused)|broken pipe|gloo|nccl|closed by peer", re.IGNORECASE)
_numbers = itertools.count()  # every process makes its `Processes` in the same order


class Processes:
    """The processes of a training; made by all of them together.

    Args:
        accelerator: how many there are, and which one this is.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.main = accelerator.is_main_process
        self.several = accelerator.num_processes > 1
        self._group = distributed.new_group(backend="gloo") if self.several else None
        self._key = f"seqtrack/spoken/{next(_numbers)}"

    def agree(self, *values: int) -> list[int]:
        """Return the largest of what the processes gave, value by value."""
        if not self.several:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.int64)
        distributed.all_reduce(tensor, op=distributed.ReduceOp.MAX, group=self._group)
        return [int(value) for value in tensor]

    def on_main(self, work: Callable[[], T]) -> T | None:
        """Run something on the main process alone, while the others wait; they get None.

        Raises:
            SystemExit: on the others, when the work fails: the main process says why.
        """
        if not self.several:
            return work()
        result, done = None, False
        try:
            if self.main:
                result = work()
            done = True
        finally:
            failed = self.agree(int(not done))[0]
        if failed:
            raise SystemExit(1)
        return result

    def share(self, value: T | None) -> T:
        """Return the main process's value on all of them; what the others give is ignored."""
        values = [value]
        if self.several:
            distributed.broadcast_object_list(values, src=0, group=self._group)
        result: T = values[0]  # type: ignore[assignment]  # None only where T allows it
        return result

    @contextmanager
    def speaking_once(self) -> Iterator[None]:
        """Let one process alone end in an error that several see; the others end with status 1.

        Raises:
            LostProcessError: a process is gone.
        """
        try:
            yield
        except (SeqtrackError, RuntimeError) as error:
            if self.several and not self._speaks_first():
                raise SystemExit(1) from None
            if not self.several or isinstance(error, SeqtrackError) or not _means_lost(error):
                raise
            raise LostProcessError(
                "a process of this training is gone",
                where="train",
                fix="look above for why, and start again: training goes on from the newest checkpoint",
            ) from None
        except SystemExit:  # of one that leaves the word to the main process
            raise
        except BaseException:
            if self.several:
                self._speaks_first()  # the others will miss this process, and need not say so
            raise

    def _speaks_first(self) -> bool:
        try:
            return int(distributed.distributed_c10d._get_default_store().add(self._key, 1)) == 1
        except RuntimeError:  # the store went with the process that kept it
            return True


def _means_lost(error: RuntimeError) -> bool:
    return isinstance(error, distributed.DistError) or LOST.search(str(error)) is not None
