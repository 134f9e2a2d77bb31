"""One of two training processes is killed: all stop with one line, and the next start goes on."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.clone import Clone, make_small

pytestmark = pytest.mark.slow

KILL = """
import os, signal
from pipeline import batches
micro_batches = batches.BatchPlan.micro_batches
def die(self, step, rank):
    if (step, rank) == (10, 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return micro_batches(self, step, rank)
batches.BatchPlan.micro_batches = die
from stages.train import main
main()
"""


def test_all_stop_and_the_next_start_resumes(tmp_path: Path) -> None:
    clone = Clone.make(tmp_path / "clone")
    make_small(clone, tmp_path / "encoder")
    clone.set_params(
        train__checkpoint__every="4 steps",
        launch__config_file="configs/accelerate/several_cpus.yaml",
        launch__num_processes=2,
    )
    clone.run("dvc", "repro", "tokenize", "split")
    (clone.folder / "kill.py").write_text(KILL, encoding="utf-8")
    died = clone.run("python", "-m", "stages.launch", *clone.launch_flags(), "kill.py", check=False)
    assert died.returncode == 128 + 9
    errors = [line for line in died.stdout.splitlines() if "error" in line.lower()]
    assert len(errors) == 1, died.stdout
    assert errors[0].startswith("error: training process 1 was killed by SIGKILL")
    assert "Traceback" not in died.stdout
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] and "kill.py" in p.info["cmdline"]]
    died_at = max(clone.checkpoint_steps())
    (clone.folder / "kill.py").unlink()
    # accelerate's own launcher does as well; an empty name is no file to it, so flags say it all.
    flags = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision bf16 --num_cpu_threads_per_process 1"
    done = clone.run("accelerate", "launch", *flags.split(), "--dynamo_backend", "no", "-m", "stages.train")
    assert f"resuming after step {died_at} of" in done.stdout
    assert done.stdout.count("best checkpoint by") == 1
    (run,) = clone.mlflow_runs()
    assert run.info.status == "FINISHED"
