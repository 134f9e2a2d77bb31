"""The recipe in the loop: equal to plain PyTorch over whole batches, and to the bit after a kill."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend, TorchDynamoPlugin
from safetensors.torch import load_file
from torch.distributions import kl_divergence
from transformers import PreTrainedModel

from pipeline.batches import step_seed
from pipeline.checkpoints import Snapshot
from pipeline.first_token import compute_first_token_alone
from pipeline.freezing import freeze
from pipeline.lora import add_adapters
from pipeline.losses import build_criterion
from pipeline.metrics import OwnMetric
from pipeline.modeling import enable_gradient_checkpointing
from pipeline.optimization import build_optimizer, build_scheduler
from pipeline.params import Lora, Train
from pipeline.training import Job, fit, plan_of
from tests.recipe_processes import CHANGES, norms_and_losses
from tests.toy import (
    LABELS,
    REPOSITORY,
    Interruption,
    Recorder,
    Toy,
    accelerator,
    equal_weights,
    make_toy,
    plain_steps,
    recipe,
)

WEIGHTS = {"good": 5.0, "other": 0.25}
LAUNCH = (
    "--num_processes 2 --multi_gpu --num_machines 1 --mixed_precision no --num_cpu_threads_per_process 1 "
    "--dynamo_backend no --main_process_port 0"
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy"))


def job(toy: Toy, folder: Path, train: Train, model: PreTrainedModel | None = None, **more: Any) -> Job:
    plain = toy.job(folder, train, model)
    criterion = build_criterion(train, LABELS, toy.train.labels)
    return Job(**{**vars(plain), "criterion": criterion, **more})


def plain_training(toy: Toy, train: Train, model: PreTrainedModel) -> list[float]:
    """Train in plain PyTorch, a global batch at a time, with torch's own weighted and smoothed loss."""
    plan = plan_of(toy.lengths, train, 1)
    optimizer = build_optimizer(model, train, loss_scaling=False).optimizer
    scheduler = build_scheduler(optimizer, train, plan.total_steps)
    weight = torch.tensor([WEIGHTS.get(name, 1.0) for name in LABELS.names], dtype=torch.float64)

    def loss_of(logits: torch.Tensor, rows: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(
            logits,
            torch.from_numpy(toy.train.labels[rows]),
            weight=weight if train.class_weights else None,
            label_smoothing=train.label_smoothing_factor,
        )

    return plain_steps(toy, train, model, optimizer, loss_of, scheduler)


@pytest.mark.parametrize(("per_device", "accumulation"), [(10, 1), (2, 5)])
@pytest.mark.parametrize(
    "changes",
    [
        {"class_weights": WEIGHTS},
        {"class_weights": WEIGHTS, "label_smoothing_factor": 0.2},
        {"label_smoothing_factor": 0.2, "layerwise_lr_decay": 0.5},
    ],
)
def test_steps_equal_plain_pytorch_over_the_whole_batch(
    toy: Toy, tmp_path: Path, per_device: int, accumulation: int, changes: dict[str, Any]
) -> None:
    # 21 rows in batches of 10: the last step of an epoch has one row, fewer than there are micro-batches.
    train = recipe(per_device_train_batch_size=per_device, gradient_accumulation_steps=accumulation, **changes)
    expected = toy.model(dropout=False).double()
    losses = plain_training(toy, train, expected)
    ours = job(toy, tmp_path, train, toy.model(dropout=False).double())
    state = fit(ours, accelerator(), [])
    assert [point.loss for point in state.curve] == pytest.approx(losses, abs=1e-12)
    Snapshot.read(ours.checkpoints.path(state.step)).restore_weights(ours.model)  # the last ones, not the best
    for found, wanted in zip(ours.model.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=1e-10)


class Twice(torch.nn.Module):
    """A model that computes each batch twice in one, with the masks of its step."""

    def __init__(self, model: PreTrainedModel, seed: int) -> None:
        super().__init__()
        self.model, self.seed, self.step = model, seed, 0

    def forward(self, **batch: torch.Tensor) -> Any:
        torch.manual_seed(step_seed(self.seed, self.step, 0))
        self.step += 1
        return self.model(**{name: torch.cat([tensor, tensor]) for name, tensor in batch.items()})


def test_two_passes_are_the_steps_of_plain_pytorch(toy: Toy, tmp_path: Path) -> None:
    """Each row twice in a batch, with masks of its own, and the divergence as torch.distributions has it."""
    train = recipe(r_drop=2.0, dropout=None, cheap_dropout=False)
    expected = toy.model().double()
    compute_first_token_alone(expected)  # else its last layer draws more of the masks
    optimizer = build_optimizer(expected, train, loss_scaling=False).optimizer
    scheduler = build_scheduler(optimizer, train, plan_of(toy.lengths, train, 1).total_steps)
    divergences = []

    def loss_of(logits: torch.Tensor, rows: Any) -> torch.Tensor:
        one, other = (torch.distributions.Categorical(logits=part) for part in logits.chunk(2))
        divergence = (kl_divergence(one, other) + kl_divergence(other, one)).mean() / 2
        divergences.append(divergence.item())
        labels = torch.from_numpy(toy.train.labels[rows])
        return divergence - (one.log_prob(labels) + other.log_prob(labels)).mean() / 2

    losses = plain_steps(toy, train, Twice(expected, train.seed), optimizer, loss_of, scheduler)
    assert min(divergences) > 0
    ours = job(toy, tmp_path, train, toy.model().double())
    state = fit(ours, accelerator(), [])
    assert [point.loss for point in state.curve] == pytest.approx(losses, abs=1e-12)
    Snapshot.read(ours.checkpoints.path(state.step)).restore_weights(ours.model)
    for found, wanted in zip(ours.model.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=1e-10)


def test_rows_computed_twice_keep_the_token_budget(toy: Toy) -> None:
    once = plan_of(toy.lengths, recipe(per_device_max_tokens=40), 1)
    twice = plan_of(toy.lengths, recipe(per_device_max_tokens=40, r_drop=1.0, dropout=None), 1)
    widest = [
        max(len(micro.indices) * int(toy.lengths[micro.indices].max()) for micro in plan.micro_batches(0, 0))
        for plan in (once, twice)
    ]
    assert 20 < widest[0] <= 40
    assert widest[1] <= 20


def test_two_processes_take_the_steps_of_plain_pytorch(toy: Toy, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH.split(), "-m", "tests.recipe_processes", tmp_path],
        cwd=REPOSITORY,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    two = json.loads((tmp_path / "of-2.json").read_text())
    accelerator()
    one = norms_and_losses(toy, accelerator(), tmp_path / "one")
    losses = plain_training(toy, recipe(**CHANGES), toy.model(dropout=False).double())
    assert len(losses) == 3
    assert two["losses"] == pytest.approx(losses, abs=1e-12)
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-12)
    assert two["norms"] == pytest.approx(one["norms"], abs=1e-10)


