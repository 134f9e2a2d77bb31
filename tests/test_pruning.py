"""Checkpoints that are not needed any more: finished trainings lose theirs, and nobody else."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from pipeline.checkpoints import CheckpointStore, Snapshot, TrainingState
from pipeline.paths import checkpoints
from stages.prune import main


def training(name: str, *, finished: bool, steps: tuple[int, ...] = (10, 20)) -> CheckpointStore:
    """Two checkpoints of 4,000 bytes of weights each."""
    store = CheckpointStore(checkpoints(name * 32), keep=9)
    with store.locked():
        for step in steps:
            state = TrainingState(step=step, finished=finished and step == steps[-1])
            weights = {"weight": torch.zeros(1000)}
            store.save(Snapshot(model=weights, optimizer=weights, scheduler={}, scaler=None, state=state))
    return store


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)


def prune(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    monkeypatch.setattr(sys, "argv", ["prune", *flags])
    main()
    return capsys.readouterr().out


def test_finished_trainings_alone_are_deleted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished, going_on, damaged = (training(name, finished=name != "b") for name in "abc")
    (damaged.path(20) / "state.json").write_text('{"of another": "version"}')
    checkpoints("d" * 32).mkdir()  # of a training that ended before its first
    listed = prune(monkeypatch, capsys)
    assert "1 of 4 are finished" in listed
    for words in ("finished", "can go on", "unreadable", "none yet"):
        assert f"│ {words}" in listed
    assert finished.path(20).is_dir()
    assert "MiB freed" in prune(monkeypatch, capsys, "--delete")
    assert not finished.folder.exists()
    for store in (going_on, damaged):
        assert store.path(10).is_dir()
        assert store.path(20).is_dir()
    state = going_on.latest()
    assert state is not None
    assert state.step == 20
    training("a", finished=False)  # the same training can begin anew
    assert "0 of 4 are finished" in prune(monkeypatch, capsys)


def test_what_a_process_is_at_stays(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    store = training("a", finished=True)
    with store.locked():  # with more epochs a finished training goes on
        told = prune(monkeypatch, capsys, "--delete")
    assert f"a process is at {'a' * 32}, which stays" in told
    assert "0 MiB freed" in told
    assert store.path(20).is_dir()


def test_what_goes_while_it_is_looked_at_is_no_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = training("a", finished=False)
    look = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        if path.name == "optimizer.safetensors":  # a training that goes on deletes its older checkpoints
            path.unlink()
        return look(path)

    monkeypatch.setattr(Path, "lstat", lstat)
    assert "0 of 1 are finished" in prune(monkeypatch, capsys)
    assert not (store.path(10) / "optimizer.safetensors").exists()


def test_a_folder_that_goes_while_it_is_looked_at_is_no_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = training("a", finished=False)
    look = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        if path.name == "optimizer.safetensors":
            for other in set(store.folder.glob("step-*")) - {path.parent}:
                shutil.rmtree(other)
        return look(path)

    monkeypatch.setattr(Path, "lstat", lstat)
    assert "0 of 1 are finished" in prune(monkeypatch, capsys)
    assert len(list(store.folder.glob("step-*"))) == 1


def test_a_disk_that_refuses_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    store = training("a", finished=True)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(SystemExit, match=f"^error: {store.folder}: cannot delete checkpoints "):
        prune(monkeypatch, capsys, "--delete")
    assert store.path(20).is_dir()


def test_without_any_training_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no checkpoints in" in prune(monkeypatch, capsys)
    assert "no checkpoints in" in prune(monkeypatch, capsys, "--delete")
