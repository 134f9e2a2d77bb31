"""Trainer's side of the GLUE tables: a pool of processes, one training each, on the rows of our splits.

Promises: a training that fails is named with its log and keeps no other from running; a result is kept when it ends.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from benchmarks.glue_runs import Result, Results, Unit
from benchmarks.glue_workspace import environment, git, rows_digest, workspace
from benchmarks.machine import describe
from pipeline.console import say
from pipeline.errors import SeqtrackError
from pipeline.model_source import resolve
from pipeline.outputs import read_json, sha256_json
from pipeline.params import load_params
from pipeline.paths import PARAMS_FILE

PACKAGES = ("torch", "transformers", "accelerate")
PROTOCOL = 1  # of trainer_baseline: raise it when that trains in another way


def run_trainer(
    root: Path, units: Sequence[Unit], results: Results, *, home: Path, jobs: int, threads: int, command: str
) -> list[str]:
    """Train all units that have no result yet.

    Args:
        root: the repository.
        units: what to train.
        results: where results go.
        home: for clones and logs.
        jobs: processes at a time.
        threads: of each.
        command: to keep beside the results.

    Returns:
        What failed, a line each.
    """
    failures = []
    with ThreadPoolExecutor(jobs) as pool:
        started = {pool.submit(_train, root, unit, results, home, threads, command): unit for unit in units}
        for done, future in enumerate(as_completed(started), 1):
            unit = started[future]
            try:
                told = future.result()
            except SeqtrackError as error:
                failures.append(f"Trainer, {unit.label}: {error}")
                told = f"failed: {error}"
            say(f"Trainer {done}/{len(units)} {unit.label}: {told}")
    return failures


def _train(root: Path, unit: Unit, results: Results, home: Path, threads: int, command: str) -> str:
    folder = workspace(root, unit, home / "splits")
    params = load_params(folder / PARAMS_FILE)
    versions = describe(PACKAGES)
    key = sha256_json(
        {
            "side": "Trainer",
            "protocol": PROTOCOL,
            "rows": rows_digest(folder),
            "seed": unit.seed,
            "model": resolve(params.model, weights=True).digest(),
            "max_length": params.tokenize.max_length,
            "epochs": params.train.num_train_epochs,
            "threads": threads,
            **{name: versions[name] for name in PACKAGES},
        }
    )
    if results.has(key):
        return "done before"
    log = home / "logs" / f"trainer-{unit.label}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "result.json"
        arguments = ["--workspace", str(folder), "--seed", str(unit.seed), "--out", str(out)]
        with log.open("wb") as stream:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.trainer_baseline", *arguments],
                cwd=root,
                env=environment(threads),
                stdout=stream,
                stderr=stream,
            )
        if done.returncode:
            raise SeqtrackError(f"exit code {done.returncode}", where=str(log))
        told = read_json(out)
    results.add(
        Result(
            side="Trainer",
            task=unit.task,
            seed=unit.seed,
            fold=unit.fold,
            key=key,
            model=params.model.name_or_path,
            epochs=params.train.num_train_epochs,
            commit=git(root, "rev-parse", "--short=10", "HEAD"),
            made_on=versions,
            **told,
        ),
        command,
    )
    return f"{told['seconds']:.0f} s"