def test_points_of_the_curve_are_weighted_means_over_their_steps(toy: Toy, tmp_path: Path) -> None:
    train = recipe(class_weights=WEIGHTS, num_train_epochs=1)
    by_step = fit(job(toy, tmp_path / "1", train), accelerator(), [])
    train = recipe(class_weights=WEIGHTS, num_train_epochs=1, logging_steps=100)
    whole = fit(job(toy, tmp_path / "2", train), accelerator(), [])
    plan = plan_of(toy.lengths, train, 1)
    by_class = np.array([WEIGHTS.get(name, 1.0) for name in LABELS.names])
    totals = [by_class[toy.train.labels[plan.global_batch(step)]].sum() for step in range(plan.total_steps)]
    assert whole.curve[0].loss == pytest.approx(np.average([p.loss for p in by_step.curve], weights=totals), rel=1e-9)
    assert whole.evaluations[0].train_loss == whole.curve[0].loss


def frozen(model: PreTrainedModel) -> PreTrainedModel:
    freeze(model, ["*.embeddings.*", "*.layer.0.*"])
    return model


def adapted(model: PreTrainedModel) -> PreTrainedModel:
    add_adapters(model, Lora(r=2, lora_dropout=0.1), seed=1)
    return model


def checkpointing(model: PreTrainedModel) -> PreTrainedModel:
    enable_gradient_checkpointing(model)
    return model


