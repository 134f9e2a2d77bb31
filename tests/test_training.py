"""The loop: exact steps, learning, the best checkpoint, resuming to the same bits."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import get_scheduler

from pipeline import training
from pipeline.batches import BatchPlan
from pipeline.checkpoints import Snapshot, TrainingState, read_state
from pipeline.distributed_eval import distributed_logits
from pipeline.errors import SeqtrackError
from pipeline.params import Train
from pipeline.training import LabelledRows, fit, plan_of
from tests.encoders import NOT_IN_16_BITS, model_of
from tests.toy import Interruption, Recorder, Toy, accelerator, equal_weights, make_toy, plain_steps, recipe


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy"))


def plain_training(toy: Toy, train: Train, model: torch.nn.Module) -> list[float]:
    """Train in plain PyTorch with the optimiser and schedule of the recipe; return the loss of each step."""
    plan = plan_of(toy.lengths, train, 1)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=train.learning_rate, betas=(0.9, 0.999), eps=1e-8)
    warmup = math.ceil(train.warmup_ratio * plan.total_steps)
    scheduler = get_scheduler("linear", optimizer, warmup, plan.total_steps)

    def loss_of(logits: torch.Tensor, rows: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, torch.from_numpy(toy.train.labels[rows]))

    return plain_steps(toy, train, model, optimizer, loss_of, scheduler)


@pytest.mark.parametrize(("per_device", "accumulation"), [(10, 1), (5, 2), (2, 5)])
@pytest.mark.parametrize("max_grad_norm", [0.0, 0.05])
def test_steps_equal_plain_pytorch_over_the_whole_batch(
    toy: Toy, tmp_path: Path, per_device: int, accumulation: int, max_grad_norm: float
) -> None:
    # 21 rows in batches of 10: the last step of an epoch has one row, fewer than there are micro-batches.
    train = recipe(
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
        max_grad_norm=max_grad_norm,
    )
    expected = toy.model(dropout=False).double()
    losses = plain_training(toy, train, expected)
    job = toy.job(tmp_path, train, toy.model(dropout=False).double())
    state = fit(job, accelerator(), [])
    assert [point.loss for point in state.curve] == pytest.approx(losses, abs=1e-12)
    Snapshot.read(job.checkpoints.path(state.step)).restore_weights(job.model)  # the last ones, not the best
    for found, wanted in zip(job.model.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=1e-10)


def test_gradient_norms_are_those_before_clipping(toy: Toy, tmp_path: Path) -> None:
    norms = {}
    for limit in (0.0, 1e-3):
        train = recipe(num_train_epochs=0.01, max_grad_norm=limit)
        state = fit(toy.job(tmp_path / str(limit), train, toy.model(dropout=False)), accelerator(), [])
        norms[limit] = [point.grad_norm for point in state.curve]
    assert len(norms[0.0]) == 1
    assert norms[0.0] == norms[1e-3]


def test_it_learns_and_leaves_the_best_weights(toy: Toy, tmp_path: Path) -> None:
    train = recipe(num_train_epochs=30, learning_rate=3e-3, metric_for_best_model="accuracy")
    job = toy.job(tmp_path, train, toy.model(dropout=False))
    state = fit(job, accelerator(), [])
    scores = [evaluation.metrics["accuracy"] for evaluation in state.evaluations]
    assert state.curve[-1].loss < 0.3 * state.curve[0].loss
    assert max(scores) == 1.0
    best = state.evaluations[int(np.argmax(scores))]  # the first of equals
    assert state.best_step == best.step < state.step
    logits = distributed_logits(job.model, toy.tokens, toy.validation.positions, 4, accelerator())
    assert (logits.argmax(axis=1) == toy.validation.labels).all()
    losses = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(toy.validation.labels))
    assert losses.item() == pytest.approx(best.metrics["loss"], rel=1e-6)


def scripted(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Make evaluations give these losses, one after the other."""
    script = iter(losses)
    scores: Callable[..., dict[str, float]] = lambda *_: {"loss": next(script)}  # noqa: E731
    monkeypatch.setattr(training, "task_metrics", scores)


def test_loss_is_better_when_lower_and_equals_keep_the_earlier(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [3.0, 2.0, 2.0, 4.0])
    state = fit(toy.job(tmp_path, recipe(num_train_epochs=4, metric_for_best_model="loss")), accelerator(), [])
    assert state.best_step == 12
    assert state.stale == 2


