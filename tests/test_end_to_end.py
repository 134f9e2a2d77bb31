"""The promises of the README, kept by real dvc, accelerate and mlflow in a temporary clone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clone import Clone, make_small

AFTER_TRAIN = ["train", "evaluate", "predict", "report", "export"]
FOR_TRAIN = ["validate", "split", "vocabulary", "tokenize"]
ALL = ["fetch", *FOR_TRAIN, *AFTER_TRAIN]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all clones: its path is a parameter, and parameters must be equal for results to be."""
    return tmp_path_factory.mktemp("encoder") / "tiny"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Clone:
    """A clone in which the pipeline ran once and was committed; the tests below leave it clean."""
    clone = Clone.make(tmp_path_factory.mktemp("clone"))
    make_small(clone, encoder)
    clone.set_params(train__num_train_epochs=4)  # so that a training can die between its checkpoints
    clone.commit("four epochs")
    assert clone.stages_run("dvc", "repro") == ALL
    clone.commit("first results")
    return clone


@pytest.fixture
def restored(clone: Clone) -> Clone:
    """The clone, its first results put back before the test."""
    clone.run("git", "checkout", "--quiet", "--force", ".")
    clone.run("dvc", "checkout", "--force")
    return clone


def test_nothing_changed_means_nothing_runs(restored: Clone) -> None:
    done = restored.run("dvc", "repro")
    assert "Data and pipelines are up to date" in done.stdout
    assert "Running stage" not in done.stdout


def test_deleted_outputs_come_back_from_the_cache(restored: Clone) -> None:
    before = restored.lock()
    for folder in ("validated", "splits", "tokenized", "model", "predictions", "reports"):
        restored.run("rm", "-rf", f"data/{folder}")
    assert restored.stages_run("dvc", "repro") == []
    assert (restored.folder / "data/model/model.safetensors").is_file()
    assert restored.lock() == before


def test_nothing_but_the_lock_file_is_left_for_git(clone: Clone) -> None:
    changed = clone.run("git", "show", "--stat", "--name-only", "--format=", "HEAD").stdout.split()
    assert changed == ["dvc.lock"]


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        pytest.param("train.learning_rate=5e-5", AFTER_TRAIN, marks=pytest.mark.slow),  # the queue has it, too
        pytest.param("split.seed=7", ["split", "vocabulary", *AFTER_TRAIN], marks=pytest.mark.slow),
        ("predict.path=data/raw/reviews.csv", ["predict"]),
        ("evaluate.bootstrap_samples=200", ["evaluate", "report"]),
    ],
)
def test_an_override_runs_only_what_depends_on_it(restored: Clone, override: str, stages: list[str]) -> None:
    assert restored.stages_run("dvc", "exp", "run", "-S", override) == stages


def test_touching_a_module_runs_only_the_stages_that_import_it(restored: Clone) -> None:
    module = restored.folder / "pipeline" / "prediction.py"
    module.write_text(module.read_text(encoding="utf-8") + "\n# touched\n", encoding="utf-8")
    assert restored.stages_run("dvc", "repro") == ["predict"]


