"""Training state on disk: whole or absent, sound or passed over."""

from __future__ import annotations

import errno
import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from random import Random

import pytest
import torch

from pipeline import checkpoints
from pipeline.checkpoints import (
    CheckpointStore,
    CurvePoint,
    Evaluation,
    Snapshot,
    TrainingState,
    damage,
)
from pipeline.errors import SeqtrackError
from pipeline.optimization import NamedOptimizer, build_optimizer, build_scheduler, optimizer_tensors
from tests.toy import equal_weights, recipe

TRAIN = recipe()


class Trained:
    """A small model with an optimiser and a schedule that have done some steps."""

    def __init__(self, steps: int, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = torch.nn.Sequential(torch.nn.Linear(300, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2))
        self.named: NamedOptimizer = build_optimizer(self.model, TRAIN, loss_scaling=False)
        self.scheduler = build_scheduler(self.named.optimizer, TRAIN, 10)
        for _ in range(steps):
            self.model(torch.randn(4, 300)).square().mean().backward()
            self.named.optimizer.step()
            self.scheduler.step()
            self.named.optimizer.zero_grad()

    def save(self, store: CheckpointStore, step: int, best: int | None = None) -> Path:
        return store.save(self.snapshot(TrainingState(step=step, best_step=best)))

    def snapshot(self, state: TrainingState, scaler: torch.amp.GradScaler | None = None) -> Snapshot:
        return Snapshot.take(self.model, self.named, self.scheduler, scaler, state)


@pytest.fixture
def trained() -> Trained:
    return Trained(3)


def steps(store: CheckpointStore) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in store.folder.iterdir())


def test_everything_comes_back_to_the_bit(trained: Trained, tmp_path: Path) -> None:
    state = TrainingState(
        step=3,
        curve=[
            CurvePoint(step=2, epoch=1 / 3, loss=0.1 + 0.2, learning_rate=1e-4 / 3, grad_norm=2 / 3),
            CurvePoint(step=3, epoch=0.5, loss=5e-324, learning_rate=0.0, grad_norm=None),
        ],
        evaluations=[Evaluation(step=3, epoch=0.5, train_loss=1 / 7, learning_rate=1e-4, metrics={"loss": 1 / 9})],
        best_step=3,
        curve_loss=1 / 11,
        curve_weight=7.0,
        evaluation_loss=1e300,
        evaluation_weight=9.0,
    )
    store = CheckpointStore(tmp_path / "run", keep=1)
    path = store.save(trained.snapshot(state, torch.amp.GradScaler("cpu")))
    other = Trained(0, seed=7)
    scaler = torch.amp.GradScaler("cpu", init_scale=3.0)
    scaler.scale(torch.ones(1))
    assert Snapshot.read(path).restore(other.model, other.named, other.scheduler, scaler) == state
    assert equal_weights(other.model, trained.model)
    saved, found = optimizer_tensors(trained.named), optimizer_tensors(other.named)
    assert saved.keys() == found.keys()
    assert all(torch.equal(saved[name], found[name]) for name in saved)
    assert other.scheduler.get_last_lr() == trained.scheduler.get_last_lr()
    assert [g["lr"] for g in other.named.optimizer.param_groups] == trained.scheduler.get_last_lr()
    assert scaler.get_scale() == 65536.0
    for each in (trained, other):  # and goes on the same way
        torch.manual_seed(5)
        each.model(torch.randn(4, 300)).square().mean().backward()
        each.named.optimizer.step()
        each.scheduler.step()
    assert equal_weights(other.model, trained.model)
    assert other.scheduler.get_last_lr() == trained.scheduler.get_last_lr()


def test_no_checkpoint_holds_a_pickle(trained: Trained, tmp_path: Path) -> None:
    path = trained.save(CheckpointStore(tmp_path, keep=1), 1)
    assert sorted(file.name for file in path.iterdir()) == [
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "training.json",
    ]


def test_the_newest_and_the_best_are_kept(trained: Trained, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "run", keep=2)
    for step, best in ((1, None), (2, 2), (3, 2), (4, 2), (5, 2)):
        trained.save(store, step, best)
    assert steps(store) == [2, 4, 5]
    trained.save(store, 6, 6)
    assert steps(store) == [5, 6]
    found = store.latest()
    assert found is not None
    assert found.step == 6


def test_nothing_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path / "never", keep=1).latest() is None