def test_early_stopping(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [3.0, 3.5, 2.0, 2.5, 2.2, 1.0])
    train = recipe(num_train_epochs=6, metric_for_best_model="loss", early_stopping_patience=2)
    recorder = Recorder()
    state = fit(toy.job(tmp_path, train), accelerator(), [recorder])
    assert [evaluation.metrics["loss"] for evaluation in state.evaluations] == [3.0, 3.5, 2.0, 2.5, 2.2]
    assert (state.best_step, state.step, state.finished) == (18, 30, True)
    again = Recorder()
    assert fit(toy.job(tmp_path, train), accelerator(), [again]) == state  # nothing is left to do
    assert again.evaluations == again.checkpoints == []


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"eval_strategy": "epoch"}, [6, 12]),
        ({"eval_strategy": "steps", "eval_steps": 5}, [5, 10, 12]),
        ({"eval_strategy": "steps", "eval_steps": 4}, [4, 8, 12]),
        ({"eval_strategy": "epoch", "num_train_epochs": 1.5}, [6, 9]),
    ],
)
def test_evaluations_are_where_the_recipe_says_and_at_the_end(
    toy: Toy, tmp_path: Path, changes: dict[str, Any], steps: list[int]
) -> None:
    state = fit(toy.job(tmp_path, recipe(**changes)), accelerator(), [])
    assert [evaluation.step for evaluation in state.evaluations] == steps


def test_losses_between_points_are_means_over_examples(toy: Toy, tmp_path: Path) -> None:
    by_step = fit(toy.job(tmp_path / "1", recipe(per_device_train_batch_size=8)), accelerator(), [])
    coarse = fit(toy.job(tmp_path / "2", recipe(per_device_train_batch_size=8, logging_steps=4)), accelerator(), [])
    sizes = [8, 8, 5, 8, 8, 5]
    losses = [point.loss for point in by_step.curve]
    assert [point.step for point in coarse.curve] == [4, 6]
    assert coarse.curve[0].loss == pytest.approx(np.average(losses[:4], weights=sizes[:4]), rel=1e-12)
    assert coarse.curve[1].loss == pytest.approx(np.average(losses[4:], weights=sizes[4:]), rel=1e-12)
    assert [e.train_loss for e in coarse.evaluations] == pytest.approx(
        [np.average(losses[:3], weights=sizes[:3]), np.average(losses[3:], weights=sizes[3:])], rel=1e-12
    )


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        ("4 steps", [4, 8, 12]),
        ("5 steps", [5, 10, 12]),
        ("1 epoch", [6, 12]),
        ("0.5 epochs", [3, 6, 9, 12]),
        ("0.25 epochs", [2, 3, 5, 6, 8, 9, 11, 12]),
        ("1000 steps", [12]),
    ],
)
def test_checkpoints_by_steps_and_epochs(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: str, steps: list[int]
) -> None:
    scripted(monkeypatch, [1.0, 2.0])  # the best is the first, which is saved whatever the interval
    train = recipe(checkpoint={"every": every, "keep": 99}, metric_for_best_model="loss")
    recorder = Recorder()
    fit(toy.job(tmp_path, train), accelerator(), [recorder])
    assert recorder.checkpoints == sorted({*steps, 6})


def test_checkpoints_by_minutes(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=30.0)  # one reading a step, half a minute apart, and one at each saving
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
    scripted(monkeypatch, [1.0, 2.0])
    train = recipe(checkpoint={"every": "2 minutes"}, metric_for_best_model="loss")
    recorder = Recorder()
    fit(toy.job(tmp_path, train), accelerator(), [recorder])
    assert recorder.checkpoints == [4, 6, 10, 12]


RESUMED = {"checkpoint": {"every": "2 steps", "keep": 1}, "per_device_train_batch_size": 2}
PRECISIONS = ("no", "bf16")
STEPS = 6  # 21 rows, 8 per step, 2 epochs


def resumed_recipe() -> Train:
    return recipe(gradient_accumulation_steps=4, **RESUMED)


