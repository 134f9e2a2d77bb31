"""Stopping a training in order, on SIGTERM and on Ctrl-C.

Promises: the first signal is a request, which training follows after the step at hand; a second one stops at once.
Handlers are set in the main thread only, where Python allows it, and put back afterwards.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

from pipeline.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# The terminal sends Ctrl-C to all processes, and launchers pass on what they got: those are not second requests.
ECHO_SECONDS = 2.0


class StopSignals:
    """A context in which signals are requests.

    Args:
        at_once: whether the first signal already stops at once, where nothing is to be finished or saved.

    Attributes:
        number: of the signal that asks to stop, 0 for none so far.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.number = 0
        self._at_once = at_once
        self._since = 0.0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for each in SIGNALS:
                before = signal.getsignal(each)
                if before != signal.SIG_IGN:  # started with nohup or in the background: not for us
                    self._before[each] = before
                    signal.signal(each, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, before in self._before.items():
            signal.signal(each, before or signal.SIG_DFL)  # type: ignore[arg-type]  # what getsignal gave

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        first = self.number == 0
        if first:
            self.number, self._since = number, now
        if self._at_once or (not first and now - self._since >= ECHO_SECONDS):
            name = signal.Signals(number).name
            raise Stopped(f"train: stopped by {name} at once; start again to go on from the newest checkpoint", number)
