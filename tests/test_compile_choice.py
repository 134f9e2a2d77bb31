"""Whether to compile: the cheaper way is taken and kept, and measuring leaves no trace in the training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.exc import TorchDynamoException

from pipeline import compile_choice
from pipeline.checkpoints import CheckpointStore
from pipeline.compile_choice import FEWEST_STEPS, TIMED_STEPS, WARM_STEPS, Trial, choose_backend
from pipeline.control import Processes
from pipeline.training import Job, fit, time_steps
from tests.toy import Toy, accelerator, equal_weights, make_toy, recipe

STEPS = WARM_STEPS + TIMED_STEPS


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "choices" / "key.json"


@pytest.fixture(autouse=True)
def plain_again() -> Iterator[None]:
    yield
    torch.compiler.reset()


class Clock:
    """Stands in for the steps: seconds by backend, and whom they were asked of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: tuple[float, float] | Exception) -> None:
        self.seconds, self.asked = seconds, list[str]()
        monkeypatch.setattr(compile_choice, "time_steps", self)

    def __call__(self, job: Job, accelerator: Accelerator, processes: Processes, steps: Sequence[int]) -> list[float]:
        backend = accelerator.state.dynamo_plugin.backend.value.lower()
        self.asked.append(backend)
        found = self.seconds[backend]
        if isinstance(found, Exception):
            raise found
        assert len(steps) == STEPS
        return [found[0] / WARM_STEPS] * WARM_STEPS + [found[1]] * TIMED_STEPS


def chosen(toy: Toy, kept: Path, steps: int = 10_000) -> DynamoBackend:
    one = accelerator()
    choose_backend(one, Processes(one), lambda: job(toy, kept.parent), steps, kept=lambda: kept)
    backend: DynamoBackend = one.state.dynamo_plugin.backend
    return backend


def job(toy: Toy, folder: Path) -> Job:
    return dataclasses.replace(toy.job(folder, recipe()), checkpoints=CheckpointStore(folder / "none", keep=1))


def test_the_faster_way_is_taken_and_kept(
    toy: Toy, kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch, no=(1.2, 0.1), inductor=(60.0, 0.05))
    assert chosen(toy, kept) == DynamoBackend.INDUCTOR
    assert "compiled: 100.0 ms a step plain, 50.0 ms compiled" in capsys.readouterr().out
    assert json.loads(kept.read_text()) == {"compile": True}
    assert chosen(toy, kept) == DynamoBackend.INDUCTOR
    assert clock.asked == ["no", "inductor"]  # once


@pytest.mark.parametrize(("warm", "step", "steps"), [(60.0, 0.05, 1000), (1.2, 0.099, 10**6), (1.2, 0.2, 10**6)])
def test_where_it_does_not_pay_nothing_is_compiled(
    toy: Toy, kept: Path, monkeypatch: pytest.MonkeyPatch, warm: float, step: float, steps: int
) -> None:
    Clock(monkeypatch, no=(1.2, 0.1), inductor=(warm, step))
    assert chosen(toy, kept, steps) == DynamoBackend.NO
    assert json.loads(kept.read_text()) == {"compile": False}


def test_a_short_training_is_not_measured(
    toy: Toy, kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    assert chosen(toy, kept, FEWEST_STEPS - 1) == DynamoBackend.NO
    assert clock.asked == []
    assert not kept.exists()
    assert "199 steps are over before it pays" in capsys.readouterr().out


def test_a_model_that_cannot_be_compiled_is_trained_without(
    toy: Toy, kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Clock(monkeypatch, no=(1.2, 0.1), inductor=TorchDynamoException("no C++ compiler\nmore of it"))
    assert chosen(toy, kept) == DynamoBackend.NO
    assert "train: not compiled: no C++ compiler\n" in capsys.readouterr().out


def test_measuring_leaves_no_trace(toy: Toy, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real steps, in PyTorch's compiler without what needs a C++ compiler."""
    plain = job(toy, kept.parent / "plain")
    expected = fit(plain, accelerator(), [])
    monkeypatch.setattr(compile_choice, "COMPILED", DynamoBackend.EAGER)
    monkeypatch.setattr(compile_choice, "FEWEST_STEPS", 0)
    monkeypatch.setattr(compile_choice, "GAIN", 0.0)  # whatever the clock says
    one = accelerator()
    choose_backend(one, Processes(one), lambda: job(toy, kept.parent), expected.step, kept=lambda: kept)
    assert json.loads(kept.read_text()) == {"compile": False}
    measured = job(toy, kept.parent / "measured")
    assert fit(measured, one, []) == expected
    assert equal_weights(measured.model, plain.model)
    assert not (kept.parent / "none").exists()


def test_steps_are_those_of_the_training_in_seconds(toy: Toy, tmp_path: Path) -> None:
    one = accelerator()
    trial = job(toy, tmp_path)
    before = {name: tensor.clone() for name, tensor in trial.model.state_dict().items()}
    seconds = time_steps(trial, one, Processes(one), [0, 2, 1])
    assert len(seconds) == 3
    assert min(seconds) > 0
    assert any(not torch.equal(tensor, before[name]) for name, tensor in trial.model.state_dict().items())


@given(
    st.lists(st.floats(0.001, 10), min_size=STEPS, max_size=STEPS), st.integers(WARM_STEPS, 10**6), st.integers(1, 100)
)
def test_longer_trainings_take_longer(seconds: list[float], steps: int, more: int) -> None:
    trial = Trial.of(seconds)
    assert trial.total(WARM_STEPS) == pytest.approx(sum(seconds[:WARM_STEPS]))
    assert trial.total(steps + more) >= trial.total(steps)