@pytest.fixture(scope="module")
def uninterrupted(
    toy: Toy, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[torch.nn.Module, TrainingState]]:
    found = {}
    for precision in PRECISIONS:
        job = toy.job(tmp_path_factory.mktemp("whole"), resumed_recipe())
        found[precision] = (job.model, fit(job, accelerator(precision), []))
        assert found[precision][1].step == STEPS
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("at", "step"),
    [*(("curve", s) for s in range(1, STEPS + 1)), *(("checkpoint", s) for s in (2, 3, 4, 6)), ("evaluation", 3)],
)
def test_a_training_killed_anywhere_ends_in_the_same_bits(
    toy: Toy,
    tmp_path: Path,
    uninterrupted: dict[str, tuple[torch.nn.Module, TrainingState]],
    precision: str,
    at: str,
    step: int,
) -> None:
    with pytest.raises(Interruption):
        fit(toy.job(tmp_path, resumed_recipe()), accelerator(precision), [Recorder(at=at, step=step)])
    saved = max(s for s in (0, 2, 3, 4, 6) if s < step + (at == "checkpoint"))
    # A head of another seed: where there is a checkpoint, it alone decides.
    job = toy.job(tmp_path, resumed_recipe(), toy.model(seed=99) if saved else None)
    recorder = Recorder()
    state = fit(job, accelerator(precision), [recorder])
    model, whole = uninterrupted[precision]
    assert recorder.started_at == saved
    assert state == whole
    assert equal_weights(job.model, model)


@pytest.mark.parametrize("step", [2, 3, 4])
def test_losses_not_yet_shown_survive_a_kill(toy: Toy, tmp_path: Path, step: int) -> None:
    """Checkpoints lie between the points of the curve, and one point's mean spans both processes' lives."""
    train = recipe(gradient_accumulation_steps=4, logging_steps=5, **RESUMED)
    whole = fit(toy.job(tmp_path / "whole", train), accelerator(), [])
    with pytest.raises(Interruption):
        fit(toy.job(tmp_path / "killed", train), accelerator(), [Recorder(at="checkpoint", step=step)])
    assert fit(toy.job(tmp_path / "killed", train), accelerator(), []) == whole


def test_a_training_killed_after_every_checkpoint_still_arrives(
    toy: Toy, tmp_path: Path, uninterrupted: dict[str, tuple[torch.nn.Module, TrainingState]]
) -> None:
    for step in (2, 3, 4):
        with pytest.raises(Interruption):
            fit(toy.job(tmp_path, resumed_recipe()), accelerator(), [Recorder(at="checkpoint", step=step)])
    job = toy.job(tmp_path, resumed_recipe())
    assert fit(job, accelerator(), []) == uninterrupted["no"][1]
    assert equal_weights(job.model, uninterrupted["no"][0])


