"""The launcher: accelerate's flags and files, one clear line for a failure, nothing left running."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from ruamel.yaml import YAML

from pipeline import launching
from pipeline.errors import SeqtrackError
from pipeline.launching import fair_threads, launch
from pipeline.params import load_params
from tests.toy import REPOSITORY

CONFIGS = REPOSITORY / "configs" / "accelerate"
KINDS = {
    "cpu": "NO",
    "several_cpus": "MULTI_GPU",
    "mps": "NO",
    "one_gpu": "NO",
    "several_gpus": "MULTI_GPU",
    "several_machines": "MULTI_GPU",
    "fsdp2": "FSDP",
    "deepspeed_zero2": "DEEPSPEED",
    "deepspeed_zero3": "DEEPSPEED",
    "tpu": "XLA",
}
FLAGS = "--num_machines 1 --mixed_precision no --num_cpu_threads_per_process 1 --dynamo_backend no"
TWO = f"--multi_gpu --num_processes 2 --main_process_port 0 {FLAGS}"


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """Put back what a launcher changes in its own process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    environment = dict(os.environ)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[argparse.Namespace]:
    """What accelerate would start, after it has put flags and file together."""
    seen: list[argparse.Namespace] = []
    monkeypatch.setattr(launching, "launch_command", lambda args: seen.append(_validate_launch_command(args)[0]))
    return seen


@dataclass
class Ended:
    status: int
    output: str
    errors: str
    left: list[int]  # processes that go on


class Start:
    """A launcher with its stand-ins, in a folder of its own."""

    def __init__(self, folder: Path, flags: str, how: str) -> None:
        self.folder = folder
        self.launcher = subprocess.Popen(
            [sys.executable, "-m", "stages.launch", *flags.split(), "-m", "tests.ranks", how],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, *names: str) -> None:
        while not all((self.folder / name).exists() for name in names):
            assert self.launcher.poll() is None, self.launcher.communicate()
            time.sleep(0.05)

    def end(self) -> Ended:
        output, errors = self.launcher.communicate(timeout=120)
        pids = [int(file.name.removeprefix("pid-")) for file in self.folder.glob("pid-*")]
        assert pids
        for _ in range(100):  # the kernel kills what a killed launcher leaves, a moment later
            left = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
            if not left:
                break
            time.sleep(0.1)
        return Ended(self.launcher.returncode, output, errors, left)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """All scenarios at once: most of their time is that of imports."""
    found = {}
    scenarios = ["well", "killed", "mistake", "mistake_of_one", "bug", "mute"]
    for first in range(0, len(scenarios), 3):
        starts = {how: Start(tmp_path_factory.mktemp(how), TWO, how) for how in scenarios[first : first + 3]}
        found |= {how: start.end() for how, start in starts.items()}
    return found


def test_only_rank_0_is_heard(ended: dict[str, Ended]) -> None:
    done = ended["well"]
    assert (done.status, done.output) == (0, "rank 0 prints\n")
    assert "rank 0 warns at the level of files\n" in done.errors
    assert "rank 1" not in done.errors


@pytest.mark.parametrize("how", ["well", "killed", "mistake", "mistake_of_one", "bug", "mute"])
def test_nothing_is_left_running(ended: dict[str, Ended], how: str) -> None:
    assert ended[how].left == []


def said(done: Ended) -> list[str]:
    """Standard error without what the stand-in of rank 0 warns of."""
    lines = [line for line in done.errors.splitlines() if "rank 0 warns" not in line]
    return [line for line in lines if not line.startswith("  warnings.warn(")]


def test_a_killed_process_is_named_in_one_line(ended: dict[str, Ended]) -> None:
    done = ended["killed"]
    (line,) = said(done)
    assert line.startswith("error: training process 1 was killed by SIGKILL")
    assert line.endswith(
        "all have been stopped; run the same command again: training goes on from the newest checkpoint."
    )
    assert done.status == 128 + 9


