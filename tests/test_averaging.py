"""The average of the weights: by its formula, exact under resume, scored and exported in place of the last weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.averaging import SLOT, WeightAverage
from pipeline.checkpoints import CurvePoint
from pipeline.training import Job, fit
from tests.toy import Interruption, Recorder, Toy, accelerator, equal_weights, make_toy, recipe

POWERS = st.floats(0, 20)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy"))


def walk(steps: int, seed: int = 0) -> Iterator[torch.nn.Parameter]:
    """A parameter after each of some steps, with the gradient that moved it."""
    generator = torch.Generator().manual_seed(seed)
    parameter = torch.nn.Parameter(torch.randn(3, 2, generator=generator, dtype=torch.float64))
    parameter.grad = torch.ones_like(parameter)
    for _ in range(steps):
        parameter.data += torch.randn(3, 2, generator=generator, dtype=torch.float64)
        yield parameter


def averaged(seen: list[torch.Tensor], power: float) -> torch.Tensor:
    """By the weights that the recurrence comes to: those of step t are gamma(t + power) / gamma(t)."""
    shares = np.exp([math.lgamma(t + power) - math.lgamma(t) for t in range(1, len(seen) + 1)])
    return torch.tensor(np.average(torch.stack(seen).numpy(), axis=0, weights=shares))


@settings(max_examples=50, deadline=None)
@given(power=POWERS, steps=st.integers(1, 60), seed=st.integers(0, 100))
def test_step_t_counts_about_t_to_the_power(power: float, steps: int, seed: int) -> None:
    average, seen = None, []
    for step, parameter in enumerate(walk(steps, seed), start=1):
        optimizer = torch.optim.SGD([parameter]) if step == 1 else optimizer  # noqa: F821
        average = average or WeightAverage(optimizer, power, total_steps=steps)
        average.update(step)
        seen.append(parameter.detach().clone())
    torch.testing.assert_close(optimizer.state[parameter][SLOT], averaged(seen, power), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("total", "apart"), [(60, 1), (199, 1), (200, 2), (399, 3), (400, 4), (100_000, 4)])
def test_of_many_steps_one_in_four_is_counted(total: int, apart: int) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    optimizer = torch.optim.SGD([parameter])
    average, counted = WeightAverage(optimizer, 0.0, total), []
    for step in range(1, 41):
        parameter.data.fill_(step)
        average.update(step)
        if step % apart == 0:
            counted.append(step)
    assert float(optimizer.state[parameter][SLOT]) == pytest.approx(np.mean(counted))


def test_it_is_in_place_only_while_asked_for() -> None:
    one, other, idle = (torch.nn.Parameter(torch.full((2,), value)) for value in (1.0, 2.0, 3.0))
    optimizer = torch.optim.AdamW([{"params": [one, idle]}, {"params": [other]}], lr=0.1)
    average = WeightAverage(optimizer, 1.0, total_steps=3)
    with average.in_place():  # of nothing yet
        assert one.tolist() == [1.0, 1.0]
    for step in (1, 2, 3):
        one.grad, other.grad = torch.ones(2), torch.ones(2)
        optimizer.step()
        average.update(step)
    last = [parameter.detach().clone() for parameter in (one, other, idle)]
    with average.in_place():
        assert torch.equal(one, optimizer.state[one][SLOT])
        assert torch.equal(other, optimizer.state[other][SLOT])
        assert not torch.equal(one, last[0])
        assert idle.tolist() == [3.0, 3.0]  # what no step reached has no average
    assert all(torch.equal(a, b) for a, b in zip((one, other, idle), last, strict=True))
    assert one.requires_grad
    assert idle not in optimizer.state or SLOT not in optimizer.state[idle]


class Weights(Recorder):
    """Keeps the weights after each step."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.model = job.model
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_curve(self, point: CurvePoint, samples_per_second: float) -> None:
        self.seen.append({name: value.detach().clone() for name, value in self.model.named_parameters()})


def test_the_model_of_a_training_is_the_average_of_its_steps(toy: Toy, tmp_path: Path) -> None:
    plain = toy.job(tmp_path / "plain", recipe(), toy.model())
    steps = Weights(plain)
    expected = fit(plain, accelerator(), [steps])
    job = toy.job(tmp_path / "averaged", recipe(weight_averaging=2.5), toy.model())
    state = fit(job, accelerator(), [])
    # The steps are those of a training without.
    assert [point.loss for point in state.curve] == [point.loss for point in expected.curve]
    assert [point.grad_norm for point in state.curve] == [point.grad_norm for point in expected.curve]
    assert state.best_step is not None
    for name, found in job.model.named_parameters():
        seen = [weights[name].double() for weights in steps.seen[: state.best_step]]
        torch.testing.assert_close(found.double(), averaged(seen, 2.5), rtol=1e-4, atol=1e-6, msg=name)


def test_scores_are_those_of_the_average(toy: Toy, tmp_path: Path) -> None:
    job = toy.job(tmp_path, recipe(weight_averaging=1.0, metric_for_best_model="loss"), toy.model())
    state = fit(job, accelerator(), [])
    best = next(evaluation for evaluation in state.evaluations if evaluation.step == state.best_step)
    job.model.eval()
    with torch.inference_mode():
        logits = job.model(**toy.tokens.batch(toy.validation.positions)).logits
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(np.asarray(toy.validation.labels)))
    assert best.metrics["loss"] == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("step", [1, 5, 9])
def test_resumed_gives_the_same_bits(toy: Toy, tmp_path: Path, step: int) -> None:
    train = recipe(weight_averaging=3.0, checkpoint={"every": "1 steps"})
    whole = toy.job(tmp_path / "whole", train, toy.model())
    expected = fit(whole, accelerator(), [])
    with pytest.raises(Interruption):
        fit(toy.job(tmp_path / "broken", train, toy.model()), accelerator(), [Recorder(at="checkpoint", step=step)])
    resumed = toy.job(tmp_path / "broken", train, toy.model(seed=99))
    state = fit(resumed, accelerator(), [])
    assert state == expected
    assert equal_weights(resumed.model, whole.model)


def test_what_is_kept_is_said(toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(toy.job(tmp_path, recipe(weight_averaging=3.0, num_train_epochs=0.2), toy.model()), accelerator(), [])
    assert "their average, step t counts t^3" in capsys.readouterr().out