def test_a_damaged_checkpoint_costs_steps_but_no_bits(
    toy: Toy,
    tmp_path: Path,
    uninterrupted: dict[str, tuple[torch.nn.Module, TrainingState]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(Interruption):
        fit(toy.job(tmp_path, resumed_recipe()), accelerator(), [Recorder(at="curve", step=5)])
    newest = max(tmp_path.iterdir())
    weights = bytearray((newest / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (newest / "model.safetensors").write_bytes(weights)
    job = toy.job(tmp_path, resumed_recipe())
    recorder = Recorder()
    assert fit(job, accelerator(), [recorder]) == uninterrupted["no"][1]
    assert recorder.started_at == 3
    assert equal_weights(job.model, uninterrupted["no"][0])
    assert f"warning: checkpoint {newest} is passed over" in capsys.readouterr().out


def test_dropout_differs_between_steps_and_seeds(toy: Toy, tmp_path: Path) -> None:
    def losses(seed: int) -> list[float]:
        """One row, and weights that hardly move: only dropout tells one step from another."""
        job = toy.job(tmp_path / str(seed), recipe(seed=seed, learning_rate=1e-12))
        one_row = LabelledRows(positions=toy.train.positions[:1], labels=toy.train.labels[:1])
        state = fit(dataclasses.replace(job, train=one_row), accelerator(), [])
        return [round(point.loss, 6) for point in state.curve]

    one, two = losses(1), losses(2)
    assert len({*one, *two}) == 4


@pytest.mark.parametrize("logging_steps", [1, 4])
def test_a_loss_that_is_no_number_names_the_step_and_remedies(toy: Toy, tmp_path: Path, logging_steps: int) -> None:
    job = toy.job(tmp_path, recipe(logging_steps=logging_steps, max_grad_norm=0.0))

    class Poisoned(Recorder):
        def on_start(self, state: TrainingState) -> None:
            calls = itertools.count(1)
            forward = job.model.forward

            def poisoned(**inputs: torch.Tensor) -> Any:
                output = forward(**inputs)
                return type(output)(logits=output.logits * (math.nan if next(calls) == 3 else 1.0))

            job.model.forward = poisoned

    with pytest.raises(
        SeqtrackError,
        match=r"params.yaml: train: training diverged: the training loss of step 3 is nan; lower train.learning_rate, "
        r"or raise train.warmup_ratio, or set train.max_grad_norm to 1.0\.",
    ):
        fit(job, accelerator(), [Poisoned()])
    assert not list(tmp_path.glob("step-*"))


def test_weights_that_are_no_numbers_never_become_the_model(toy: Toy, tmp_path: Path) -> None:
    # One step: its loss is sound, its update is not, and no later loss could tell.
    job = toy.job(tmp_path, recipe(num_train_epochs=0.01))
    job.model.classifier.bias.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(SeqtrackError, match="training diverged: the gradient norm of step 1 is nan"):
        fit(job, accelerator(), [])
    job = toy.job(tmp_path, recipe(num_train_epochs=1.0, logging_steps=100, per_device_train_batch_size=21))
    with torch.no_grad():
        job.model.classifier.bias[0] = math.inf  # no row has this class in validation or not: the loss is nan or inf
    with pytest.raises(SeqtrackError, match="training diverged"):
        fit(job, accelerator(), [])
    assert not list(tmp_path.glob("step-*"))


def test_validation_outputs_are_checked(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "distributed_logits", lambda *_: np.full((11, 3), np.nan, np.float32))
    with pytest.raises(SeqtrackError, match="outputs for the validation split after step 6 are not finite"):
        fit(toy.job(tmp_path, recipe()), accelerator(), [])


class ScalerThatSkips(torch.amp.GradScaler):
    """A loss scale so large that the first steps overflow, as fp16's often does."""

    def __init__(self) -> None:
        super().__init__("cpu", init_scale=2.0**127, growth_interval=10**6, backoff_factor=2.0**-40)


def scaled() -> Accelerator:
    """What accelerate sets up for fp16 on a GPU, on the CPU."""
    processes = accelerator("fp16")
    processes.scaler, processes.native_amp = ScalerThatSkips(), True
    return processes


def test_steps_that_loss_scaling_skips_are_no_divergence(toy: Toy, tmp_path: Path) -> None:
    train = recipe(warmup_ratio=0.0)
    processes = scaled()
    with pytest.raises(Interruption):
        fit(toy.job(tmp_path, train), processes, [Recorder(at="checkpoint", step=6)])
    processes = scaled()
    job = toy.job(tmp_path, train)
    state = fit(job, processes, [])
    assert state.curve[0].grad_norm is None
    assert all(point.grad_norm is not None for point in state.curve[3:])
    # A skipped step uses up no learning rate.
    skipped = sum(point.grad_norm is None for point in state.curve)
    assert 0 < skipped < 4
    assert [p.learning_rate for p in state.curve[: skipped + 1]] == [train.learning_rate] * (skipped + 1)
    assert read_state(job.checkpoints.path(12)) == state
    assert processes.scaler.get_scale() < 2.0**127


def test_a_model_that_cannot_compute_in_16_bits_says_so(toy: Toy, tmp_path: Path) -> None:
    model = model_of(NOT_IN_16_BITS, "eager")
    with pytest.raises(SeqtrackError, match="this model cannot compute in mixed precision") as told:
        fit(toy.job(tmp_path / "bf16", recipe(), model), accelerator("bf16"), [])
    assert "launch.mixed_precision" in str(told.value)
    assert fit(toy.job(tmp_path / "no", recipe(), model_of(NOT_IN_16_BITS, "eager")), accelerator("no"), []).evaluations


def test_it_says_what_it_is_about_to_do(toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = recipe(gradient_accumulation_steps=2)
    job = toy.job(tmp_path, train)
    fit(job, accelerator("bf16"), [])
    said = {
        line.strip().split("  ")[0]: line.strip().split("  ")[-1].strip()
        for line in capsys.readouterr().out.splitlines()
    }
    parameters = sum(parameter.numel() for parameter in job.model.parameters())
    assert said["examples"] == "21 to learn from, 11 to validate on"
    assert said["total batch"] == "8"
    assert said["optimisation steps"] == "6"
    assert said["precision"] == "bf16"
    assert said["trainable parameters"] == f"{parameters:,} of {parameters:,}"


def test_the_plan_follows_the_recipe() -> None:
    train = recipe(seed=3, gradient_accumulation_steps=5, num_train_epochs=1.5, per_device_max_tokens=99)
    assert plan_of(np.ones(21, np.int64), train, 2) == BatchPlan(
        rows=21,
        per_device_batch_size=4,
        world_size=2,
        accumulation=5,
        epochs=1.5,
        seed=3,
        group_by_length=True,
        max_tokens=99,
    )