@pytest.mark.parametrize("how", ["mistake", "mistake_of_one"])
def test_a_users_mistake_is_one_line_whoever_finds_it(ended: dict[str, Ended], how: str) -> None:
    assert said(ended[how]) == ["error: data: no rows; add some."]
    assert ended[how].status == 1


def test_a_bug_of_a_silent_process_is_a_traceback(ended: dict[str, Ended]) -> None:
    lines = said(ended["bug"])
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "ZeroDivisionError: the bug"
    assert sum(line.startswith("Traceback") for line in lines) == 1
    assert ended["bug"].status == 1


def test_a_process_that_ends_without_a_word_is_named(ended: dict[str, Ended]) -> None:
    (line,) = said(ended["mute"])
    assert line.startswith("error: training process 1 ended with exit status 7 and without a word")
    assert ended["mute"].status == 7


@pytest.mark.parametrize(
    ("flags", "waiting"),
    [(TWO, ["waiting-0", "waiting-1"]), (f"--num_processes 1 {FLAGS}", ["waiting-0"])],
    ids=["two", "one"],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_all(tmp_path: Path, flags: str, waiting: list[str], number: signal.Signals) -> None:
    start = Start(tmp_path, flags, "wait")
    start.wait_for(*waiting)
    start.launcher.send_signal(number)
    done = start.end()
    assert done.left == []
    assert done.status in {-number, 128 + number}
    assert "Traceback" not in done.errors


def test_there_is_a_file_for_each_kind_of_machine() -> None:
    assert {file.stem for file in CONFIGS.iterdir()} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_the_file(name: str) -> None:
    path = CONFIGS / f"{name}.yaml"
    assert load_config_from_file(str(path)).distributed_type.value == KINDS[name]
    args = launch_command_parser().parse_args(["--config_file", str(path), "--num_processes", "2", "train.py"])
    valid, *_ = _validate_launch_command(args)
    kinds = {"MULTI_GPU": "multi_gpu", "FSDP": "use_fsdp", "DEEPSPEED": "use_deepspeed", "XLA": "tpu"}
    for kind, flag in kinds.items():
        assert bool(getattr(valid, flag)) == (KINDS[name] == kind)
    # Numbers stay in params.yaml, where they are tracked.
    stated = YAML(typ="safe").load(path)
    assert not stated.keys() & {"num_processes", "num_machines", "machine_rank", "mixed_precision"}


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("name", sorted(set(KINDS) - {"cpu", "several_cpus", "tpu"}))
def test_without_a_gpu_its_files_are_refused(name: str, launched: list[argparse.Namespace]) -> None:
    with pytest.raises(SeqtrackError, match=rf"{name}\.yaml: needs a GPU, and torch finds none"):
        launch(["--config_file", str(CONFIGS / f"{name}.yaml"), "--num_processes", "2", "train.py"])
    assert launched == []


def test_without_its_package_a_file_is_refused(launched: list[argparse.Namespace]) -> None:
    with pytest.raises(SeqtrackError, match=r"tpu\.yaml: needs the package torch_xla, which is not installed"):
        launch(["--config_file", str(CONFIGS / "tpu.yaml"), "--num_processes", "8", "train.py"])
    assert launched == []


def test_weights_are_not_divided_on_the_cpu(tmp_path: Path, launched: list[argparse.Namespace]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text((CONFIGS / "fsdp2.yaml").read_text().replace("use_cpu: false", "use_cpu: true"))
    with pytest.raises(SeqtrackError, match=r"mine\.yaml: accelerate divides weights among GPUs alone"):
        launch(["--config_file", str(file), "--num_processes", "2", "train.py"])
    assert launched == []


def test_the_file_wins_and_says_so(
    tmp_path: Path, launched: list[argparse.Namespace], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("distributed_type: MULTI_GPU\nuse_cpu: true\nnum_processes: 3\nmixed_precision: bf16\n")
    launch(["--config_file", str(file), "--num_processes", "1", *FLAGS.split(), "-m", "stages.train"])
    (args,) = launched
    assert (args.num_processes, args.mixed_precision, args.multi_gpu) == (3, "bf16", True)
    assert args.num_cpu_threads_per_process == 1  # what the file does not state is left to the flags
    assert capsys.readouterr().out == f"launch: {file} decides mixed_precision bf16 (not no), num_processes 3 (not 1)\n"


def test_params_as_they_are_go_with_a_file(launched: list[argparse.Namespace]) -> None:
    """As dvc.yaml would pass them on with nothing but launch.config_file and the number of processes changed."""
    flags = []
    for name, value in YAML(typ="safe").load(REPOSITORY / "params.yaml")["launch"].items():
        changed = {"config_file": str(CONFIGS / "several_cpus.yaml"), "num_processes": 2}.get(name, value)
        flags += [] if changed is False else [f"--{name}"] if changed is True else [f"--{name}", str(changed)]
    launch([*flags, "-m", "stages.train"])
    (args,) = launched
    assert args.multi_gpu
    assert args.num_processes == 2
    assert args.mixed_precision == load_params(REPOSITORY / "params.yaml").launch.mixed_precision


def test_a_file_needs_no_flags(launched: list[argparse.Namespace]) -> None:
    launch(["--config_file", str(CONFIGS / "cpu.yaml"), "-m", "stages.train"])
    assert (launched[0].num_processes, launched[0].use_cpu) == (1, True)


def test_no_file_is_an_empty_string(launched: list[argparse.Namespace]) -> None:
    launch(["--config_file", "", "--num_processes", "1", *FLAGS.split(), "-m", "stages.train"])
    assert launched[0].config_file is None


@pytest.mark.parametrize(("name", "processes", "found"), [("several_cpus", 1, "several"), ("cpu", 2, "a single")])
def test_a_file_of_the_wrong_kind_for_so_many_processes(
    name: str, processes: int, found: str, launched: list[argparse.Namespace]
) -> None:
    with pytest.raises(SeqtrackError, match=f"starts {found} process.*found launch.num_processes: {processes}"):
        launch(["--config_file", str(CONFIGS / f"{name}.yaml"), f"--num_processes={processes}", "train.py"])
    assert launched == []


@pytest.mark.parametrize("text", ["num_processes: 2\n", "- 1\n", "a: [\n", "distributed_type: MANY\n", None])
def test_a_file_that_is_none_of_accelerates(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "mine.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SeqtrackError, match=r"launch\.config_file: .*mine\.yaml: not a config file of accelerate"):
        launch(["--config_file", str(file), "train.py"])


def test_flags_that_do_not_go_together_are_one_line() -> None:
    with pytest.raises(SeqtrackError, match=r"params\.yaml: launch: You can only use one of"):
        launch(["--multi_gpu", "--cpu", "--num_processes", "2", *FLAGS.split(), "train.py"])


@pytest.mark.parametrize(("processes", "threads"), [(1, 6), (2, 3), (4, 1), (9, 1)])
def test_processes_share_the_cores_that_they_may_use(
    monkeypatch: pytest.MonkeyPatch, processes: int, threads: int
) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 16 if logical else 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert fair_threads(processes) == threads


@pytest.mark.parametrize(
    ("flags", "threads"),
    [
        ("--num_processes 1 --num_machines 1", 8),
        ("--num_processes 2 --multi_gpu --num_machines 1", 4),
        ("--num_processes 4 --multi_gpu --num_machines 2 --main_process_ip localhost --main_process_port 29", 4),
        ("--num_processes 2 --num_cpu_threads_per_process 3", 3),
    ],
)
def test_zero_threads_are_a_fair_share(
    monkeypatch: pytest.MonkeyPatch, launched: list[argparse.Namespace], flags: str, threads: int
) -> None:
    monkeypatch.setattr(launching, "fair_threads", lambda processes: 8 // processes)
    launch(["--num_cpu_threads_per_process", "0", *flags.split(), "-m", "stages.train"])
    assert launched[-1].num_cpu_threads_per_process == threads
