"""Writing checkpoints beside the training, so that steps do not wait for the disk.

Promises: one checkpoint is in flight at most, and is complete before anyone hears of it; what goes wrong is raised in
the training's own thread, at the next save or at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from pipeline.checkpoints import CheckpointStore, Snapshot, TrainingState


class CheckpointWriter:
    """A thread that writes.

    Args:
        store: where to.
        tell: called with a checkpoint's state when it is complete, in the writing thread.
    """

    def __init__(self, store: CheckpointStore, tell: Callable[[TrainingState], None]) -> None:
        self._store = store
        self._tell = tell
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def failed(self) -> bool:
        """Whether a write has ended in an error that nobody has seen yet."""
        return self._error is not None

    def save(self, snapshot: Snapshot) -> None:
        """Start to write; the one before must have been waited for, or two copies would be in memory."""
        assert self._thread is None
        # A daemon: a second signal leaves at once, as a kill would, and that is safe at any moment of a write.
        self._thread = threading.Thread(target=self._write, args=(snapshot,), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is in flight.

        Raises:
            SeqtrackError: the disk refused; or whatever else a listener raised.
        """
        self.settle()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def settle(self) -> None:
        """Wait until nothing is in flight, and keep errors."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, snapshot: Snapshot) -> None:
        try:
            self._store.save(snapshot)
            self._tell(snapshot.state)
        except BaseException as error:  # noqa: BLE001 - raised again in the training's thread
            self._error = error
