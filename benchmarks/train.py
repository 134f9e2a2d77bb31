"""Training beside what people use otherwise: samples per second, the whole run, accuracy and memory.

Ours is the train stage as `dvc repro` starts it: checkpoints, MLflow, a score on validation after each epoch, and every
default of params.yaml; once with dropout as the model's configuration has it, which the others have too, and once
without, which is the default. Beside it Trainer with its defaults, with its best flags, and with those and no dropout,
and a plain loop with accelerate. All train the bundled encoder on MRPC where
SEQTRACK_DATA has it, else on the bundled sample: the rows that the split stage left, the same number of epochs, batch,
learning rate, and in each round the same seed. Each runs in a process of its own, in turn.

Several rounds of our side with batches by length and with batches of any lengths show what quality that costs.

    python -m benchmarks.train
    python -m benchmarks.train --rounds 5 --only seqtrack-default,seqtrack-random
    python -m benchmarks.train --epochs 1 --rounds 1 --rows 128 --only seqtrack,trainer-best
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.timing import RESULTS, Process, Spread, alternate, print_table, run_program, tell, write_report
from benchmarks.workspace import Workspace, name_of_rows, real_rows
from pipeline.labels import LabelSet
from pipeline.model_source import resolve
from pipeline.paths import LABELS

PACKAGES = ("torch", "transformers", "accelerate", "mlflow")
OURS = "seqtrack"
SHIPPED = "seqtrack-default"
RANDOM = "seqtrack-random"
PACKED = "seqtrack-packed"
SIDES = {
    OURS: "this project's train stage, the model's dropout",
    SHIPPED: "this project's train stage, its defaults: no dropout",
    RANDOM: "this project's train stage, its defaults but for batches of any lengths",
    PACKED: "this project's train stage, the model's dropout, train.packing",
    "trainer": "Trainer, defaults",
    "trainer-best": "Trainer, bf16, group_by_length, no checkpoints",
    "trainer-no-dropout": "Trainer, bf16, group_by_length, no checkpoints, no dropout",
    "trainer-workers": "Trainer's best flags and 2 data loader workers",
    "trainer-compiled": "Trainer's best flags and torch_compile",
    "trainer-eager": "Trainer's best flags and eager attention",
    "accelerate": "plain loop with accelerate, bf16",
}
# Of params.yaml, by our sides.
CHANGES: dict[str, dict[str, object]] = {
    OURS: {"train.dropout": None},
    SHIPPED: {},
    RANDOM: {"train.train_sampling_strategy": "random"},
    PACKED: {"train.dropout": None, "train.packing": True},
}
EVAL_BATCH = 64  # of the others
USUAL = (OURS, SHIPPED, "trainer", "trainer-best", "trainer-no-dropout", "accelerate")
# Ours to the sides it is compared with; equal work but for SHIPPED's first two, which draw masks of dropout.
OTHERS = {
    OURS: ("trainer", "trainer-best", "trainer-workers", "trainer-compiled", "trainer-eager", "accelerate"),
    SHIPPED: ("trainer", "trainer-best", "trainer-no-dropout", RANDOM),
    PACKED: ("trainer-best", "trainer-workers", "trainer-compiled", "trainer-eager"),
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one training of one side took.

    Attributes:
        samples_per_second: of the training loop, without evaluations.
        loop_seconds: the same loop's.
        closing_seconds: the part of them, in ours, from the last evaluation until the last checkpoint is in MLflow.
        seconds: of the whole run: start, loading, tokenizing where the side does it, evaluations, saving.
        cpu_seconds: of the whole run.
        accuracy: on validation after the last step.
        peak_mib: main memory of the largest process.
        device_mib: GPU memory, None without a GPU.
    """

    side: str
    samples_per_second: float
    loop_seconds: float
    samples: int
    steps: int
    seconds: float
    cpu_seconds: float
    accuracy: float
    peak_mib: float
    device_mib: float | None
    closing_seconds: float = 0.0

    @property
    def steps_samples_per_second(self) -> float:
        """Return the rate of the steps alone."""
        return self.samples / (self.loop_seconds - self.closing_seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, help="default: train.num_train_epochs")
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each side")
    parser.add_argument("--rows", type=int, help="rows of each split to keep")
    parser.add_argument("--only", default=",".join(USUAL), help=f"sides among {', '.join(SIDES)}")
    parser.add_argument("--json", type=Path, default=RESULTS / "train.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = real_rows(Path(folder) / "work", options.rows)
        if options.epochs:
            workspace = workspace.set_up({"train.num_train_epochs": options.epochs})
        results = compare(workspace, options.only.split(","), options.rounds)
        params, rows = workspace.params(), name_of_rows(workspace)
    ratios = rates_beside_ours(results)
    write_report(
        options.json,
        {
            **describe(PACKAGES),
            "command": " ".join(["python -m benchmarks.train", *sys.argv[1:]]),
            "rows": rows,
            "epochs": params.train.num_train_epochs,
            "results": {side: [asdict(result) for result in found] for side, found in results.items()},
            "ratios": [asdict(ratio) for ratio in ratios],
        },
    )
    first = next(iter(results.values()))[0]
    batch, length = params.train.per_device_train_batch_size, params.tokenize.max_length
    print(
        f"{rows}: {first.samples:,} samples in {params.train.num_train_epochs:g} epochs, batch {batch}, "
        f"max_length {length}; medians of {options.rounds} (lowest to highest)\n"
    )
    show(results)
    print()
    for ratio in ratios:
        print(f"- {ratio.line()}")


def compare(workspace: Workspace, sides: Sequence[str], rounds: int) -> dict[str, list[Result]]:
    """Let sides train in turn on what a workspace holds; round n has the seed of params.yaml plus n."""
    first = workspace.params().train.seed
    runs: dict[str, Callable[[int], Result]] = {
        side: partial(train_ours if side in CHANGES else train_theirs, workspace, side, first) for side in sides
    }
    return alternate(runs, rounds)


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times as many samples per second one side takes as another: the ratio of the medians."""

    ours: str
    theirs: str
    times: float

    def line(self) -> str:
        """Return it in words."""
        return f"{SIDES[self.ours]}: {self.times:.2f} times the samples per second of {SIDES[self.theirs]}"


def rates_beside_ours(
    results: dict[str, list[Result]], rate: Callable[[Result], float] = attrgetter("samples_per_second")
) -> list[Ratio]:
    """Compare each side of ours that ran with each other side that belongs beside it."""
    medians = {side: Spread.of(list(map(rate, found))).median for side, found in results.items()}
    return [
        Ratio(ours=ours, theirs=theirs, times=medians[ours] / medians[theirs])
        for ours, others in OTHERS.items()
        for theirs in others
        if ours in medians and theirs in medians
    ]


def train_ours(workspace: Workspace, side: str, first_seed: int, turn: int) -> Result:
    settings = {"train.seed": first_seed + turn, **CHANGES[side]}
    done = workspace.set_up(settings).train()
    return told(
        Result(
            side=side,
            samples_per_second=done.samples_per_second,
            loop_seconds=done.step_seconds + done.closing_seconds,
            samples=done.samples,
            steps=done.steps,
            seconds=done.process.seconds,
            cpu_seconds=done.process.cpu_seconds,
            accuracy=done.accuracy,
            peak_mib=done.process.peak_mib,
            device_mib=done.device_mib,
            closing_seconds=done.closing_seconds,
        )
    )


def train_theirs(workspace: Workspace, side: str, first_seed: int, turn: int) -> Result:
    params, folder = workspace.params(), workspace.folder
    files = {split: folder / f"{split}.jsonl" for split in ("train", "validation")}
    for split, file in files.items():
        workspace.write_split(split, file)
    task = {
        "model": str(resolve(params.model, weights=True).folder),
        **{split: str(file) for split, file in files.items()},
        "classes": len(LabelSet.read(folder / LABELS).names),
        "seed": first_seed + turn,
        "max_length": params.tokenize.max_length,
        "per_device_eval_batch_size": EVAL_BATCH,
        **{name: getattr(params.train, name) for name in RECIPE},
    }
    (folder / "task.json").write_text(json.dumps(task))
    command = [sys.executable, "-m", "benchmarks.train_sides", side, "task.json"]
    process: Process = run_program(command, folder)
    done = json.loads(process.output.splitlines()[-1])
    return told(
        Result(
            side=side,
            samples_per_second=done["samples"] / done["seconds"],
            loop_seconds=done["seconds"],
            samples=done["samples"],
            steps=done["steps"],
            seconds=process.seconds,
            cpu_seconds=process.cpu_seconds,
            accuracy=done["accuracy"],
            peak_mib=process.peak_mib,
            device_mib=done["device_mib"],
        )
    )


RECIPE = (
    "num_train_epochs",
    "per_device_train_batch_size",
    "learning_rate",
    "warmup_ratio",
    "weight_decay",
)


def told(result: Result) -> Result:
    tell(
        f"{result.side}: {result.samples_per_second:.1f} samples/s, {result.loop_seconds:.1f} s of "
        f"{result.seconds:.1f} s in all ({result.closing_seconds:.1f} s to close), "
        f"accuracy {result.accuracy:.3f}"
    )
    return result


def show(results: dict[str, list[Result]]) -> None:
    on_device = any(one.device_mib for found in results.values() for one in found)
    header = ["Side", "Samples per second", "Whole run, seconds", "Accuracy", "Peak MiB"]
    table = []
    for side, found in results.items():
        cells = [
            SIDES[side],
            Spread.of([one.samples_per_second for one in found]).text(),
            Spread.of([one.seconds for one in found]).text(),
            Spread.of([one.accuracy for one in found]).text(".3f"),
            Spread.of([one.peak_mib for one in found]).text(",.0f"),
        ]
        if on_device:
            cells.append(Spread.of([one.device_mib or 0.0 for one in found]).text(",.0f"))
        table.append(cells)
    print_table([*header, "GPU MiB"] if on_device else header, table)


if __name__ == "__main__":
    main()