DAMAGES = {
    "truncated weights": ("model.safetensors", lambda data: data[: len(data) // 2]),
    "empty optimiser": ("optimizer.safetensors", lambda data: b""),
    "no state": ("state.json", None),
    "no manifest": ("manifest.json", None),
    "half a manifest": ("manifest.json", lambda data: data[: len(data) // 2]),
    "a manifest that is a list": ("manifest.json", lambda data: b"[]"),
    "a manifest of nothing": ("manifest.json", lambda data: b'{"schema_version": 1}'),
    "a manifest of zeros": ("manifest.json", lambda data: bytes(len(data))),
    "another version": ("manifest.json", lambda data: data.replace(b'"schema_version": 1', b'"schema_version": 2')),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_passed_over(
    trained: Trained, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = CheckpointStore(tmp_path, keep=9)
    for step in (1, 2, 3):
        trained.save(store, step, 1)
    file, change = DAMAGES[name]
    target = store.path(3) / file
    if change is None:
        target.unlink()
    else:
        target.write_bytes(change(target.read_bytes()))
    found = store.latest()
    assert found is not None
    assert found.step == 2
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert said.startswith(f"warning: checkpoint {store.path(3)} is passed over: ")
    assert file in said or file == "manifest.json"


def test_any_flipped_bit_is_seen(trained: Trained, tmp_path: Path) -> None:
    path = trained.save(CheckpointStore(tmp_path, keep=1), 1)
    random = Random(0)
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        for place in random.sample(range(8 * len(whole)), min(60, 8 * len(whole))):
            data = bytearray(whole)
            data[place // 8] ^= 1 << (place % 8)
            file.write_bytes(data)
            problem = damage(path)
            if problem is None:
                # All that may go unseen is what nothing reads: the manifest's words on inputs, params and rows.
                assert file.name == "manifest.json"
                assert json.loads(data)["files"] == json.loads(whole)["files"]
        file.write_bytes(whole)
    assert damage(path) is None


def test_a_checkpoint_whose_best_is_gone_is_passed_over(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = CheckpointStore(tmp_path, keep=9)
    for step, best in ((1, 1), (2, 2), (3, 2)):
        trained.save(store, step, best)
    (store.path(2) / "model.safetensors").unlink()
    found = store.latest()
    assert found is not None
    assert found.step == 1
    assert "the best checkpoint it refers to, step-000000002, is damaged or gone" in capsys.readouterr().out


def test_all_damaged_is_none(trained: Trained, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=9)
    trained.save(store, 1)
    (store.path(1) / "state.json").write_text("{}")
    assert store.latest() is None


def test_a_damaged_one_is_replaced(trained: Trained, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    path = trained.save(store, 1)
    (path / "state.json").write_text("{}")
    trained.save(store, 1)
    assert damage(path) is None


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """A disk that is full after so many bytes, as far as one file can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_refuses_leaves_what_was_there(trained: Trained, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    first = trained.save(store, 1)
    # 10 kB of weights fit, their 20 kB of optimiser state do not.
    with files_no_larger_than(15_000), pytest.raises(SeqtrackError, match=r"cannot write a checkpoint .*free space"):
        trained.save(store, 2)
    assert [path.name for path in tmp_path.iterdir()] == [first.name]
    assert damage(first) is None


def test_a_disk_full_at_the_last_file(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    first = trained.save(store, 1)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_manifest", refuse)
    with pytest.raises(SeqtrackError, match=r"step-000000002: cannot write a checkpoint .*No space left on device"):
        trained.save(store, 2)
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_a_killed_save_is_no_checkpoint_and_is_cleared(trained: Trained, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    path = trained.save(store, 1)
    shutil.copytree(path, tmp_path / ".step-000000007.tmp")  # whole, but never renamed
    found = store.latest()
    assert found is not None
    assert found.step == 1
    trained.save(store, 2)
    assert steps(store) == [2]


def test_state_survives_json() -> None:
    state = TrainingState(step=4, best_step=2, stale=1, finished=True)
    state.curve.append(CurvePoint(step=1, epoch=0.1, loss=1.0, learning_rate=1e-5, grad_norm=None))
    assert TrainingState.from_json(json.loads(json.dumps(asdict(state)))) == state


def test_weights_of_another_model_are_refused(trained: Trained, tmp_path: Path) -> None:
    path = trained.save(CheckpointStore(tmp_path, keep=1), 1)
    with pytest.raises(RuntimeError, match="size mismatch"):
        Snapshot.read(path).restore_weights(
            torch.nn.Sequential(torch.nn.Linear(300, 8), torch.nn.Linear(8, 2), torch.nn.Linear(2, 2))
        )
