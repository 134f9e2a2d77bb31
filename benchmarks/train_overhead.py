"""What checkpoints, tracking and progress cost: the training loop with all of them beside the same loop bare.

Both sides train the bundled encoder on the bundled sample, on the same batches, in turn, in one process. The bare side
is a plain loop of PyTorch with the same optimiser, schedule and precision, and scores the validation split as often.

    python -m benchmarks.train_overhead
    python -m benchmarks.train_overhead --epochs 2 --rounds 5 --every "50 steps"
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from benchmarks.jobs import make_job
from benchmarks.machine import describe
from pipeline.params import load_params
from pipeline.training import Job

ROOT = Path(__file__).parent.parent
PACKAGES = ("torch", "transformers", "accelerate", "mlflow")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of the command line."""

    epochs: float
    rounds: int
    every: str
    precision: str
    json: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=float, default=1.0, help="of a training, 106 steps each")
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each side")
    parser.add_argument("--every", default="1 epoch", help="train.checkpoint.every")
    parser.add_argument("--precision", default="bf16", choices=["no", "bf16"])
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "train_overhead.json")
    options = Options(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        home = Path.cwd()
        os.chdir(folder)  # stages' paths are relative to the repository
        try:
            bare, whole = alternate(options)
        finally:
            os.chdir(home)
    ratio = statistics.median(whole) / statistics.median(bare)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    report = {
        **describe(PACKAGES),
        "command": "python -m benchmarks.train_overhead " + " ".join(sys.argv[1:]),
        "bare_seconds": bare,
        "whole_seconds": whole,
        "ratio_of_medians": ratio,
    }
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    print("| Loop | Median seconds | Fastest | Slowest |")
    print("| --- | ---: | ---: | ---: |")
    for name, seconds in (("bare", bare), ("with checkpoints, tracking, progress", whole)):
        print(f"| {name} | {statistics.median(seconds):.1f} | {min(seconds):.1f} | {max(seconds):.1f} |")
    print(f"\nThe whole loop takes {ratio:.3f} times as long as the bare one.")


def prepare(folder: Path) -> None:
    """Run the stages before train in an empty folder."""
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (folder / "dvc.yaml").write_text("")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for stage in ("fetch", "validate", "split", "tokenize"):
        command = [sys.executable, "-m", f"stages.{stage}"]
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


def alternate(options: Options) -> tuple[list[float], list[float]]:
    """Return the seconds of each training, bare and whole, which take turns; the first turn of each is for warming."""
    seconds: dict[Callable[..., float], list[float]] = {train_bare: [], train_whole: []}
    for turn in range(options.rounds + 1):
        epochs = options.epochs if turn else 0.1
        for train, found in seconds.items():
            found.append(train(options, epochs, turn))
            print(f"{train.__name__}: {epochs:g} epochs in {found[-1]:.1f} s", file=sys.stderr)
    return seconds[train_bare][1:], seconds[train_whole][1:]


def train_bare(options: Options, epochs: float, turn: int) -> float:
    from pipeline.batches import step_seed
    from pipeline.distributed_eval import distributed_logits
    from pipeline.optimization import build_optimizer, build_scheduler
    from pipeline.training import plan_of

    job, accelerator = job_of(options, epochs, Path("bare") / str(turn))
    started = time.perf_counter()
    recipe, plan = job.recipe, plan_of(job.tokens.lengths[job.train.positions], job.recipe, 1)
    named = build_optimizer(job.model, recipe, loss_scaling=False)
    scheduler = build_scheduler(named.optimizer, recipe, plan.total_steps, maximize=True)
    model, optimizer = accelerator.prepare(job.model, named.optimizer)
    for step in range(plan.total_steps):
        torch.manual_seed(step_seed(recipe.seed, step, 0))
        model.train()
        rows = plan.global_batch(step)
        logits = model(**job.tokens.batch(job.train.positions[rows])).logits
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(job.train.labels[rows]))
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if plan.ends_epoch(step + 1) or step + 1 == plan.total_steps:
            distributed_logits(
                model, job.tokens, job.validation.positions, recipe.per_device_eval_batch_size, accelerator
            )
    return time.perf_counter() - started


def train_whole(options: Options, epochs: float, turn: int) -> float:
    from pipeline.listeners import ToMlflow, ToTerminal
    from pipeline.tracking import tracked_run
    from pipeline.training import fit

    job, accelerator = job_of(options, epochs, Path("checkpoints") / str(turn))
    with tracked_run(f"{turn:064x}", "overhead") as run:  # as train does, before its clock starts
        started = time.perf_counter()
        fit(
            job,
            accelerator,
            [ToMlflow(run, job.checkpoints, job.recipe.checkpoint.log_to_mlflow), ToTerminal(job.labels.problem_type)],
        )
        return time.perf_counter() - started


def job_of(options: Options, epochs: float, checkpoints: Path) -> tuple[Job, Accelerator]:
    checkpoint = load_params().train.checkpoint.model_copy(update={"every": options.every})
    return make_job(checkpoints, options.precision, num_train_epochs=epochs, checkpoint=checkpoint)


if __name__ == "__main__":
    main()
