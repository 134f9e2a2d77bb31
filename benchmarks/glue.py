"""GLUE's tasks over several seeds, ours beside transformers' Trainer, and the page that tells.

Our side runs as experiments in DVC's queue, each with its task's preset. A run that is done is not run again, so an
interrupted command goes on where it was. The page, docs/results.md, is made from the JSON with all results.

    python -m benchmarks.glue --data ../shared/data
    python -m benchmarks.glue --tasks rte,mrpc --seeds 13,14,15 --jobs 2 --threads 1 --trainer
    python -m benchmarks.glue --set train.learning_rate=5e-5 --out rate.json
    python -m benchmarks.glue --page-only
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.glue_files import prepare
from benchmarks.glue_queue import run_queue
from benchmarks.glue_runs import Results, Unit
from benchmarks.glue_trainer import run_trainer
from benchmarks.glue_workspace import require_clean
from benchmarks.results_page import write_page
from pipeline import presets
from pipeline.console import say
from pipeline.errors import SeqtrackError

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".seqtrack" / "glue"
TASKS = ("cola", "mrpc", "rte", "stsb", "sst2", "qnli")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of the command line."""

    data: Path
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    jobs: int
    threads: int
    trainer: bool
    only: str | None
    settings: tuple[str, ...]
    out: Path
    page_only: bool


def main() -> None:
    """Run as a program."""
    options = parse(sys.argv[1:])
    os.chdir(ROOT)  # presets and params.yaml are found from here
    command = " ".join(["python -m benchmarks.glue", *sys.argv[1:]])
    try:
        failures = [] if options.page_only else run(options, command)
        results = Results(options.out)
        write_page(page := options.out.with_suffix(".md"), results, results.command)
    except SeqtrackError as error:
        sys.exit(f"error: {error}")
    say(f"results: {page}")
    for failure in failures:
        say(failure)
    sys.exit(1 if failures else 0)


def parse(arguments: list[str]) -> Options:
    """Read the command line."""
    data = os.environ.get("SEQTRACK_DATA") or ROOT.parent / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=data, help="folder with tasks, or with one named glue; else the hub"
    )
    parser.add_argument("--tasks", type=_names, default=TASKS, help="presets, with commas")
    parser.add_argument("--seeds", type=_numbers, default=(13, 14, 15), help="of train, for each fold, too")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each training")
    parser.add_argument("--trainer", action="store_true", help="train with transformers' Trainer, too")
    parser.add_argument("--only", choices=["seqtrack", "trainer"], help="one side alone")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="any param")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results.json", help="results, and .md beside it")
    parser.add_argument("--page-only", action="store_true", help="write the page from the results that are there")
    found = vars(parser.parse_args(arguments))
    found |= {"data": found["data"].resolve(), "out": found["out"].resolve(), "settings": tuple(found["settings"])}
    return Options(**found)


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, _names(text)))


def run(options: Options, command: str) -> list[str]:
    """Run what has no result yet; return what failed, a line each."""
    require_clean(ROOT)
    units = units_of(options)
    results = Results(options.out)
    sides = [run_queue] if options.only != "trainer" else []
    sides += [run_trainer] if options.only == "trainer" or (options.trainer and not options.only) else []
    failures: list[str] = []
    for side in sides:
        failures += side(ROOT, units, results, home=HOME, jobs=options.jobs, threads=options.threads, command=command)
    return failures


def units_of(options: Options) -> list[Unit]:
    """Return the trainings in order: one per seed, or per seed and fold."""
    folder = options.data / "glue" if (options.data / "glue").is_dir() else options.data
    overrides = dict(map(presets.parse_override, options.settings))
    units = []
    for task in options.tasks:
        prepared = prepare(task, folder, HOME / "files")
        for part in prepared.parts:
            say(f"{task}: {part.given} is {part.role}")
        given = {
            "fetch.path": str(prepared.path),
            "predict.path": "data/splits/test.parquet",
            "predict.pattern": None,
            "launch.num_cpu_threads_per_process": options.threads,
            **({} if prepared.folds is None else {"split.folds": prepared.folds}),
        }
        flags = tuple(presets.flags(task, {**given, **overrides}))
        folds = [None] if prepared.folds is None else range(prepared.folds)
        units += [
            Unit(task=task, seed=seed, fold=fold, flags=flags, data=prepared.digest)
            for seed in options.seeds
            for fold in folds
        ]
    return units


if __name__ == "__main__":
    main()
