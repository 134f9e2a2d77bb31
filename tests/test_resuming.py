"""Going on from a checkpoint that lies elsewhere: the same bits where all is the same, a clear word where it is not."""

from __future__ import annotations

import csv
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest

from pipeline import checkpoints, fine_tuning, resuming
from pipeline.checkpoints import CheckpointStore, CurvePoint
from pipeline.errors import SeqtrackError, Stopped
from pipeline.fine_tuning import CURVE
from pipeline.outputs import read_json, read_manifest
from pipeline.paths import MODEL, REPORTS, state
from tests import test_fine_tuning as stage
from tests.starts import Start
from tests.test_fine_tuning import base, files, latest_run, train
from tests.toy import make_toy, recipe

encoder, work = stage.encoder, stage.work  # fixtures

STEPS = 10  # five an epoch, two epochs; with this data the best is step 5


@pytest.fixture
def stopped_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Train until after a step."""

    def stop(step: int, model: Path, **changes: Any) -> None:
        def on_curve(_: object, point: CurvePoint, samples_per_second: float) -> None:
            if point.step == step - 1:
                os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(fine_tuning.ToTerminal, "on_curve", on_curve)
            with pytest.raises(Stopped, match=f"after step {step}"):
                train(base(model), **changes)

    return stop


def results() -> dict[str, bytes]:
    found = files(MODEL) | files(REPORTS)
    shutil.rmtree(MODEL)
    return found


def moved(name: str = "elsewhere") -> Path:
    """Move the checkpoints of the only training away; return the newest one's new folder."""
    (folder,) = (state() / "checkpoints").iterdir()
    target = Path.cwd() / name
    shutil.move(folder, target)
    return max(target.glob("step-*"))


def logged_steps() -> list[int]:
    return [m.step for m in mlflow.MlflowClient().get_metric_history(latest_run().info.run_id, "train/loss")]


def curve() -> list[dict[str, str]]:
    with CURVE.open() as stream:
        return list(csv.DictReader(stream))


def refused(model: Path, **changes: Any) -> str:
    with pytest.raises(SeqtrackError) as caught:
        train(base(model), **changes)
    assert "\n" not in str(caught.value)
    assert not MODEL.exists()
    return str(caught.value)