def test_predictions_of_a_users_own_file_keep_its_order_and_count(restored: Clone) -> None:
    rows = ["id,review", '7,"the food was superb"', '9,"cold and late again"', '8,"really lovely staff"']
    (restored.folder / "data/raw/new.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    restored.set_params(predict__path="data/raw/new.csv")
    restored.run("dvc", "repro")
    lines = (restored.folder / "data/predictions/new.jsonl").read_text(encoding="utf-8").splitlines()
    predictions = [json.loads(line) for line in lines]
    assert [str(prediction["id"]) for prediction in predictions] == ["7", "9", "8"]
    for prediction in predictions:
        assert prediction["label"] == max(prediction["probabilities"], key=prediction["probabilities"].get)
        assert sum(prediction["probabilities"].values()) == pytest.approx(1.0, abs=1e-5)


def test_a_mistyped_key_stops_in_one_line_before_any_work(restored: Clone) -> None:
    params = restored.folder / "params.yaml"
    params.write_text(params.read_text(encoding="utf-8").replace("  learning_rate:", "  learning_rat:"), "utf-8")
    done = restored.run("dvc", "repro", check=False)
    assert done.returncode != 0
    errors = [line for line in done.stdout.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "train.learning_rat: unknown key (did you mean train.learning_rate?)" in errors[0]
    assert "Traceback" not in done.stdout
    assert "optimisation steps" not in done.stdout


def test_an_ill_typed_value_names_what_is_allowed(restored: Clone) -> None:
    restored.set_params(launch__mixed_precision="fp8")
    done = restored.run("dvc", "repro", check=False)
    assert done.returncode != 0
    assert "launch.mixed_precision: invalid value; expected one of no, bf16, fp16; found 'fp8' (str)" in done.stdout
    assert "optimisation steps" not in done.stdout


def test_queued_experiments_share_the_store_at_the_root(restored: Clone) -> None:
    before = {run.info.run_id for run in restored.mlflow_runs()}
    restored.run("dvc", "exp", "run", "--queue", "-S", "train.learning_rate=5e-5", "-S", "train.seed=1,2,3")
    restored.run("dvc", "queue", "start", "--jobs", "2")
    for _ in range(300):
        status = restored.run("dvc", "queue", "status").stdout
        if "Queued" not in status and "Running" not in status:
            break
        restored.run("sleep", "1")
    assert status.count("Success") == 3, status
    runs = [run for run in restored.mlflow_runs() if run.info.run_id not in before]
    assert {run.data.params["train.seed"] for run in runs} == {"1", "2", "3"}
    names = {run.data.tags["dvc.exp_name"] for run in runs}
    assert len(names) == 3
    listed = restored.run("dvc", "exp", "list", "--name-only").stdout.split()
    assert names <= set(listed)
    for run in runs:
        assert restored.stages_run("dvc", "queue", "logs", run.data.tags["dvc.exp_name"]) == AFTER_TRAIN
        assert run.info.status == "FINISHED"
        assert float(run.data.params["train.learning_rate"]) == 5e-5
        assert {"test/accuracy", "best_validation/accuracy", "train/loss", "stage_seconds/predict"} <= set(
            run.data.metrics
        )
        # Checkpoints and artifacts are in the user's repository, not in the copy that DVC has deleted by now.
        key = run.data.tags["seqtrack.run_key"]
        assert list((restored.folder / ".seqtrack" / "checkpoints" / key).glob("step-*"))
        artifacts = {file.path for file in restored.mlflow_client().list_artifacts(run.info.run_id)}
        assert {"checkpoints", "reports", "figures"} <= artifacts


def test_a_killed_training_in_another_clone_goes_on_to_the_same_bytes(restored: Clone, tmp_path: Path) -> None:
    """The same run: one MLflow run, no gap and no double step, and all outputs those of the uninterrupted clone."""
    interrupted = restored.again(tmp_path / "interrupted")
    assert interrupted.stages_run("dvc", "repro", "tokenize", "split") == FOR_TRAIN
    # A listener that kills the process the moment the second checkpoint is on disk, as a power cut would.
    (interrupted.folder / "kill.py").write_text(
        "import os, signal\n"
        "from pipeline import checkpoints\n"
        "save = checkpoints.CheckpointStore.save\n"
        "def save_and_die(self, snapshot):\n"
        "    path = save(self, snapshot)\n"
        "    if snapshot.state.step >= 20:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return path\n"
        "checkpoints.CheckpointStore.save = save_and_die\n"
        "from pipeline.params import load_params\n"
        "from stages.train import train\n"
        "train(load_params())\n",
        encoding="utf-8",
    )
    flags = interrupted.launch_flags()
    died = interrupted.run("python", "-m", "stages.launch", *flags, "kill.py", check=False)
    assert died.returncode == 128 + 9
    assert "error: training process 0 was killed by SIGKILL" in died.stdout
    assert "Traceback" not in died.stdout, died.stdout
    died_at = max(interrupted.checkpoint_steps())
    assert not (interrupted.folder / "data/model").exists()
    (interrupted.folder / "kill.py").unlink()
    done = interrupted.run("dvc", "repro")
    assert f"resuming after step {died_at} of" in done.stdout
    assert all(f"Running stage '{stage}'" in done.stdout for stage in ["fetch", *AFTER_TRAIN])
    assert interrupted.lock() == restored.lock()
    (run,) = interrupted.mlflow_runs()
    steps = [point.step for point in interrupted.mlflow_client().get_metric_history(run.info.run_id, "train/loss")]
    curve = (interrupted.folder / "data/reports/training_curve.csv").read_text(encoding="utf-8").splitlines()
    assert steps == [int(line.partition(",")[0]) for line in curve[1:]]
    assert steps[0] < died_at < steps[-1]
