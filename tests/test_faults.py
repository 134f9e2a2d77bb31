"""What may happen to a training: signals, a full disk, damage, a lost process, two at once. It stops, and goes on."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import checkpoints, signals
from pipeline.checkpoints import CheckpointStore, CurvePoint, TrainingState, damage
from pipeline.errors import SeqtrackError, Stopped
from pipeline.training import fit
from tests.starts import Start
from tests.toy import REPOSITORY, Recorder, Toy, accelerator, equal_weights, make_toy, recipe

EVERY = {"checkpoint": {"every": "2 steps", "keep": 9}}  # of 12 steps


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Let Ctrl-C be heard: where the tests run in the background it is ignored, and training keeps it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def uninterrupted(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, TrainingState]:
    job = toy.job(tmp_path_factory.mktemp("whole"), recipe(**EVERY))
    return job.model, fit(job, accelerator(), [])


class Doing(Recorder):
    """Does something at a point of the curve, which the training's own thread reports."""

    def __init__(self, step: int, what: Callable[[], object]) -> None:
        super().__init__()
        self.due, self.what = step, what

    def on_curve(self, point: CurvePoint, samples_per_second: float) -> None:
        if point.step == self.due:
            self.what()


def goes_on(toy: Toy, folder: Path, uninterrupted: tuple[torch.nn.Module, TrainingState], *, after: int) -> None:
    """Start again and see that nothing is different."""
    job, recorder = toy.job(folder, recipe(**EVERY)), Recorder()
    assert fit(job, accelerator(), [recorder]) == uninterrupted[1]
    assert recorder.started_at == after
    assert equal_weights(job.model, uninterrupted[0])


def saved(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_and_saves(
    toy: Toy, tmp_path: Path, uninterrupted: tuple[torch.nn.Module, TrainingState], number: signal.Signals
) -> None:
    before = [signal.getsignal(each) for each in signals.SIGNALS]
    doing = Doing(4, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Stopped) as caught:
        fit(toy.job(tmp_path, recipe(**EVERY)), accelerator(), [doing])
    # The listener heard of step 4, and the request came too late for it.
    assert str(caught.value) == (
        f"train: stopped by {number.name} after step 5; the checkpoint is saved, start again to go on"
    )
    assert caught.value.status == 128 + number
    assert saved(tmp_path)[-1] == 5
    assert [signal.getsignal(each) for each in signals.SIGNALS] == before
    goes_on(toy, tmp_path, uninterrupted, after=5)


def test_a_second_signal_stops_at_once(
    toy: Toy,
    tmp_path: Path,
    uninterrupted: tuple[torch.nn.Module, TrainingState],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signals, "ECHO_SECONDS", 0.0)
    number = signal.SIGTERM

    def twice() -> None:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        raise AssertionError("went on")

    with pytest.raises(Stopped, match="train: stopped by SIGTERM at once; start again to go on from the newest"):
        fit(toy.job(tmp_path, recipe(**EVERY)), accelerator(), [Doing(5, twice)])
    assert 5 not in saved(tmp_path)
    goes_on(toy, tmp_path, uninterrupted, after=4)


def test_what_launchers_pass_on_is_no_second_signal(toy: Toy, tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped, match="after step 4; the checkpoint is saved"):
        fit(toy.job(tmp_path, recipe(**EVERY)), accelerator(), [Doing(3, twice)])


def test_signals_that_are_ignored_stay_so(toy: Toy, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup and the shell's & do
    try:
        fit(toy.job(tmp_path, recipe(**EVERY)), accelerator(), [Doing(3, lambda: os.kill(os.getpid(), signal.SIGINT))])
    finally:
        signal.signal(signal.SIGINT, before)


def test_training_runs_outside_the_main_thread(toy: Toy, tmp_path: Path) -> None:
    states: list[TrainingState] = []
    thread = threading.Thread(target=lambda: states.append(fit(toy.job(tmp_path, recipe()), accelerator(), [])))
    thread.start()
    thread.join()
    assert [state.finished for state in states] == [True]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_stops_all_after_the_same_step(toy: Toy, tmp_path: Path, rank: int) -> None:
    whole = Start(toy=toy.folder, folder=tmp_path / "whole", world_size=2, changes=EVERY)
    assert whole.run() == [0, 0]
    start = replace(whole, folder=tmp_path / "stopped")
    assert replace(start, signal=(rank, signal.SIGTERM, 3)).run() == [143, 143]
    said = [(start.folder / f"rank-{each}.out").read_text() for each in range(2)]
    assert "train: stopped by SIGTERM after step 3; the checkpoint is saved" in said[0]
    assert "stopped" not in said[1]
    assert not any("Traceback" in each for each in said)
    assert start.run() == [0, 0]
    assert start.result()["started_at"] == 3
    assert start.result()["model"] == whole.result()["model"]
    assert start.result()["history"] == whole.result()["history"]


@pytest.mark.parametrize("rank", [0, 1])
def test_when_one_process_is_killed_the_others_say_so_in_one_line(toy: Toy, tmp_path: Path, rank: int) -> None:
    start = Start(toy=toy.folder, folder=tmp_path, world_size=3, changes=EVERY)
    statuses = replace(start, kill=(rank, 3)).run()
    assert statuses[rank] == -9
    assert sorted(status for status in statuses if status is not None) == [-9, 1, 1]
    said = "".join((tmp_path / f"rank-{each}.out").read_text() for each in range(3))
    # One speaks for all, unless rank 0 is gone by then: here it, and no launcher, keeps what they settle that by.
    assert said.count("error: train: a process of this training is gone") in {1, 2}
    assert "Traceback" not in said
    assert start.run() == [0, 0, 0]


@pytest.mark.parametrize("event", range(6, 16))
def test_killed_while_a_checkpoint_is_written(toy: Toy, tmp_path: Path, event: int) -> None:
    """Steps and all that a save does are counted; the first save starts after the second step."""
    start = Start(toy=toy.folder, folder=tmp_path, changes=EVERY)
    assert replace(start, kill=(0, event)).run() == [-9]
    for step in saved(tmp_path / "checkpoints"):
        assert damage(CheckpointStore(tmp_path / "checkpoints", keep=1).path(step)) is None
    assert start.run() == [0]
    assert start.result()["history"]["finished"]
    assert not list((tmp_path / "checkpoints").glob(".step-*"))


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 8]) + data[-2:]