@pytest.mark.usefixtures("work")
class TestTheSameTraining:
    def test_a_stopped_training_is_one_run_without_gaps(
        self,
        encoder: Path,
        stopped_at: Any,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        stopped_at(7, encoder, seed=201)
        assert not MODEL.exists()
        assert not (REPORTS / "history.csv").exists()
        assert latest_run().info.status == "KILLED"
        run_id = latest_run().info.run_id
        train(base(encoder), seed=201)
        assert "resuming after step 7 of 10" in capsys.readouterr().out
        assert latest_run().info.run_id == run_id
        assert latest_run().info.status == "FINISHED"
        assert logged_steps() == list(range(1, STEPS + 1))
        resumed = results()
        shutil.rmtree(state() / "checkpoints")
        train(base(encoder), seed=201)
        assert results() == resumed

    def test_from_a_folder_and_from_mlflow(
        self,
        encoder: Path,
        stopped_at: Any,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        stopped_at(7, encoder, seed=202)
        run_id = latest_run().info.run_id
        newest = moved()
        expected: dict[str, bytes] = {}
        for place in (f"runs:/{run_id}/checkpoints/last", str(newest), str(newest.parent)):
            shutil.rmtree(state() / "checkpoints", ignore_errors=True)
            train(base(encoder), seed=202, resume_from=place)
            out = capsys.readouterr().out
            assert "train: going on from " in out
            assert "resuming after step 7 of 10" in out
            assert "equal but for rounding" not in out
            found = results()
            expected = expected or found
            assert found == expected
        shutil.rmtree(state() / "checkpoints")
        train(base(encoder), seed=202)
        assert results() == expected  # run_key and all
        assert latest_run().info.run_id == run_id
        assert list(state().glob("tmp*")) == []

    def test_its_own_newer_checkpoints_win(
        self,
        encoder: Path,
        stopped_at: Any,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        stopped_at(6, encoder, seed=203)
        newest = moved()
        stopped_at(8, encoder, seed=203, resume_from=str(newest))
        assert "resuming after step 6" in capsys.readouterr().out
        train(base(encoder), seed=203, resume_from=str(newest))
        out = capsys.readouterr().out
        assert "resuming after step 8" in out
        assert "going on from" not in out
        assert logged_steps() == list(range(1, STEPS + 1))


@pytest.mark.usefixtures("work")
class TestAnotherTraining:
    def test_more_epochs_go_on_with_the_longer_schedule(
        self,
        encoder: Path,
        stopped_at: Any,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        short_recipe: dict[str, Any] = {"seed": 204, "warmup_ratio": 0.0, "learning_rate": 1e-3}
        train(base(encoder), **short_recipe)
        short = curve()
        run_id, key = latest_run().info.run_id, read_manifest(MODEL)["run_key"]
        shutil.rmtree(MODEL)
        longer = short_recipe | {"num_train_epochs": 4, "resume_from": f".seqtrack/checkpoints/{key}"}
        stopped_at(13, encoder, **longer)
        out = capsys.readouterr().out
        assert "train.num_train_epochs: checkpoint 2.0, now 4.0; the schedule is that of the longer training" in out
        assert "resuming after step 10 of 20" in out
        train(base(encoder), **longer)
        assert "resuming after step 13 of 20" in capsys.readouterr().out
        long = curve()
        assert long[:STEPS] == short
        rates = [float(point["learning_rate"]) for point in long]
        assert rates[:STEPS] == pytest.approx([1e-3 * (1 - step / 10) for step in range(10)])
        assert rates[STEPS:] == pytest.approx([1e-3 * (1 - step / 20) for step in range(10, 20)])
        assert logged_steps() == list(range(1, 21))
        assert latest_run().info.run_id != run_id
        extended = read_manifest(MODEL)["run_key"]
        shutil.rmtree(MODEL)
        # Four epochs from scratch are something else, and find nothing of it.
        train(base(encoder), **{**longer, "resume_from": None})
        assert read_manifest(MODEL)["run_key"] not in {key, extended}
        assert "resuming" not in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("change", "difference"),
        [
            ({"learning_rate": 3e-5}, "train.learning_rate: checkpoint 0.005, now 3e-05"),
            ({"seed": 9}, "train.seed: checkpoint 205, now 9"),
            ({"num_train_epochs": 1}, "train.num_train_epochs: checkpoint 2.0, now 1.0"),
            ({"per_device_train_batch_size": 8}, "total_batch_size: checkpoint 4, now 8"),
            ({"weight_decay": 0.5, "seed": 9}, "train.seed: checkpoint 205, now 9, train.weight_decay: checkpoint"),
        ],
    )
    def test_what_makes_it_another_is_refused_with_both_values(
        self,
        encoder: Path,
        stopped_at: Any,
        change: dict[str, Any],
        difference: str,
    ) -> None:
        stopped_at(6, encoder, seed=205)
        runs = latest_run().info.run_id
        newest = moved()
        message = refused(encoder, **({"seed": 205} | change), resume_from=str(newest))
        assert message.startswith(f"params.yaml: train.resume_from: cannot go on from {newest} (step 6); found ")
        assert difference in message
        assert "set back what differs" in message
        assert latest_run().info.run_id == runs
        assert list((state() / "checkpoints").iterdir()) == []

    def test_another_layout_is_told_of_and_taken_when_asked_for(
        self,
        encoder: Path,
        stopped_at: Any,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        stopped_at(6, encoder, seed=206)
        (folder,) = (state() / "checkpoints").iterdir()
        layout = fine_tuning._layout
        monkeypatch.setattr(fine_tuning, "_layout", lambda processes: replace(layout(processes), threads=7))
        (state() / "checkpoints" / "older" / "step-000000003").mkdir(parents=True)  # of another version, say
        capsys.readouterr()
        stopped_at(2, encoder, seed=206)
        told = [line for line in capsys.readouterr().out.splitlines() if "resume_from" in line]
        place = f".seqtrack/checkpoints/{folder.name}"
        assert told == [
            "train: there is a checkpoint of this training with layout.threads: checkpoint 1, now 7; "
            f"to go on from it: train.resume_from={place}"
        ]
        train(base(encoder), seed=206, resume_from=place)
        out = capsys.readouterr().out
        assert "layout.threads: checkpoint 1, now 7: the result will be equal but for rounding, not to the bit" in out
        assert "resuming after step 6" in out
        key = read_manifest(MODEL)["run_key"]
        assert key not in {each.name for each in (state() / "checkpoints").iterdir() if each.name != key}


@pytest.mark.usefixtures("work")
class TestNothingToGoOnFrom:
    def test_no_folder_and_no_checkpoint(self, encoder: Path, tmp_path: Path) -> None:
        assert "no such folder" in refused(encoder, resume_from=str(tmp_path / "nowhere"))
        (tmp_path / "empty").mkdir()
        assert "no sound checkpoint; expected a folder step-<number>" in refused(
            encoder, resume_from=str(tmp_path / "empty")
        )

    def test_no_run_and_no_such_checkpoint(self, encoder: Path) -> None:
        train(base(encoder), seed=207, checkpoint={"log_to_mlflow": "none"})
        run_id = latest_run().info.run_id
        shutil.rmtree(MODEL)
        assert f"MLflow cannot list checkpoints of run {'0' * 32}" in refused(
            encoder, resume_from=f"runs:/{'0' * 32}/checkpoints/last"
        )
        message = refused(encoder, resume_from=f"runs:/{run_id}/checkpoints/last")
        assert f"run {run_id} has no checkpoint last in MLflow" in message
        assert "log_to_mlflow: last" in message

    def test_damage_on_disk_and_in_mlflow(self, encoder: Path, stopped_at: Any) -> None:
        stopped_at(7, encoder, seed=208)
        run = latest_run()
        newest = moved()
        last = Path(run.info.artifact_uri.removeprefix("file://")) / "checkpoints" / "last"
        assert read_json(last / "state.json")["training"]["step"] == 7
        older = newest.parent / "step-000000005"
        # An upload that was cut off: weights of a newer checkpoint, all else of an older one.
        shutil.copy(older / "model.safetensors", last / "model.safetensors")
        message = refused(encoder, seed=208, resume_from=f"runs:/{run.info.run_id}/checkpoints/last")
        assert "the checkpoint is damaged: model.safetensors does not have the sha256 in the manifest" in message
        (newest / "optimizer.safetensors").write_bytes(b"")
        message = refused(encoder, seed=208, resume_from=str(newest))
        assert "the checkpoint is damaged: optimizer.safetensors does not have" in message
        (older / "state.json").unlink()
        shutil.rmtree(newest)
        assert "no sound checkpoint" in refused(encoder, seed=208, resume_from=str(newest.parent))


@pytest.mark.usefixtures("work")
class TestTheFolderOfCheckpoints:
    def test_two_at_once_are_one_too_many(self, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checkpoints, "LOCK_SECONDS", 0.0)
        train(base(encoder), seed=209)
        key = read_manifest(MODEL)["run_key"]
        shutil.rmtree(MODEL)
        with CheckpointStore(state() / "checkpoints" / key, keep=1).locked():
            assert "another process is doing this very training" in refused(encoder, seed=209)
        assert latest_run().info.status == "FINISHED"  # the run of the first is left alone
        train(base(encoder), seed=209)

    def test_what_others_take_is_said_when_it_is_much(
        self, encoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        train(base(encoder), seed=210)
        train(base(encoder), seed=211)
        assert "other trainings" not in capsys.readouterr().out
        monkeypatch.setattr(resuming, "WORTH_A_WORD", 100_000)
        train(base(encoder), seed=212)
        home = state() / "checkpoints"
        assert f"checkpoints of 2 other trainings take 0.0 GiB in {home}; `make prune`" in capsys.readouterr().out


@pytest.mark.parametrize("value", ["runs:", "runs:/abc", "runs:/abc/model", "runs:/abc/checkpoints/../x"])
def test_a_run_is_named_whole(value: str) -> None:
    with pytest.raises(ValueError, match=r"is no checkpoint of a run; write runs:/<run_id>/checkpoints/last"):
        recipe(resume_from=value)


@pytest.mark.parametrize("world_size", [1, 4])
def test_two_processes_checkpoint_goes_on_with_one_and_with_four(tmp_path: Path, world_size: int) -> None:
    make_toy(tmp_path / "toy")
    changes = {
        "per_device_train_batch_size": 1,
        "total_train_batch_size": 4,
        "logging_steps": 1,
        "checkpoint": {"every": "2 steps", "keep": 9},
    }
    two = Start(toy=tmp_path / "toy", folder=tmp_path / "two", world_size=2, changes=changes, dropout=False)
    assert two.run() == [0, 0]
    stopped = replace(two, folder=tmp_path / "stopped")
    assert replace(stopped, signal=(1, signal.SIGTERM, 4)).run() == [143, 143]
    other = replace(stopped, world_size=world_size)
    assert other.run() == [0] * world_size
    whole, rest = two.result(), other.result()
    assert rest["started_at"] == 4
    for rank in range(world_size):
        assert other.result(rank)["batches"] == whole["batches"][4:]
    for epoch in (whole["batches"][:6], whole["batches"][6:]):
        assert sorted(row for batch in epoch for row in batch) == list(range(21))
    losses = [[point["loss"] for point in each["history"]["curve"]] for each in (rest, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
