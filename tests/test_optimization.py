"""The optimiser: what decays, at which rate, and its state by name."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification, SchedulerType, get_scheduler

from pipeline.checkpoints import CheckpointStore, Snapshot, TrainingState
from pipeline.errors import SeqtrackError
from pipeline.layers import parameter_depths
from pipeline.optimization import (
    NamedOptimizer,
    advance,
    build_optimizer,
    build_scheduler,
    check_optimizer,
    check_schedule,
    load_optimizer_tensors,
    observe,
    optimizer_tensors,
    settled,
)
from pipeline.params import Train
from tests.test_layers import small
from tests.toy import recipe


@pytest.fixture
def model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2
    )
    return BertForSequenceClassification(config).eval()


def step(model: torch.nn.Module, named: NamedOptimizer) -> None:
    model(input_ids=torch.arange(8).reshape(2, 4)).logits.square().sum().backward()
    named.optimizer.step()
    named.optimizer.zero_grad()


def test_biases_and_norms_do_not_decay(model: BertForSequenceClassification) -> None:
    named = build_optimizer(model, recipe(weight_decay=0.3), loss_scaling=False)
    decay = {
        id(parameter): group["weight_decay"] for group in named.optimizer.param_groups for parameter in group["params"]
    }
    expected = {
        name: 0.0 if name.endswith("bias") or "LayerNorm" in name else 0.3 for name, _ in model.named_parameters()
    }
    assert {name: decay[id(parameter)] for name, parameter in model.named_parameters()} == expected


def test_the_recipe_reaches_adam(model: BertForSequenceClassification) -> None:
    train = recipe(learning_rate=0.02, adam_beta1=0.5, adam_beta2=0.6, adam_epsilon=1e-3)
    for group in build_optimizer(model, train, loss_scaling=False).optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.02, (0.5, 0.6), 1e-3)


def test_frozen_parameters_are_left_out(model: BertForSequenceClassification) -> None:
    model.bert.embeddings.requires_grad_(False)
    named = build_optimizer(model, recipe(), loss_scaling=False)
    assert not any("embeddings" in name for name in named.names)
    assert len(named.names) == sum(parameter.requires_grad for parameter in model.parameters())


def test_state_round_trip(model: BertForSequenceClassification, tmp_path: Path) -> None:
    named = build_optimizer(model, recipe(), loss_scaling=False)
    for _ in range(3):
        step(model, named)
    saved = optimizer_tensors(named)
    assert saved["step/classifier.weight"] == 3
    assert saved["exp_avg/classifier.weight"].shape == model.classifier.weight.shape
    save_file(saved, tmp_path / "optimizer.safetensors")

    twin = BertForSequenceClassification(model.config).eval()
    twin.load_state_dict(model.state_dict())
    other = build_optimizer(twin, recipe(), loss_scaling=False)
    load_optimizer_tensors(other, load_file(tmp_path / "optimizer.safetensors"))
    for _ in range(2):
        step(model, named)
        step(twin, other)
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)
    found = optimizer_tensors(other)
    assert all(torch.equal(tensor, found[name]) for name, tensor in optimizer_tensors(named).items())


def test_state_of_another_model_is_refused(model: BertForSequenceClassification) -> None:
    named = build_optimizer(model, recipe(), loss_scaling=False)
    with pytest.raises(KeyError, match="decoder"):
        load_optimizer_tensors(named, {"exp_avg/decoder.weight": torch.zeros(1)})


KWARGS: dict[str, dict[str, Any]] = {
    "cosine": {"num_cycles": 0.8},
    "cosine_with_restarts": {"num_cycles": 3},
    "polynomial": {"power": 2.0, "lr_end": 1e-4},
    "inverse_sqrt": {"timescale": 7},
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1, "warmup_lr_rate": 0.2},
    "warmup_stable_decay": {"num_decay_steps": 6, "decay_type": "1-sqrt"},
    "reduce_lr_on_plateau": {"patience": 1, "factor": 0.3},
    "greedy": {"patience": 1, "min_lr": 1e-4, "smooth": True, "window_size": 3},
}
KINDS = sorted(kind.value for kind in SchedulerType)
TOTAL = 25


def scores(step: int) -> float:
    """A loss that falls, then rises, then stays."""
    return abs(min(step, 20) - 8) / 10


def sgd(rate: float = 0.1) -> NamedOptimizer:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    return NamedOptimizer(optimizer=optimizer, names=("w",), settings=({},))


def rates(kind: str, optimizer: torch.optim.Optimizer, schedule: Any, steps: range) -> list[float]:
    """Use a schedule as the training loop does, an evaluation every step; return the rate of each step."""
    found = []
    for step in steps:
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        advance(schedule)
        observe(schedule, scores(step))
    return found


@pytest.mark.parametrize("warmup", [{"warmup_ratio": 0.11}, {"warmup_steps": 4}, {"warmup_ratio": 0.0}])
@pytest.mark.parametrize("kind", KINDS)
def test_every_schedule_is_that_of_transformers(kind: str, warmup: dict[str, Any]) -> None:
    ours, theirs = sgd().optimizer, sgd().optimizer
    train = recipe(lr_scheduler_type=kind, lr_scheduler_kwargs=KWARGS.get(kind, {}), **warmup)
    schedule = build_scheduler(ours, train, TOTAL)
    steps = warmup.get("warmup_steps", math.ceil(warmup.get("warmup_ratio", 0.0) * TOTAL))
    reference = get_scheduler(kind, theirs, steps, TOTAL, KWARGS.get(kind))
    expected = []
    for step in range(TOTAL):
        expected.append(float(theirs.param_groups[0]["lr"]))
        theirs.step()
        if kind in ("reduce_lr_on_plateau", "greedy"):
            reference.step(scores(step))
        else:
            reference.step()
    assert rates(kind, ours, schedule, range(TOTAL)) == expected
    assert len(set(expected)) > 1 or kind.startswith("constant")


@pytest.mark.parametrize("at", [0, 3, 11, 24])
@pytest.mark.parametrize("kind", KINDS)
def test_a_schedule_goes_on_from_a_checkpoint(kind: str, at: int, tmp_path: Path) -> None:
    train = recipe(lr_scheduler_type=kind, lr_scheduler_kwargs=KWARGS.get(kind, {}))
    whole = sgd().optimizer
    expected = rates(kind, whole, build_scheduler(whole, train, TOTAL), range(TOTAL))

    model = torch.nn.Linear(1, 1)
    first = sgd()
    schedule = build_scheduler(first.optimizer, train, TOTAL)
    before = rates(kind, first.optimizer, schedule, range(at))
    store = CheckpointStore(tmp_path, keep=1)
    path = store.save(Snapshot.take(model, first, schedule, None, TrainingState(step=at)))
    second = sgd()
    resumed = build_scheduler(second.optimizer, train, TOTAL)
    Snapshot.read(path).restore(model, second, resumed, None)
    assert before + rates(kind, second.optimizer, resumed, range(at, TOTAL)) == expected


def test_schedules_by_score_follow_the_metrics_direction() -> None:
    train = recipe(lr_scheduler_type="reduce_lr_on_plateau", lr_scheduler_kwargs={"patience": 0, "factor": 0.5})
    for maximize, lowered in ((True, False), (False, True)):
        optimizer = sgd().optimizer
        schedule = build_scheduler(optimizer, train, TOTAL, maximize=maximize)
        for score in (0.1, 0.2, 0.3):
            observe(schedule, score)
        assert (optimizer.param_groups[0]["lr"] < 0.1) is lowered


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"powr": 2}},
            "lr_scheduler_kwargs: the schedule polynomial has no powr (did you mean power?); expected one of lr_",
        ),
        (
            {"lr_scheduler_type": "constant_with_warmup", "lr_scheduler_kwargs": {"power": 2}},
            "lr_scheduler_kwargs: the schedule constant_with_warmup has no power; expected {}.",
        ),
        (
            {"lr_scheduler_type": "cosine_with_min_lr"},
            "cosine_with_min_lr refuses (One of min_lr or min_lr_rate should be",
        ),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "missing 1 required positional argument: 'num_decay_steps'"),
        (
            {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 1.0}},
            "the schedule polynomial refuses (lr_end (1.0) must be smaller",
        ),
        ({"lr_scheduler_type": "polynomial", "warmup_ratio": 1.0}, "the schedule polynomial refuses (division by zero"),
        (
            {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": "many"}},
            "the schedule cosine refuses (could not convert string to float",
        ),
        (
            {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patients": 2}},
            "has no patients (did you mean patience?)",
        ),
        (
            {"warmup_steps": 26},
            "train.warmup_steps: 26 steps of warm-up are more than the whole training; expected at most",
        ),
    ],
)
def test_a_schedule_that_cannot_be_is_one_line(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(SeqtrackError) as caught:
        check_schedule(recipe(**changes), TOTAL)
    assert str(caught.value).startswith("params.yaml: train.")
    assert "\n" not in str(caught.value)
    assert problem in str(caught.value)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "deberta-v2", "modernbert", "electra"])
def test_layers_learn_slower_the_deeper_they_lie(kind: str) -> None:
    network = small(kind)
    train = recipe(layerwise_lr_decay=0.5, learning_rate=0.8, weight_decay=0.3)
    named = build_optimizer(network, train, loss_scaling=False)
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in named.optimizer.param_groups
        for parameter in group["params"]
    }
    depths = parameter_depths(network, needed_by="-").by_name
    for name, parameter in network.named_parameters():
        assert found[id(parameter)] == pytest.approx((0.8 * 0.5 ** (4 - depths[name]), 0.3 * (parameter.ndim > 1)))
    assert named.optimizer.param_groups[0]["lr"] == 0.8
    by_id = {id(parameter): name for name, parameter in network.named_parameters()}
    assert [by_id[id(p)] for group in named.optimizer.param_groups for p in group["params"]] == list(named.names)
    # The schedule scales all of them alike.
    schedule = build_scheduler(named.optimizer, recipe(warmup_steps=4), 10)
    named.optimizer.step()
    schedule.step()
    assert [group["lr"] for group in named.optimizer.param_groups] == pytest.approx(
        [group["initial_lr"] / 4 for group in named.optimizer.param_groups]
    )


@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "electra"])
def test_auto_gives_embeddings_half_the_heads_rate(kind: str) -> None:
    network = small(kind)
    train = settled(recipe(layerwise_lr_decay="auto"), network, pretrained=True)
    depths = parameter_depths(network, needed_by="-")
    assert isinstance(train.layerwise_lr_decay, float)
    assert train.layerwise_lr_decay ** (depths.layers + 1) == pytest.approx(0.5, rel=0.01)
    groups = build_optimizer(network, train, loss_scaling=False).optimizer.param_groups
    rates = {group["lr"] for group in groups}
    assert max(rates) == train.learning_rate
    assert min(rates) == pytest.approx(0.5 * train.learning_rate, rel=0.01)


def test_auto_is_nothing_where_what_learns_is_new_or_layers_are_shared() -> None:
    train = recipe(layerwise_lr_decay="auto")
    assert settled(train, small("bert"), pretrained=False).layerwise_lr_decay is None
    assert settled(train, small("albert"), pretrained=True).layerwise_lr_decay is None
    adapters = recipe(layerwise_lr_decay="auto", lora={"r": 8})
    assert settled(adapters, small("bert"), pretrained=True).layerwise_lr_decay is None


@pytest.mark.parametrize("decay", [None, 0.7])
def test_what_is_said_is_taken(decay: float | None) -> None:
    train = recipe(layerwise_lr_decay=decay)
    assert settled(train, small("bert"), pretrained=True) == train


OWN = """
import torch

