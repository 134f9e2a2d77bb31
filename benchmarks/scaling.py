"""How the cost of training grows: with rows, with max_length, and with two processes in place of one.

The train stage as `dvc repro` starts it, on rows made of random words: as long as MRPC's pairs where rows are varied,
longer than any max_length where that is. Seconds are those of the steps, without evaluations and the end of a training.
An exponent is the slope of log seconds against log size by least squares: 1 is linear.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --base 32 --factors 1,2 --lengths 64,128 --rounds 1
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import describe
from benchmarks.made_rows import mrpc_lengths, write_rows
from benchmarks.timing import RESULTS, Spread, alternate, exponent, print_table, tell, write_report
from benchmarks.workspace import BEFORE_TRAIN, Trained, Workspace

PACKAGES = ("torch", "transformers", "accelerate")
VALIDATION_ROWS = 32
LONG = 20  # tokens by which rows exceed the largest max_length


@dataclass(frozen=True, kw_only=True)
class Case:
    """A training of one epoch; `length` None has rows as long as MRPC's, and the max_length of params.yaml."""

    rows: int
    length: int | None = None
    processes: int = 1

    @property
    def settings(self) -> dict[str, Any]:
        found: dict[str, Any] = {} if self.length is None else {"tokenize.max_length": self.length}
        if self.processes > 1:
            found |= {"launch.num_processes": self.processes, "launch.multi_gpu": True}
        return found

    @property
    def name(self) -> str:
        length = "" if self.length is None else f", max_length {self.length}"
        return f"{self.rows:,} rows{length}, {self.processes} process{'es' if self.processes > 1 else ''}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one training of a case took."""

    case: Case
    steps: int
    epoch_seconds: float
    stage_seconds: float
    peak_mib: float

    @property
    def step_seconds(self) -> float:
        return self.epoch_seconds / self.steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=int, default=256, help="rows that factors multiply")
    parser.add_argument("--factors", type=_numbers, default="1,2,4,8,16,32,64", help="of the base")
    parser.add_argument("--lengths", type=_numbers, default="64,128,256,512", help="values of max_length")
    parser.add_argument("--length-rows", type=int, default=256, help="rows for each max_length")
    parser.add_argument("--process-rows", type=int, default=2048, help="rows for one and two processes; 0 leaves out")
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each case")
    parser.add_argument("--json", type=Path, default=RESULTS / "scaling.json")
    options = parser.parse_args()
    by_rows = [Case(rows=options.base * factor) for factor in options.factors]
    by_length = [Case(rows=options.length_rows, length=length) for length in options.lengths]
    by_processes = [Case(rows=options.process_rows, processes=count) for count in (1, 2) if options.process_rows]
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, Callable[[int], Result]] = {
            case.name: partial(measure, Path(folder), case, max(options.lengths))
            for case in (*by_rows, *by_length, *by_processes)
        }
        results = alternate(runs, options.rounds)
    rows_exponent = _growth(by_rows, [case.rows for case in by_rows], results, "epoch_seconds")
    length_exponent = _growth(by_length, options.lengths, results, "step_seconds")
    write_report(
        options.json,
        {
            **describe(PACKAGES),
            "command": " ".join(["python -m benchmarks.scaling", *sys.argv[1:]]),
            "results": [asdict(result) for found in results.values() for result in found],
            "exponent_of_epoch_seconds_in_rows": rows_exponent,
            "exponent_of_step_seconds_in_max_length": length_exponent,
        },
    )
    print(f"Medians of {options.rounds} (lowest to highest)\n")
    show(results)
    print()
    if rows_exponent is not None:
        print(f"- An epoch's seconds grow as rows to the power of {rows_exponent}.")
    if length_exponent is not None:
        print(f"- A step's seconds grow as max_length to the power of {length_exponent}, where every row fills it.")
    if by_processes:
        one, two = (statistics.median(run.epoch_seconds for run in results[case.name]) for case in by_processes)
        print(f"- Two processes do an epoch in {two / one:.2f} of the time of one, in the same batches.")


def measure(folder: Path, case: Case, longest: int, turn: int) -> Result:
    """Train once on rows made for a case, in a folder that is kept for the next round."""
    place = folder / case.name.replace(" ", "-")
    workspace = prepare(place, case, longest)
    trained = workspace.set_up({"train.seed": workspace.params().train.seed + turn}).train()
    result = result_of(case, trained)
    tell(f"{case.name}: {result.epoch_seconds:.1f} s for {result.steps} steps")
    return result


def prepare(place: Path, case: Case, longest: int) -> Workspace:
    """Return the workspace of a case; all stages before train have run there."""
    done = place.is_dir()
    workspace = Workspace(folder=place).set_up(
        {
            "fetch.source": "none",
            "data.path": "given",
            "train.num_train_epochs": 1,
            **case.settings,
        }
    )
    params = workspace.params()
    size = params.train.per_device_train_batch_size
    if case.processes > 1:
        workspace = workspace.set_up({"train.per_device_train_batch_size": size // case.processes})
    if done:
        return workspace
    given = place / "given"
    given.mkdir()
    for seed, (split, rows) in enumerate({"train": case.rows, "validation": VALIDATION_ROWS}.items()):
        lengths = mrpc_lengths(rows, seed) if case.length is None else np.full(rows, longest + LONG)
        write_rows(given / f"{split}.jsonl", lengths, params.model, seed)
    workspace.run(*BEFORE_TRAIN)
    shutil.rmtree(given)
    return workspace


def result_of(case: Case, trained: Trained) -> Result:
    return Result(
        case=case,
        steps=trained.steps,
        epoch_seconds=trained.step_seconds,
        stage_seconds=trained.process.seconds,
        peak_mib=trained.process.peak_mib,
    )


def show(results: dict[str, list[Result]]) -> None:
    header = ["Case", "Seconds per epoch", "Seconds per step", "Rows per second", "Whole stage, seconds", "Peak MiB"]
    table = []
    for name, found in results.items():
        epochs = Spread.of([one.epoch_seconds for one in found])
        table.append(
            [
                name,
                epochs.text(),
                Spread.of([one.step_seconds for one in found]).text(".3f"),
                f"{found[0].case.rows / epochs.median:,.1f}",
                Spread.of([one.stage_seconds for one in found]).text(),
                Spread.of([one.peak_mib for one in found]).text(",.0f"),
            ]
        )
    print_table(header, table)


def _growth(cases: Sequence[Case], sizes: Sequence[float], results: dict[str, list[Result]], cost: str) -> float | None:
    if len(cases) < 2:
        return None
    return exponent(sizes, [statistics.median(getattr(run, cost) for run in results[case.name]) for case in cases])


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


if __name__ == "__main__":
    main()
