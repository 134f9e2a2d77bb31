"""The runs of the GLUE tables, and what they gave, in one JSON file.

Promises: a run is added to the file when it ends, whole; one that is there already, with the same rows, code and
settings, is not run again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.outputs import read_json, sha256_json, write_json

Side = Literal["seqtrack", "Trainer"]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A training to do: on one task, with one seed, perhaps on one fold.

    Attributes:
        task: the preset.
        seed: train.seed.
        fold: split.fold; None where the task has a test file.
        flags: what `dvc exp run` is to be told, without the seed and the fold.
        data: a digest of the task's files.
    """

    task: str
    seed: int
    fold: int | None
    flags: tuple[str, ...]
    data: str

    @property
    def label(self) -> str:
        """What the unit is called: `rte-seed13`, `qnli-seed13-fold2`."""
        return f"{self.task}-seed{self.seed}" + ("" if self.fold is None else f"-fold{self.fold}")

    def name(self, code: str) -> str:
        """Return the name of the experiment: other flags, files or code give another one.

        Args:
            code: a digest of what the training runs on.
        """
        return f"glue-{self.label}-{sha256_json([*self.flags, self.data, code])[:10]}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a training gave.

    Attributes:
        side: who trained.
        task, seed, fold: as in `Unit`.
        key: tells results of other rows, code or settings apart.
        metrics: of the test rows.
        seconds: of the training.
        samples_per_second: while training.
        train_rows, test_rows: how many there were.
        model: name of the base model.
        epochs: passes over the training rows.
        commit: of the code.
        made_on: date, machine and versions.
    """

    side: Side
    task: str
    seed: int
    fold: int | None
    key: str
    metrics: dict[str, float]
    seconds: float
    samples_per_second: float
    train_rows: int
    test_rows: int
    model: str
    epochs: float
    commit: str
    made_on: dict[str, str] = field(default_factory=dict)


class Results:
    """The file with all results so far; safe to use from several threads.

    Args:
        path: JSON; made when the first result comes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        document: Mapping[str, Any] = read_json(path) if path.is_file() else {"command": "", "results": []}
        self.command: str = document["command"]
        self._results = [Result(**result) for result in document["results"]]

    def __iter__(self) -> Iterator[Result]:
        return iter(tuple(self._results))

    def has(self, key: str) -> bool:
        """Return whether the run of this key is there."""
        return any(result.key == key for result in self._results)

    def add(self, result: Result, command: str) -> None:
        """Keep a result; one of the same side, task, seed and fold is replaced.

        Args:
            result: what a run gave.
            command: what started it; the file keeps all different ones, a line each.
        """
        with self._lock:
            place = (result.side, result.task, result.seed, result.fold)
            others = [r for r in self._results if (r.side, r.task, r.seed, r.fold) != place]
            self._results = [*others, result]
            if command not in self.command.splitlines():
                self.command = f"{self.command}\n{command}".strip()
            write_json(self.path, {"command": self.command, "results": [asdict(r) for r in self._results]})