class Counting(torch.optim.SGD):
    '''Keeps a number per parameter and one per group, and nothing for one-dimensional ones.'''

    def step(self, closure=None):
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
            group["scale"] = group.get("scale", 1.0) * 0.9
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    state["seen"] = state.get("seen", 0) + 1
                    state["sum"] = state.get("sum", 0.0) + float(p.grad.sum())
                    state["last"] = None if p.ndim == 1 else p.grad.clone()
                    with torch.no_grad():
                        p.sub_(group["lr"] * group["scale"] * (p.grad + state["sum"] / state["seen"] / group["count"]))

def momentum(groups, lr):
    return torch.optim.SGD(groups, lr=lr, momentum=0.9)

def adafactor(groups, lr):
    from transformers.optimization import Adafactor
    return Adafactor(groups, lr=lr, relative_step=False, scale_parameter=True)

class Nested(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["history"] = [1.0]

def none(groups, lr):
    return None

def alone(groups):
    return None
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_optimizers.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("own_optimizers", None)


def with_optimizer(path: str) -> Train:
    return recipe(custom=recipe().custom.model_dump() | {"optimizer": path})


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    "path",
    [
        "own_optimizers:Counting",
        "own_optimizers:momentum",
        "torch.optim:SGD",
        "torch.optim:NAdam",
        "torch.optim:RAdam",
        "torch.optim:Adafactor",
        "torch.optim:RMSprop",
        "torch.optim:ASGD",
        "own_optimizers:adafactor",
    ],
)
def test_an_optimizer_of_ones_own_goes_on_from_a_checkpoint(
    path: str, model: BertForSequenceClassification, tmp_path: Path
) -> None:
    train = with_optimizer(path)
    check_optimizer(train)
    named = build_optimizer(model, train, loss_scaling=False)
    assert named.optimizer.param_groups[0]["lr"] == train.learning_rate
    assert named.optimizer.param_groups[0]["weight_decay"] == train.weight_decay
    for _ in range(3):
        step(model, named)
    schedule = build_scheduler(named.optimizer, train, 10)
    store = CheckpointStore(tmp_path / "saved", keep=1)
    saved = store.save(Snapshot.take(model, named, schedule, None, TrainingState(step=3)))
    twin = BertForSequenceClassification(model.config).eval()
    other = build_optimizer(twin, train, loss_scaling=False)
    Snapshot.read(saved).restore(twin, other, build_scheduler(other.optimizer, train, 10), None)
    for one, two in ((named, model), (other, twin)):
        for group in one.optimizer.param_groups:
            group["lr"] = 0.01
        for _ in range(2):
            step(two, one)
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    found = optimizer_tensors(other)
    expected = optimizer_tensors(named)
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("path", "problem"),
    [
        (
            "own_optimizers:Nested",
            "Nested keeps a list as 'history', which no checkpoint has; expected a state",
        ),
        (
            "own_optimizers:none",
            "own_optimizers:none makes no optimiser; expected a torch.optim.Optimizer; found NoneType",
        ),
        (
            "own_optimizers:alone",
            "the wrong parameters (got an unexpected keyword argument 'lr'); expected a call with",
        ),
        ("own_optimizers:Nothing", "own_optimizers has no Nothing"),
        ("torch.optim:LBFGS", "torch.optim:LBFGS refuses (LBFGS doesn't support per-parameter options"),
    ],
)
def test_what_is_no_optimizer_is_one_line(path: str, problem: str) -> None:
    with pytest.raises(SeqtrackError) as caught:
        check_optimizer(with_optimizer(path))
    assert str(caught.value).startswith("params.yaml: train.custom.optimizer: ")
    assert "\n" not in str(caught.value)
    assert problem in str(caught.value)
