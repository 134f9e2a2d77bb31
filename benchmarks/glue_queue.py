"""Our side of the GLUE tables: experiments in DVC's queue, one per training.

Promises: an experiment that is there is not run again; params.yaml is afterwards what it was, however this ends; an
experiment that fails is named with its log and keeps no other from running.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException  # type: ignore[import-untyped]

from benchmarks.glue_runs import Result, Results, Unit
from benchmarks.glue_workspace import code_digest, environment, git
from benchmarks.machine import describe
from pipeline.console import say
from pipeline.errors import SeqtrackError
from pipeline.outputs import read_json
from pipeline.params import parse_params
from pipeline.paths import PARAMS_FILE, REPORTS, SPLITS

PACKAGES = ("torch", "transformers", "accelerate")
PAUSE = 10.0  # seconds between looks at the queue
_ROW = re.compile(r"^(?P<task>[0-9a-f]{7,})\s+(?P<name>\S+)\s.*\s(?P<state>Queued|Running|Failed|Success)\s*$")


def run_queue(
    root: Path, units: Sequence[Unit], results: Results, *, home: Path, jobs: int, threads: int, command: str
) -> list[str]:
    """Run all units that have no experiment yet, and keep what they and the others gave.

    Args:
        root: the repository; what stages run on must be committed.
        units: what to train.
        results: where results go.
        home: for logs.
        jobs: experiments at a time.
        threads: of each process.
        command: to keep beside the results.

    Returns:
        What failed, a line each.
    """
    code = code_digest(root)
    wanted = {unit.name(code): unit for unit in units}
    missing = {name: unit for name, unit in wanted.items() if not results.has(name)}
    for name in wanted.keys() - missing.keys():
        say(f"seqtrack {wanted[name].label}: done before")
    here = experiments(root)
    queue = queued(root)
    for name, unit in missing.items():
        if name in here or queue.get(name, ("", ""))[1] in {"Queued", "Running"}:
            continue
        if name in queue:
            dvc(root, "queue", "remove", queue[name][0])  # failed before, or its experiment was removed
        _enqueue(root, name, unit)
    failures, waiting = [], dict(missing)
    while waiting:
        here, told = experiments(root), dvc(root, "queue", "status")
        queue = queue_entries(told)
        # At first, and where workers have ended or were killed; DVC starts those that are missing.
        if workers(told) < jobs and any(queue.get(name, ("", ""))[1] == "Queued" for name in waiting):
            dvc(root, "queue", "start", "--jobs", str(jobs), threads=threads)
        for name in [name for name in waiting if name in here]:
            unit = waiting.pop(name)
            result = collect(root, here[name], name, unit)
            results.add(result, command)
            say(f"seqtrack {len(wanted) - len(waiting)}/{len(wanted)} {unit.label}: {result.seconds:.0f} s")
        for name in [name for name in waiting if queue.get(name, ("", "Failed"))[1] in {"Failed", "Success"}]:
            if name in experiments(root):
                continue  # it ended between the two looks
            unit = waiting.pop(name)
            log = _keep_log(root, queue.get(name, ("", ""))[0], home / "logs" / f"seqtrack-{unit.label}.log")
            failures.append(f"seqtrack, {unit.label}: the experiment {name} failed, see {log}")
            say(failures[-1])
        if waiting:
            time.sleep(PAUSE)
    return failures


def experiments(root: Path) -> dict[str, str]:
    """Return the experiments that are through: name to commit."""
    listing = git(root, "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps")
    pairs = [line.split() for line in listing.splitlines()]
    return {ref.rpartition("/")[2]: commit for ref, commit in pairs if ref.count("/") == 4}


def queued(root: Path) -> dict[str, tuple[str, str]]:
    """Return what is in DVC's queue: name to task id and state, which is Queued, Running, Failed or Success."""
    return queue_entries(dvc(root, "queue", "status"))


def queue_entries(told: str) -> dict[str, tuple[str, str]]:
    """Read the table that `dvc queue status` prints: name to task id and state."""
    rows = (_ROW.match(line) for line in told.splitlines())
    return {row["name"]: (row["task"], row["state"]) for row in rows if row}


def workers(told: str) -> int:
    """Read from what `dvc queue status` prints how many workers the queue has."""
    found = re.search(r"^Worker status: (\d+) active, (\d+) idle", told, re.MULTILINE)
    return 0 if found is None else int(found[1]) + int(found[2])


def collect(root: Path, commit: str, name: str, unit: Unit) -> Result:
    """Return what an experiment gave.

    Raises:
        SeqtrackError: its reports are not in DVC's cache.
    """
    reports = _read(root, commit, REPORTS / "all_results.json")
    metrics = _read(root, commit, REPORTS / "metrics.json")["test"]
    timed = read_json(root / ".seqtrack" / "results" / reports["run_key"] / "all_results.json")
    params = parse_params(git(root, "show", f"{commit}:{PARAMS_FILE}"))
    rows = _read(root, commit, SPLITS / "manifest.json")["rows"]
    return Result(
        side="seqtrack",
        task=unit.task,
        seed=unit.seed,
        fold=unit.fold,
        key=name,
        metrics={key: value for key, value in metrics.items() if not key.endswith(("_low", "_high"))},
        seconds=timed["seconds"]["train"],
        samples_per_second=timed["samples_per_second"]["train"],
        train_rows=rows["train"],
        test_rows=rows["test"],
        model=params.model.name_or_path,
        epochs=params.train.num_train_epochs,
        commit=git(root, "rev-parse", "--short=10", f"{commit}~1"),  # what the experiment started from
        made_on=describe(PACKAGES),
    )


def dvc(root: Path, *arguments: str, threads: int = 1) -> str:
    """Return what dvc says.

    Raises:
        SeqtrackError: it fails.
    """
    # Into a file: workers that `queue start` leaves behind would hold the other end of a pipe open for hours.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=root,
            env=environment(threads) | {"COLUMNS": "400"},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        said.seek(0)
        text = said.read()
    if done.returncode:
        raise SeqtrackError(f"dvc {' '.join(arguments[:2])} failed", where=str(root), found=text.strip()[-500:])
    return text


def _enqueue(root: Path, name: str, unit: Unit) -> None:
    params = (root / PARAMS_FILE).read_bytes()
    fold = () if unit.fold is None else ("-S", f"split.fold={unit.fold}")
    try:
        dvc(root, "exp", "run", "--queue", "--name", name, *unit.flags, "-S", f"train.seed={unit.seed}", *fold)
    finally:
        # DVC puts the changed params into the working folder for a moment.
        if (root / PARAMS_FILE).read_bytes() != params:
            (root / PARAMS_FILE).write_bytes(params)


def _read(root: Path, commit: str, path: Path) -> Any:
    from dvc.api import read  # type: ignore[import-untyped]  # late: it takes its time

    try:
        return json.loads(read(path.as_posix(), repo=str(root), rev=commit))
    except DvcException as error:
        raise SeqtrackError(f"no {path} of this experiment ({error})", where=f"git commit {commit[:10]}") from error


def _keep_log(root: Path, task: str, log: Path) -> Path:
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(dvc(root, "queue", "logs", task) if task else "no log: the entry left DVC's queue\n")
    return log
