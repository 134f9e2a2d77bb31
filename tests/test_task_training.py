"""Regression and multi-label classification in the loop: exact gradients, learning, resuming to the same bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.checkpoints import Snapshot, TrainingState
from pipeline.decisions import tune_thresholds
from pipeline.distributed_eval import distributed_logits
from pipeline.labels import LabelSet
from pipeline.losses import build_criterion
from pipeline.metrics import task_metrics
from pipeline.params import Train
from pipeline.probabilities import sigmoid
from pipeline.scaling import Scale
from pipeline.training import Job, LabelledRows, fit
from pipeline.word_table import cut_word_table
from tests.toy import (
    FILLER,
    WORDS,
    Interruption,
    Recorder,
    Toy,
    accelerator,
    equal_weights,
    make_toy,
    plain_steps,
    recipe,
)

TRAIN, VALIDATION = 40, 24
NUMBERS = LabelSet(problem_type="regression", names=())
SETS = LabelSet(problem_type="multi_label_classification", names=("bad", "good", "other"))
TASKS = (NUMBERS, SETS)


def tell(folder: Path, labels: LabelSet) -> Toy:
    """Texts with words of some of three groups; their number says which, or how much they are worth in thousands."""
    generator = np.random.default_rng(7)
    groups = np.array([[row >> place & 1 for place in range(3)] for row in range(TRAIN + VALIDATION)])
    texts = [
        " ".join([*(WORDS[place][0] for place in np.flatnonzero(row)), *generator.choice(FILLER, size=2)])
        for row in groups
    ]
    toy = make_toy(folder, train=TRAIN, validation=VALIDATION, texts=texts)
    targets: Any = groups.astype(np.float32) if labels is SETS else groups @ np.array([-4000.0, 2500.0, 500.0]) + 9000
    return dataclasses.replace(
        toy,
        labels=labels,
        train=LabelledRows(positions=toy.train.positions, labels=targets[:TRAIN]),
        validation=LabelledRows(positions=toy.validation.positions, labels=targets[TRAIN:]),
    )


@pytest.fixture(scope="module", params=TASKS, ids=lambda labels: labels.problem_type)
def toy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return tell(tmp_path_factory.mktemp("toy"), request.param)


def job_of(toy: Toy, folder: Path, train: Train, model: Any = None) -> Job:
    """What the train stage makes of a recipe."""
    job = toy.job(folder, train, model)
    criterion, scale = build_criterion(train, toy.labels, toy.train.labels), Scale()
    if toy.labels is NUMBERS:
        scale = Scale.of(toy.train.labels)
        criterion = criterion.reported_by(scale.std)
        learnt = dataclasses.replace(toy.train, labels=scale.standardised(toy.train.labels))
        job = dataclasses.replace(job, train=learnt)
    return dataclasses.replace(job, criterion=criterion, scale=scale)


def plain_loss(job: Job, logits: torch.Tensor, rows: Any) -> torch.Tensor:
    labels = torch.from_numpy(job.train.labels[rows]).double()
    if job.labels is NUMBERS:
        return torch.nn.functional.mse_loss(logits[:, 0], labels)
    weights = None if job.criterion.class_weights is None else job.criterion.class_weights.double()
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)


@pytest.mark.parametrize(("per_device", "accumulation"), [(12, 1), (5, 3), (3, 4)])
@pytest.mark.parametrize("weights", [None, "balanced"])
def test_steps_equal_plain_pytorch_over_the_whole_batch(
    toy: Toy, tmp_path: Path, per_device: int, accumulation: int, weights: Any
) -> None:
    train = recipe(
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=accumulation,
        class_weights=weights if toy.labels is SETS else None,
        warmup_ratio=0.0,
        weight_decay=0.0,
        lr_scheduler_type="constant",
    )
    job = job_of(toy, tmp_path, train, toy.model(dropout=False).double())
    expected = toy.model(dropout=False).double()
    optimizer = torch.optim.AdamW(expected.parameters(), lr=train.learning_rate, eps=1e-8, weight_decay=0.0)
    losses = plain_steps(toy, train, expected, optimizer, lambda logits, rows: plain_loss(job, logits, rows))
    state = fit(job, accelerator(), [])
    reported = [loss * job.scale.std**2 for loss in losses]
    assert [point.loss for point in state.curve] == pytest.approx(reported, rel=1e-9)
    rows = np.concatenate([job.train.positions, job.validation.positions])
    words = cut_word_table(job.model, lambda: toy.tokens.distinct_ids(rows), toy.tokens.batch(rows[:2]))
    assert words is not None  # as in the checkpoint
    Snapshot.read(job.checkpoints.path(state.step)).restore_weights(job.model)
    words.restore(job.model)
    for found, wanted in zip(job.model.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=1e-9)


def test_it_learns(toy: Toy, tmp_path: Path) -> None:
    train = recipe(num_train_epochs=50, learning_rate=2e-3, per_device_train_batch_size=8)
    job = job_of(toy, tmp_path, train, toy.model(dropout=False))
    state = fit(job, accelerator(), [])
    assert job.best_by == ("pearson" if toy.labels is NUMBERS else "f1_macro")
    assert state.curve[-1].loss < 0.6 * state.curve[0].loss
    best = next(e for e in state.evaluations if e.step == state.best_step)
    assert best.metrics[job.best_by] > 0.8  # all classes for all rows: 0.67
    logits = distributed_logits(job.model, toy.tokens, toy.validation.positions, 4, accelerator())
    thresholds = tune_thresholds(sigmoid(logits), toy.validation.labels) if toy.labels is SETS else None
    found = task_metrics(toy.labels, job.scale.restored(logits), toy.validation.labels, thresholds=thresholds)
    assert found == pytest.approx(best.metrics, rel=1e-5)
    if toy.labels is NUMBERS:
        assert np.abs(toy.validation.labels - toy.train.labels.mean()).mean() > 1900  # the error of the mean
        assert best.metrics["mae"] < 1000
        # Both losses are on the labels' scale, so that their curves can be compared.
        assert 0.2 < best.train_loss / best.metrics["loss"] < 5


RESUMED = {
    "gradient_accumulation_steps": 4,
    "per_device_train_batch_size": 4,
    "checkpoint": {"every": "2 steps", "keep": 1},
}


@pytest.fixture(scope="module")
def uninterrupted(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, TrainingState]:
    job = job_of(toy, tmp_path_factory.mktemp("whole"), recipe(**RESUMED))
    return job.model, fit(job, accelerator(), [])


@pytest.mark.parametrize(("at", "step"), [("curve", 1), ("checkpoint", 2), ("evaluation", 3), ("curve", 5)])
def test_a_training_killed_anywhere_ends_in_the_same_bits(
    toy: Toy, tmp_path: Path, uninterrupted: tuple[torch.nn.Module, TrainingState], at: str, step: int
) -> None:
    with pytest.raises(Interruption):
        fit(job_of(toy, tmp_path, recipe(**RESUMED)), accelerator(), [Recorder(at=at, step=step)])
    job = job_of(toy, tmp_path, recipe(**RESUMED), toy.model(seed=99) if step > 1 else None)
    recorder = Recorder()
    state = fit(job, accelerator(), [recorder])
    assert (recorder.started_at > 0) == (step > 1)
    assert state == uninterrupted[1]
    assert equal_weights(job.model, uninterrupted[0])


def test_what_is_said_before_training(toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(job_of(toy, tmp_path, recipe(num_train_epochs=0.01)), accelerator(), [])
    out = capsys.readouterr().out
    if toy.labels is NUMBERS:
        assert "mean squared error" in out
        assert "highest pearson" in out
    else:
        assert "binary cross entropy" in out
        assert "highest f1_macro" in out


def test_an_error_is_better_when_lower(tmp_path: Path) -> None:
    toy = tell(tmp_path / "toy", NUMBERS)
    job = job_of(toy, tmp_path / "checkpoints", recipe(metric_for_best_model="mae", learning_rate=1e-2))
    state = fit(job, accelerator(), [])
    lowest = min(state.evaluations, key=lambda evaluation: evaluation.metrics["mae"])
    assert state.best_step == lowest.step


def test_scores_are_finite_in_half_precision(toy: Toy, tmp_path: Path) -> None:
    state = fit(job_of(toy, tmp_path, recipe(num_train_epochs=1)), accelerator("bf16"), [])
    assert all(np.isfinite(list(evaluation.metrics.values())).all() for evaluation in state.evaluations)
