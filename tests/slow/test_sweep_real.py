"""Sweeps of real DVC experiments with a tiny model: in parallel, failing, stopped early, killed and gone on with."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import psutil
import pytest
from ruamel.yaml import YAML

from tests.clone import Clone, clean_environment, make_small

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    folder = tmp_path_factory.mktemp("sweep")
    clone = Clone.make(folder / "clone")
    make_small(clone, folder / "encoder")
    clone.set_params(evaluate__bootstrap_samples=100, evaluate__slices=[])
    clone.commit("quick")
    yield clone
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(str(clone.folder)):
                process.kill()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def sweep(clone: Clone, *arguments: str) -> subprocess.CompletedProcess[str]:
    return clone.run(sys.executable, "-m", "stages.sweep", *arguments, check=False)


def study_of(clone: Clone, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{clone.folder}/.seqtrack/sweeps/{name}.db")


def test_a_grid_in_parallel_with_a_trial_that_fails(clone: Clone) -> None:
    clone.set_params(
        sweep__sampler="grid",
        sweep__n_jobs=2,
        sweep__space={"train.metric_for_best_model": ["loss", "nonsense"], "train.learning_rate": [0.003, 0.01]},
    )
    before = (clone.folder / "params.yaml").read_bytes()
    planned = sweep(clone, "--dry-run", "--name", "grid")
    assert planned.returncode == 0
    assert "4, 2 at a time" in planned.stdout
    assert not (clone.folder / ".seqtrack").exists()
    done = sweep(clone, "--name", "grid")
    assert done.returncode == 0, done.stdout
    assert (clone.folder / "params.yaml").read_bytes() == before
    assert done.stdout.count("failed: error: params.yaml: train.metric_for_best_model: unknown metric") >= 2, (
        done.stdout
    )
    with (clone.folder / ".seqtrack/sweeps/grid/trials.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["state"] for row in rows] == ["complete", "complete", "fail", "fail"]
    assert float(rows[0]["validation.f1_macro"]) >= float(rows[1]["validation.f1_macro"])
    # Each is a DVC experiment with the params of its row ...
    best = rows[0]["experiment"]
    commit = clone.run("git", "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{best}").stdout.strip()
    params = YAML(typ="safe").load(clone.run("git", "show", f"{commit}:params.yaml").stdout)
    assert params["train"]["learning_rate"] == float(rows[0]["train.learning_rate"])
    # ... and an MLflow run under one parent.
    runs = {run.info.run_id: run for run in clone.mlflow_runs()}
    (parent,) = (run for run in runs.values() if run.info.run_name == "grid")
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["best.experiment"] == best
    assert parent.data.metrics["trials/complete"] == 2
    for row in rows[:2]:
        assert runs[row["run_id"]].data.tags["mlflow.parentRunId"] == parent.info.run_id
    names = {file.path for file in clone.mlflow_client().list_artifacts(parent.info.run_id, "figures")}
    assert {"figures/history.png", "figures/parallel_coordinates.png"} <= names


def test_the_best_is_written_on_request_and_nothing_is_trained_for_it(clone: Clone) -> None:
    clone.set_params(sweep__space={"train.metric_for_best_model": ["loss"], "train.learning_rate": [0.003, 0.01]})
    assert sweep(clone, "--name", "grid").returncode == 1  # another space under an old name
    clone.set_params(
        sweep__space={"train.metric_for_best_model": ["loss", "nonsense"], "train.learning_rate": [0.003, 0.01]}
    )
    runs = len(clone.mlflow_runs())
    study = study_of(clone, "grid")
    for trial in study.trials:
        if trial.state == optuna.trial.TrialState.FAIL:  # so that they are not tried again
            study.enqueue_trial(trial.params, user_attrs={"again": trial.number})
    for _ in range(2):
        study.tell(study.ask().number, state=optuna.trial.TrialState.PRUNED)
    done = sweep(clone, "--name", "grid", "--write-best")
    assert done.returncode == 0, done.stdout
    assert len(clone.mlflow_runs()) == runs
    assert "params.yaml: train.metric_for_best_model: null -> loss" in done.stdout
    text = (clone.folder / "params.yaml").read_text(encoding="utf-8")
    assert "metric_for_best_model: loss" in text
    assert "# e.g. accuracy, loss; null" in text  # comments stay
    clone.set_params(train__metric_for_best_model=None)


def test_what_falls_behind_is_stopped_and_marked(clone: Clone) -> None:
    clone.set_params(
        train__num_train_epochs=3000,
        train__checkpoint__every="200 epochs",
        train__checkpoint__keep=1,
        sweep__sampler="random",
        sweep__n_jobs=1,
        sweep__n_trials=6,
        sweep__space={"train.learning_rate": {"low": 1e-9, "high": 2e-9}},
    )
    made = sweep(clone, "--name", "early", "--space", "missing.yaml")
    assert made.returncode == 1
    assert made.stdout == "error: missing.yaml: file not found.\n"
    # Five that were better at every evaluation, in a study that the first trial below meets.
    file = clone.folder / ".seqtrack/sweeps/early.db"
    study = optuna.create_study(storage=f"sqlite:///{file}", study_name="early", direction="maximize")
    for _ in range(5):
        study.add_trial(
            optuna.create_trial(
                params={"train.learning_rate": 1e-9},
                distributions={"train.learning_rate": optuna.distributions.FloatDistribution(1e-9, 2e-9)},
                value=1.0,
                intermediate_values=dict.fromkeys(range(1, 3001), 1.0),
                user_attrs={"settings": {}},
            )
        )
    done = sweep(clone, "--name", "early")
    assert "trial 5 stopped early: validation.f1_macro" in done.stdout, done.stdout
    assert study_of(clone, "early").trials[5].state == optuna.trial.TrialState.PRUNED
    (run,) = (run for run in clone.mlflow_runs() if run.info.run_name == "early-005")
    assert run.info.status == "KILLED"
    assert run.data.tags["seqtrack.pruned"].startswith("validation.f1_macro")
    assert not list((clone.folder / ".dvc/tmp/exps/standalone").glob("tmp*"))
    assert not clone.run("git", "for-each-ref", "refs/exps/stash").stdout
    assert "early-005" not in clone.run("git", "for-each-ref", "refs/exps").stdout


def test_a_killed_sweep_goes_on_where_it_was(clone: Clone) -> None:
    clone.set_params(
        train__num_train_epochs=60,
        train__checkpoint__every="1 epoch",
        sweep__n_trials=1,
        sweep__pruner="none",
        sweep__space={"train.learning_rate": [0.004]},
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.sweep", "--name", "again"],
        cwd=clone.folder,
        env=clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = clone.folder / ".seqtrack/sweeps/again/logs/again-000.log"
    while process.poll() is None and not _says(log, "train: step"):
        time.sleep(0.2)
    for each in [process, *psutil.Process(process.pid).children(recursive=True)]:
        each.send_signal(signal.SIGKILL)
    process.wait()
    assert not clone.run("git", "for-each-ref", "refs/exps/*/*/again-000").stdout
    done = sweep(clone, "--name", "again")
    assert done.returncode == 0, done.stdout
    assert "trial 0 was interrupted, and goes on" in done.stdout
    assert [trial.state.name for trial in study_of(clone, "again").trials] == ["COMPLETE"]
    assert clone.run("git", "for-each-ref", "refs/exps/*/*/again-000").stdout
    assert len([run for run in clone.mlflow_runs() if run.info.run_name == "again-000"]) == 1


def _says(file: Path, what: str) -> bool:
    return file.exists() and what in file.read_text(encoding="utf-8", errors="replace")
