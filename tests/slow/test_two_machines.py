"""Two machines, for which two network namespaces stand in: what reaches the other one goes over a wire."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.toy import REPOSITORY, accelerator, make_toy
from tests.two_processes import results

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="there is no `ip` (iproute2)"),
]
ADDRESSES = ("10.77.41.1", "10.77.41.2")


def ip(command: str) -> None:
    done = subprocess.run(["ip", *command.split()], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"ip {command}: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def machines() -> Iterator[list[str]]:
    names = [f"seqtrack{machine}-{os.getpid()}" for machine in range(2)]
    try:
        for name in names:
            ip(f"netns add {name}")
        # Made inside a namespace, so that no name can clash with one outside.
        ip(f"-n {names[0]} link add wire type veth peer name wire netns {names[1]}")
        for name, address in zip(names, ADDRESSES, strict=True):
            ip(f"-n {name} addr add {address}/24 dev wire")
            ip(f"-n {name} link set wire up")
            ip(f"-n {name} link set lo up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def start(machines: list[str], folder: Path, *arguments: str) -> list[tuple[int, str, str]]:
    """Run a program on both machines, each with a disk of its own; return status, output and errors of each."""
    config = folder / "machines.yaml"
    ready = (REPOSITORY / "configs" / "accelerate" / "several_machines.yaml").read_text(encoding="utf-8")
    config.write_text(ready.replace("use_cpu: false", "use_cpu: true"), encoding="utf-8")
    flags = f"--num_processes 2 --num_machines 2 --main_process_ip {ADDRESSES[0]} --mixed_precision no"
    flags += " --num_cpu_threads_per_process 1 --dynamo_backend no"
    make_toy(folder / "toy")
    started = []
    for rank, name in enumerate(machines):
        shutil.copytree(folder / "toy", folder / f"disk-{rank}" / "toy")
        command = f"ip netns exec {name} {sys.executable} -m stages.launch --config_file {config} {flags}".split()
        command += ["--machine_rank", str(rank), "-m", "tests.two_processes", str(folder / f"disk-{rank}"), "2"]
        started.append(
            subprocess.Popen(
                [*command, *arguments],
                cwd=REPOSITORY,
                env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "wire"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        outputs = [machine.communicate(timeout=150) for machine in started]
    finally:
        for machine in started:
            machine.kill()
    return [(machine.returncode, *output) for machine, output in zip(started, outputs, strict=True)]


def test_two_machines_train_as_one_process_does(machines: list[str], tmp_path: Path) -> None:
    first, second = start(machines, tmp_path)
    assert first[0] == second[0] == 0, (first, second)
    found = [json.loads((tmp_path / f"disk-{rank}" / f"rank-{rank}.json").read_text()) for rank in range(2)]
    one = results(make_toy(tmp_path / "toy"), accelerator(), tmp_path / "alone")
    for name in ("losses", "norms", "weights"):
        assert found[0][name] == pytest.approx(one[name], rel=1e-4), name
    assert found[0]["weights"] == found[1]["weights"]
    # Rank 0 alone touches its disk, and speaks.
    assert list((tmp_path / "disk-0").glob("checkpoints/step-*"))
    assert {path.name for path in (tmp_path / "disk-1").iterdir()} == {"toy", "rank-1.json"}
    assert "optimisation steps" in first[1]
    assert second[1] == ""


def test_when_one_machine_dies_the_other_says_so_and_stops(machines: list[str], tmp_path: Path) -> None:
    first, second = start(machines, tmp_path, "die")
    assert second[0] == 128 + 9
    assert "error: training process 1 was killed by SIGKILL" in second[2]
    assert first[0] != 0
    errors = [line for line in first[2].splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, first[2]
    assert "a process of this training is gone" in errors[0]
    assert "Traceback" not in first[2]
