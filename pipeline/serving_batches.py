"""Requests that come at once, through the model together.

Promises: each caller gets the answers for its own rows, in order; one caller's trouble is its own, but for a model that
fails, which all in that batch are told; the model runs in one thread, one batch at a time. A caller that goes away
takes its rows along, where they still wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

Row = TypeVar("Row")
Answer = TypeVar("Answer")
Result = TypeVar("Result")


class LineTooLongError(Exception):
    """More rows wait for the model than may."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Asked(Generic[Row, Answer]):
    rows: Sequence[Row]
    answers: asyncio.Future[Sequence[Answer]]


class Merger(Generic[Row, Answer]):
    """Puts rows of several callers into one call of the model; an asynchronous context.

    A caller waits for others only where the batch before had several: one that comes alone is answered at once.

    Args:
        answer: what is said of rows, one answer each; called in a thread of its own.
        max_rows: no request joins others once their rows reach this number.
        max_wait: seconds to wait for others at most.
        max_waiting: rows in line, beyond which nobody joins it.
    """

    def __init__(
        self, answer: Callable[[Sequence[Row]], Sequence[Answer]], *, max_rows: int, max_wait: float, max_waiting: int
    ) -> None:
        self._answer = answer
        self._max_rows, self._max_wait, self._max_waiting = max_rows, max_wait, max_waiting
        self._line: asyncio.Queue[_Asked[Row, Answer]] = asyncio.Queue()
        self._waiting = 0  # rows in line
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    async def __aenter__(self) -> Self:
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._worker.cancel()
        await asyncio.wait([self._worker])
        self._thread.shutdown()

    async def ask(self, rows: Sequence[Row]) -> Sequence[Answer]:
        """Return the answers for rows.

        Raises:
            LineTooLongError: others are waiting, and too many.
        """
        if self._waiting and self._waiting + len(rows) > self._max_waiting:
            raise LineTooLongError(f"{self._waiting:,} rows are waiting for the model")
        asked = _Asked[Row, Answer](rows=rows, answers=asyncio.get_running_loop().create_future())
        self._waiting += len(rows)
        self._line.put_nowait(asked)
        return await asked.answers

    async def run(self, call: Callable[[], Result]) -> Result:
        """Call something between two batches, in the model's thread: whatever else uses the model."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        company = 1  # requests in the last batch
        while True:
            batch = await self._gather(company)
            company = len(batch)
            if not (batch := [asked for asked in batch if not asked.answers.done()]):
                continue
            rows = [row for asked in batch for row in asked.rows]
            work: asyncio.Future[Any] = loop.run_in_executor(self._thread, self._answer, rows)
            await asyncio.wait([work])
            _give(batch, work)

    async def _gather(self, company: int) -> list[_Asked[Row, Answer]]:
        """Wait for a request, and for as many as came last time, though not for long."""
        batch = [await self._line.get()]
        rows = len(batch[0].rows)
        loop = asyncio.get_running_loop()
        until = loop.time() + self._max_wait
        while rows < self._max_rows:
            if self._line.empty():
                left = until - loop.time()
                if len(batch) >= company or left <= 0:
                    break
                try:
                    asked = await asyncio.wait_for(self._line.get(), left)
                except TimeoutError:
                    break
            else:
                asked = self._line.get_nowait()
            batch.append(asked)
            rows += len(asked.rows)
        self._waiting -= rows
        return batch


def _give(batch: Sequence[_Asked[Row, Answer]], work: asyncio.Future[Sequence[Answer]]) -> None:
    failure = work.exception()
    start = 0
    for asked in batch:
        end = start + len(asked.rows)
        if asked.answers.done():  # its caller has gone
            pass
        elif failure is not None:
            asked.answers.set_exception(failure)
        else:
            asked.answers.set_result(work.result()[start:end])
        start = end
