"""Real dvc and accelerate, interrupted from outside: the same command goes on, wherever DVC ran it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.clone import Clone, clean_environment, make_small

pytestmark = pytest.mark.slow
EPOCHS = 30  # of at least 12 steps


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which all before train is done."""
    clone = Clone.make(tmp_path_factory.mktemp("clone"))
    make_small(clone, tmp_path_factory.mktemp("encoder") / "tiny")
    clone.set_params(train__num_train_epochs=EPOCHS, train__checkpoint__every="10 steps")
    clone.run("dvc", "repro", "tokenize", "split")
    clone.commit("prepared")
    return clone


def started(clone: Clone, *command: str) -> subprocess.Popen[str]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored here, and would be there
    try:
        return subprocess.Popen(
            command,
            cwd=clone.folder,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def wait_for_checkpoint(clone: Clone, known: set[Path]) -> None:
    """Wait until a training that is not among the known ones has saved its second checkpoint."""
    for _ in range(1200):
        folders = set(clone.folder.glob(".seqtrack/checkpoints/*")) - known
        if any(int(step.name[-9:]) >= 20 for folder in folders for step in folder.glob("step-*")):
            return
        time.sleep(0.1)
    raise AssertionError("no checkpoint")


def trainings(clone: Clone) -> list[psutil.Process]:
    """Return the processes that train in this clone or in a copy that DVC made of it."""
    found = []
    for process in psutil.process_iter():
        try:
            line, folder = process.cmdline(), process.cwd()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if "stages.train" in line and "stages.launch" not in line and folder.startswith(str(clone.folder)):
            found.append(process)
    return found


def check_whole(clone: Clone, key_run: int) -> None:
    """See that the last run is one, finished, and has each point of the curve once."""
    run = clone.mlflow_runs()[key_run]
    assert run.info.status == "FINISHED"
    steps = [point.step for point in clone.mlflow_client().get_metric_history(run.info.run_id, "train/loss")]
    assert steps == list(range(10, steps[-1] + 1, 10))
    assert steps[-1] >= 12 * EPOCHS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_under_dvc_repro(prepared: Clone, number: signal.Signals) -> None:
    prepared.set_params(train__seed=100 + number)
    known = set(prepared.folder.glob(".seqtrack/checkpoints/*"))
    runs = len(prepared.mlflow_runs())
    repro = started(prepared, "dvc", "repro", "train")
    wait_for_checkpoint(prepared, known)
    if number == signal.SIGINT:
        os.killpg(repro.pid, number)  # the terminal sends it to all
    else:
        (training,) = trainings(prepared)
        training.send_signal(number)
    said, _ = repro.communicate(timeout=60)
    assert repro.returncode != 0
    assert said.count(f"train: stopped by {number.name} after step ") == 1
    assert "the checkpoint is saved, start again to go on" in said
    assert "Traceback" not in said, said
    assert not (prepared.folder / "data/model").exists()
    assert [run.info.status for run in prepared.mlflow_runs()[runs:]] == ["KILLED"]
    done = prepared.run("dvc", "repro", "train").stdout
    assert "train: resuming after step" in done
    assert len(prepared.mlflow_runs()) == runs + 1
    check_whole(prepared, runs)
    prepared.run("git", "checkout", "--quiet", "--force", ".")
    prepared.run("rm", "-rf", "data/model")


def test_a_killed_temporary_experiment_goes_on(prepared: Clone) -> None:
    known, runs = set(prepared.folder.glob(".seqtrack/checkpoints/*")), len(prepared.mlflow_runs())
    command = ("dvc", "exp", "run", "--temp", "-S", "train.seed=300", "train")
    experiment = started(prepared, *command)
    wait_for_checkpoint(prepared, known)
    for process in [*psutil.Process(experiment.pid).children(recursive=True), psutil.Process(experiment.pid)]:
        process.kill()
    experiment.communicate(timeout=60)
    done = prepared.run(*command).stdout
    assert "train: resuming after step" in done
    assert len(prepared.mlflow_runs()) == runs + 1
    check_whole(prepared, runs)


def test_a_killed_queued_experiment_goes_on(prepared: Clone) -> None:
    known, runs = set(prepared.folder.glob(".seqtrack/checkpoints/*")), len(prepared.mlflow_runs())
    for attempt in range(2):
        prepared.run("dvc", "exp", "run", "--queue", "-S", "train.seed=400", "train")
        worker = started(prepared, "dvc", "queue", "start")
        if attempt == 0:
            wait_for_checkpoint(prepared, known)
            (training,) = trainings(prepared)
            training.kill()
        for _ in range(300):
            status = prepared.run("dvc", "queue", "status").stdout
            if "Queued" not in status and "Running" not in status:
                break
            time.sleep(0.5)
        worker.communicate(timeout=60)  # whose output the queue's own process keeps open until it is done
        assert ("Failed" if attempt == 0 else "Success") in status, status
    assert len(prepared.mlflow_runs()) == runs + 1
    check_whole(prepared, runs)
