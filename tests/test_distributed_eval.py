"""Two processes: what one would compute, each validation row once, no deadlock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.distributed_eval import distributed_logits
from tests.toy import REPOSITORY, Toy, accelerator, make_toy
from tests.two_processes import results

LAUNCH = (
    "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --num_cpu_threads_per_process 1 "
    "--dynamo_backend no --main_process_port 0"
)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two")
    launcher = Path(sys.executable).parent / "accelerate"
    done = subprocess.run(
        [launcher, "launch", *LAUNCH.split(), "-m", "tests.two_processes", str(folder)],
        cwd=REPOSITORY,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("one"))


def test_two_processes_train_as_one_does(ranks: list[dict[str, Any]], toy: Toy, tmp_path: Path) -> None:
    one = results(toy, accelerator(), tmp_path, 2)
    for name in ("losses", "norms", "validation", "weights"):
        assert ranks[0][name] == pytest.approx(one[name], rel=1e-4), name
    assert ranks[0]["best"] == one["best"]
    assert np.allclose(ranks[0]["logits"], one["logits"], atol=1e-4)


def test_both_processes_know_the_same_and_one_tells(ranks: list[dict[str, Any]]) -> None:
    for name in ("losses", "validation", "best", "logits", "weights"):
        assert ranks[0][name] == ranks[1][name]
    assert ranks[0]["heard"] == [3, 6, 9]
    assert ranks[1]["heard"] == []


def test_fewer_rows_than_processes(ranks: list[dict[str, Any]]) -> None:
    assert [rank["one_row"] for rank in ranks] == [[1, 3], [1, 3]]


def test_processes_whose_clocks_disagree_save_together(ranks: list[dict[str, Any]]) -> None:
    assert len(ranks[0]["minutes"]) > 3
    assert ranks[1]["minutes"] == []


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_logits_are_in_the_order_of_the_positions(toy: Toy, batch_size: int) -> None:
    model = toy.model()
    positions = np.array([20, 3, 3, 31, 0, 7])
    found = distributed_logits(model, toy.tokens, positions, batch_size, accelerator())
    assert not model.training
    for position, row in zip(positions, found, strict=True):
        expected = model(**toy.tokens.batch(np.array([position]))).logits[0].detach().numpy()
        assert np.allclose(row, expected, atol=1e-5)