@pytest.mark.parametrize("damaged", [truncated, flipped])
@pytest.mark.parametrize("file", checkpoints.FILES)
def test_a_damaged_newest_is_named_and_the_one_before_used(
    toy: Toy,
    tmp_path: Path,
    uninterrupted: tuple[torch.nn.Module, TrainingState],
    capsys: pytest.CaptureFixture[str],
    damaged: Callable[[bytes], bytes],
    file: str,
) -> None:
    with pytest.raises(Stopped):
        fit(toy.job(tmp_path, recipe(**EVERY)), accelerator(), [Doing(4, lambda: os.kill(os.getpid(), 15))])
    newest = CheckpointStore(tmp_path, keep=9).path(5)
    (newest / file).write_bytes(damaged((newest / file).read_bytes()))
    capsys.readouterr()
    goes_on(toy, tmp_path, uninterrupted, after=4)
    named = f"warning: checkpoint {newest} is passed over: {file} does not have the sha256 in the manifest"
    assert capsys.readouterr().out.splitlines().count(named) == 1


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Make a folder a file system of so many bytes; skip where that takes rights that this process does not have."""
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip("cannot mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def is_refused(toy: Toy, folder: Path, listener: Recorder) -> list[int]:
    """Train until the disk refuses; return the steps of the checkpoints that are left."""
    with pytest.raises(SeqtrackError, match=r"cannot write a checkpoint \(.*; free space or fix permissions") as caught:
        fit(toy.job(folder, recipe(**EVERY)), accelerator(), [listener])
    assert "\n" not in str(caught.value)
    left = saved(folder)
    assert all(damage(CheckpointStore(folder, keep=1).path(step)) is None for step in left)
    assert not list(folder.glob(".step-*"))
    return left


def test_a_full_disk_stops_training_and_keeps_what_is_there(
    toy: Toy, tmp_path: Path, uninterrupted: tuple[torch.nn.Module, TrainingState]
) -> None:
    with small_disk(tmp_path / "disk", 700_000):  # two checkpoints and a bit
        left = is_refused(toy, tmp_path / "disk" / "run", Recorder())
        assert left == [2, 4]
        shutil.copytree(tmp_path / "disk" / "run", tmp_path / "larger")
    goes_on(toy, tmp_path / "larger", uninterrupted, after=4)


def test_files_that_may_not_grow_stop_training(
    toy: Toy, tmp_path: Path, uninterrupted: tuple[torch.nn.Module, TrainingState]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = Doing(5, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard)))
    try:
        left = is_refused(toy, tmp_path, limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert left == [2, 4]
    goes_on(toy, tmp_path, uninterrupted, after=4)


def test_the_disk_of_one_process_stops_all(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("not a folder")
    start = Start(toy=toy.folder, folder=tmp_path, world_size=2, changes=EVERY)
    assert start.run() == [1, 1]
    said = [(tmp_path / f"rank-{rank}.out").read_text() for rank in range(2)]
    assert said[0].count("error: ") == 1
    assert "cannot write a checkpoint" in said[0]
    assert "error" not in said[1]


def test_an_error_of_the_writer_is_raised_at_the_next_step(toy: Toy, tmp_path: Path) -> None:
    class Refusing(Recorder):
        def on_checkpoint(self, store: CheckpointStore, state: TrainingState) -> None:
            raise SeqtrackError("no more room in MLflow")

    with pytest.raises(SeqtrackError, match="no more room in MLflow"):
        fit(toy.job(tmp_path, recipe(**EVERY)), accelerator(), [Refusing()])
    assert saved(tmp_path)[0] == 2
    assert saved(tmp_path)[-1] < 12


def test_one_write_at_a_time_and_none_is_heard_of_before_it_is_complete(toy: Toy, tmp_path: Path) -> None:
    heard: list[tuple[int, str | None, bool]] = []

    class Hearing(Recorder):
        def on_checkpoint(self, store: CheckpointStore, state: TrainingState) -> None:
            alone = threading.current_thread() is not threading.main_thread()
            heard.append((state.step, damage(store.path(state.step)), alone))

    fit(toy.job(tmp_path, recipe(**EVERY)), accelerator(), [Hearing()])
    assert heard == [(step, None, True) for step in (2, 4, 6, 8, 10, 12)]


def test_steps_go_on_while_a_checkpoint_is_written(
    toy: Toy,
    tmp_path: Path,
    uninterrupted: tuple[torch.nn.Module, TrainingState],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The write of step 2 waits for step 3, which so must come first; what is written is step 2 all the same."""
    passed = threading.Event()
    write = CheckpointStore.save

    def late(store: CheckpointStore, snapshot: Any) -> Path:
        assert passed.wait(60)
        return write(store, snapshot)

    monkeypatch.setattr(CheckpointStore, "save", late)
    job = toy.job(tmp_path, recipe(**EVERY))
    assert fit(job, accelerator(), [Doing(3, passed.set)]) == uninterrupted[1]
    assert equal_weights(job.model, uninterrupted[0])
    for step in (4, 6, 8, 10, 12):
        shutil.rmtree(job.checkpoints.path(step))
    monkeypatch.setattr(CheckpointStore, "save", write)
    goes_on(toy, tmp_path, uninterrupted, after=2)


HOLD = """
import sys
from pathlib import Path
from pipeline.checkpoints import CheckpointStore
with CheckpointStore(Path(sys.argv[1]), keep=1).locked():
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_second_training_of_the_same_is_kept_out_until_the_first_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "LOCK_SECONDS", 0.0)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    store = CheckpointStore(tmp_path, keep=1)
    with (
        pytest.raises(SeqtrackError, match="another process is doing this very training; wait for it, or"),
        store.locked(),
    ):
        pass
    holder.kill()  # as kill -9 does: nothing is tidied up
    holder.wait()
    with store.locked():
        pass


def test_a_folder_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(SeqtrackError, match="cannot write checkpoints"),
        CheckpointStore(tmp_path / "file" / "run", keep=1).locked(),
    ):
        pass
