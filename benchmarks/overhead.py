"""What the pipeline adds to its stages: `dvc repro` beside the same stages started by hand, one after the other.

Both sides run everything from nothing, in turn, each time in a fresh clone of a copy of the repository, on the bundled
sample. The stages' own seconds are those that the run in MLflow has: without starting Python and, in train, without
loading libraries.

    python -m benchmarks.overhead
    python -m benchmarks.overhead --rounds 1 --small
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks.machine import describe
from benchmarks.timing import RESULTS, Spread, alternate, print_table, tell, write_report
from tests.clone import Clone, make_small

PACKAGES = ("torch", "transformers", "accelerate", "mlflow", "dvc")
OWN = "stage_seconds/"  # of metrics in MLflow
AIM = 1.1


@dataclass(frozen=True, kw_only=True)
class Run:
    """The whole pipeline once: wall time in seconds, and what its stages say that they took."""

    seconds: float
    own_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side")
    parser.add_argument("--epochs", type=float, default=3, help="of the training")
    parser.add_argument("--small", action="store_true", help="240 made-up rows and a tiny encoder instead")
    parser.add_argument("--json", type=Path, default=RESULTS / "overhead.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = Clone.make(folder / "base")
        if options.small:
            make_small(base, folder / "encoder")
        base.set_params(train__num_train_epochs=options.epochs)
        base.commit("settings")
        sides: dict[str, Callable[[int], Run]] = {
            "dvc repro": partial(measure, base, by_dvc),
            "stages by hand": partial(measure, base, by_hand),
        }
        found = alternate(sides, options.rounds)
    write_report(
        options.json,
        {
            **describe(PACKAGES),
            "command": " ".join(["python -m benchmarks.overhead", *sys.argv[1:]]),
            "results": {side: [asdict(run) for run in runs] for side, runs in found.items()},
        },
    )
    print_table(
        ["Side", "Seconds", "Stages' own seconds"],
        [
            [side, whole(runs).text(), Spread.of([run.own_seconds for run in runs]).text()]
            for side, runs in found.items()
        ],
    )
    dvc, hand = found.values()
    print(f"\n- `dvc repro` takes {whole(dvc).median / whole(hand).median:.3f} times as long as its stages by hand")
    own = Spread.of([run.seconds / run.own_seconds for run in dvc])
    print(f"- and {own.text('.3f')} times as long as its stages' own work (aim: under {AIM})")


def whole(runs: Sequence[Run]) -> Spread:
    return Spread.of([run.seconds for run in runs])


def measure(base: Clone, side: Callable[[Clone], None], turn: int) -> Run:
    """Run everything in a fresh clone."""
    clone = base.again(base.folder.parent / f"{side.__name__}-{turn}")
    started = time.perf_counter()
    side(clone)
    seconds = time.perf_counter() - started
    (run,) = clone.mlflow_runs()
    own = sum(value for name, value in run.data.metrics.items() if name.startswith(OWN))
    shutil.rmtree(clone.folder)
    tell(f"{side.__name__}: {seconds:.1f} s, of which {own:.1f} s are the stages' own")
    return Run(seconds=seconds, own_seconds=own)


def by_dvc(clone: Clone) -> None:
    clone.run("dvc", "repro")


def by_hand(clone: Clone) -> None:
    stages = YAML(typ="safe").load(clone.folder / "dvc.yaml")["stages"]  # in an order that can be run
    for stage in stages:
        launcher = ["stages.launch", *clone.launch_flags(), "-m"] if stage == "train" else []
        clone.run("python", "-m", *launcher, f"stages.{stage}")


if __name__ == "__main__":
    main()