def checkpointing_adapted(model: PreTrainedModel) -> PreTrainedModel:
    return checkpointing(adapted(model))


SGD = {"optimizer": "torch.optim:SGD"}


@pytest.mark.parametrize(
    ("prepare", "changes"),
    [
        (None, {"class_weights": "balanced", "label_smoothing_factor": 0.1}),
        (None, {"layerwise_lr_decay": 0.7, "lr_scheduler_type": "cosine_with_restarts"}),
        (None, {"r_drop": 2.0, "dropout": None}),
        (None, {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0}}),
        (None, {"custom": recipe().custom.model_dump() | {"optimizer": "torch.optim:NAdam"}}),
        (None, {"custom": recipe().custom.model_dump() | SGD}),
        (frozen, {}),
        (adapted, {}),
        (checkpointing, {}),
        (checkpointing_adapted, {}),
    ],
)
def test_a_training_killed_anywhere_ends_in_the_same_bits(
    toy: Toy, tmp_path: Path, prepare: Callable[[PreTrainedModel], PreTrainedModel] | None, changes: dict[str, Any]
) -> None:
    train = recipe(checkpoint={"every": "2 steps"}, **changes)

    def one(folder: str, seed: int = 1) -> Job:
        model = toy.model(seed=seed)
        return job(toy, tmp_path / folder, train, prepare(model) if prepare else model)

    whole = one("whole")
    expected = fit(whole, accelerator(), [])
    with pytest.raises(Interruption):
        fit(one("killed"), accelerator(), [Recorder(at="curve", step=9)])
    again = one("killed", seed=9)  # the checkpoint alone decides
    recorder = Recorder()
    assert fit(again, accelerator(), [recorder]) == expected
    assert recorder.started_at == 8
    assert equal_weights(again.model, whole.model)


def test_what_is_frozen_never_moves(toy: Toy, tmp_path: Path) -> None:
    for prepare in (frozen, adapted):
        before = prepare(toy.model()).state_dict()
        ours = job(toy, tmp_path / prepare.__name__, recipe(), prepare(toy.model()))
        fit(ours, accelerator(), [])
        learning = {name for name, parameter in ours.model.named_parameters() if parameter.requires_grad}
        after = ours.model.state_dict()
        moved = {name for name in after if not torch.equal(after[name], before[name])}
        assert moved == learning


