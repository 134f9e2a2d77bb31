"""A model in several processes: what one process gives, and no process left however the work ends."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipeline import prediction
from pipeline.errors import SeqtrackError
from pipeline.inference import Classifier
from pipeline.prediction_input import Example
from pipeline.replicas import how_many, replicated
from stages.evaluate import evaluate
from stages.predict import predict
from tests.tiny import save_tiny_classifier
from tests.whole_run import enter_copy, set_params

NAMES = ("10", "2", "sport")
TEXTS = [" ".join(["red green blue", "fish bird", "one"][i % 3].split() * (1 + i % 5)) for i in range(230)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_tiny_classifier(path, TEXTS, NAMES, max_length=12)
    return path


def logits_of(classifier: Classifier) -> tuple[npt.NDArray[np.float32], list[int]]:
    """Return the logits of all texts, and the rows of each batch as it was done."""
    done: list[int] = []
    rows = [Example(number, text, None) for number, text in enumerate(TEXTS)]
    return prediction.logits_of(classifier, rows, 16, done.append), done


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread here as in each of several processes: another number of them changes the last bits of a sum."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_several_processes_give_what_one_gives(folder: Path, precision: str) -> None:
    alone = replace(Classifier.load(folder), mixed_precision=precision)
    expected, batches = logits_of(alone)
    with replicated(alone, folder, 2) as together:
        assert together.processes == 2
        assert together.device == alone.device
        found, done = logits_of(together)
        again, _ = logits_of(together)  # evaluate asks once for each split
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()
    assert done == batches
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found, again)


def test_one_process_is_this_one(folder: Path) -> None:
    classifier = Classifier.load(folder)
    with replicated(classifier, folder, 1) as same:
        assert same is classifier


def test_a_killed_process_ends_the_work_in_one_message(folder: Path) -> None:
    def loses_processes() -> None:
        with replicated(Classifier.load(folder), folder, 2) as together:
            logits_of(together)
            for child in multiprocessing.active_children():
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)
            logits_of(together)

    with pytest.raises(SeqtrackError, match="processes has died") as told:
        loses_processes()
    assert "num_processes" in str(told.value)
    assert not multiprocessing.active_children()


PARENT = """
import json, multiprocessing, sys, time
from pathlib import Path
from pipeline.inference import Classifier
from pipeline.replicas import replicated
from tests.test_replicas import logits_of

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with replicated(Classifier.load(folder), folder, 2) as together:
        logits_of(together)
        print(json.dumps([child.pid for child in multiprocessing.active_children()]), flush=True)
        time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks /proc which processes live")
def test_processes_end_with_their_parent(folder: Path, tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(PARENT)
    with subprocess.Popen(
        [sys.executable, str(program), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    ) as parent:
        assert parent.stdout
        lines = iter(parent.stdout.readline, "")
        children = next(json.loads(line) for line in lines if line.startswith("["))
        assert len(children) == 2
        parent.kill()
    deadline = time.monotonic() + 60
    while any(alive(child) for child in children):
        assert time.monotonic() < deadline, "a process outlived the one that started it"
        time.sleep(0.1)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("gpus", "wanted", "rows", "expected"),
    [
        (0, None, 10**9, 1),
        (0, 3, 10, 3),
        (4, None, 10, 1),
        (4, None, 150_000, 3),
        (4, None, 10**9, 4),
        (4, 2, 10, 2),
    ],
)
def test_how_many(monkeypatch: pytest.MonkeyPatch, gpus: int, wanted: int | None, rows: int, expected: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert how_many(wanted, rows, key="predict.num_processes") == expected


def test_more_processes_than_gpus_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(SeqtrackError) as told:
        how_many(3, 10, key="predict.num_processes")
    assert "params.yaml: predict.num_processes" in str(told.value)
    assert "at most 2" in str(told.value)


def test_the_stages_give_the_same(
    finished: Path,
    mlflow_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    enter_copy(finished, tmp_path / "work", mlflow_root, monkeypatch)
    told, records = [], []
    for processes in (1, 2):
        params = set_params(evaluate__num_processes=processes, predict__num_processes=processes)
        evaluate(params)
        predict(params)
        told.append(json.loads(Path("data/reports/metrics.json").read_text()))
        records.append([json.loads(line) for line in Path("data/predictions/test.jsonl").read_text().splitlines()])
    assert "2 processes, " in capsys.readouterr().out
    for split, metrics in told[0].items():
        assert told[1][split] == pytest.approx(metrics, abs=1e-5)
    assert len(records[0]) > 10
    for one, other in zip(*records, strict=True):
        assert {name: value for name, value in other.items() if name != "probabilities"} == {
            name: value for name, value in one.items() if name != "probabilities"
        }
        assert other["probabilities"] == pytest.approx(one["probabilities"], abs=1e-5)