def test_every_knob_is_explained() -> None:
    text = (REPOSITORY / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert [name for name in Train.model_fields if f"`{name}`" not in text] == []


def test_adapters_learn(toy: Toy, tmp_path: Path) -> None:
    train = recipe(learning_rate=3e-3, num_train_epochs=30)
    state = fit(job(toy, tmp_path, train, adapted(toy.model(dropout=False))), accelerator(), [])
    # Of an epoch: a batch of four can be an easy one.
    assert mean(point.loss for point in state.curve[-6:]) < 0.7 * mean(point.loss for point in state.curve[:6])


def test_the_announcement_says_what_is_learnt(toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = recipe(
        num_train_epochs=0.01,
        class_weights=WEIGHTS,
        label_smoothing_factor=0.1,
        r_drop=2.0,
        dropout=None,
        layerwise_lr_decay=0.9,
        metric_for_best_model="loss",
    )
    fit(job(toy, tmp_path, train), accelerator(), [])
    said = capsys.readouterr().out
    assert re.search(r"learning rate +0.005, linear, warm-up over 1 steps, x 0.9 with each layer down\n", said)
    assert re.search(r"optimiser +AdamW\n", said)
    assert re.search(r"loss +cross entropy, label smoothing 0.1, R-Drop 2, weights bad 1, good 5, other 0.25\n", said)
    assert re.search(r"best model by +lowest loss\n", said)


def test_gradient_checkpointing_changes_no_gradient(toy: Toy, tmp_path: Path) -> None:
    """Dropout is drawn again as it was."""
    plain = fit(job(toy, tmp_path / "plain", recipe()), accelerator(), [])
    less_memory = fit(job(toy, tmp_path / "less", recipe(), checkpointing(toy.model())), accelerator(), [])
    assert less_memory == plain


def compiling(backend: DynamoBackend) -> Accelerator:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(1)
    return Accelerator(cpu=True, dynamo_plugin=TorchDynamoPlugin(backend=backend))


@pytest.mark.parametrize(
    "backend", [DynamoBackend.EAGER, pytest.param(DynamoBackend.AOT_EAGER, marks=pytest.mark.slow)]
)
def test_a_compiled_model_is_saved_under_plain_names_and_goes_on(
    toy: Toy, tmp_path: Path, backend: DynamoBackend
) -> None:
    train = recipe(checkpoint={"every": "2 steps"}, num_train_epochs=1)

    def one(folder: str, seed: int = 1) -> Job:
        return job(toy, tmp_path / folder, train, toy.model(seed=seed, dropout=False))

    whole = one("whole")
    expected = fit(whole, compiling(backend), [])
    saved = load_file(whole.checkpoints.path(expected.step) / "model.safetensors")
    assert saved.keys() == toy.model().state_dict().keys()
    assert list(whole.model.state_dict()) == list(toy.model().state_dict())
    plain = fit(one("plain"), accelerator(), [])
    assert [p.loss for p in expected.curve] == pytest.approx([p.loss for p in plain.curve], rel=1e-4)
    with pytest.raises(Interruption):
        fit(one("killed"), compiling(backend), [Recorder(at="curve", step=3)])
    again = one("killed", seed=9)
    assert fit(again, compiling(backend), []) == expected
    assert equal_weights(again.model, whole.model)


@pytest.mark.parametrize(("greater_is_better", "best"), [(True, 18), (False, 6), (None, 18)])
def test_the_best_by_a_metric_of_ones_own_in_either_direction(
    toy: Toy, tmp_path: Path, greater_is_better: bool | None, best: int
) -> None:
    values = iter([1.0, 2.0, 3.0, 2.5])
    train = recipe(num_train_epochs=4, metric_for_best_model="rising", greater_is_better=greater_is_better)
    metric = OwnMetric(name="rising", score=lambda logits, labels: next(values))
    state = fit(job(toy, tmp_path, train, metrics=(metric,)), accelerator(), [])
    assert [evaluation.metrics["rising"] for evaluation in state.evaluations] == [1.0, 2.0, 3.0, 2.5]
    assert state.best_step == best


def test_a_loss_and_an_optimizer_of_ones_own_learn(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_recipe.py").write_text(
        "import torch\n"
        "def hinge(logits, labels):\n"
        "    return torch.nn.functional.multi_margin_loss(logits, labels, reduction='none')\n"
        "def fast(groups, lr):\n"
        "    return torch.optim.NAdam(groups, lr=lr, decoupled_weight_decay=True)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("own_recipe", None)
    own = recipe().custom.model_dump() | {"loss": "own_recipe:hinge", "optimizer": "own_recipe:fast"}
    train = recipe(custom=own, learning_rate=3e-3, num_train_epochs=30)
    state = fit(job(toy, tmp_path / "checkpoints", train, toy.model(dropout=False)), accelerator(), [])
    assert mean(point.loss for point in state.curve[-6:]) < 0.5 * mean(point.loss for point in state.curve[:6])
    assert math.isfinite(state.evaluations[-1].metrics["loss"])
