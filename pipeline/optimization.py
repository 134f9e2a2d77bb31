"""The optimiser and its schedule.

Promises: AdamW with decoupled decay (Loshchilov and Hutter, 2019) on matrices only; the learning rate is a function of
the step, as transformers defines it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from pipeline.params import Train


@dataclass(frozen=True, kw_only=True)
class NamedOptimizer:
    """An optimiser that knows its parameters by name, in the order of its state.

    Attributes:
        optimizer: AdamW with two groups, with and without decay.
        names: parameter names, first group first.
    """

    optimizer: torch.optim.AdamW
    names: tuple[str, ...]


def build_optimizer(model: torch.nn.Module, train: Train, *, loss_scaling: bool) -> NamedOptimizer:
    """Return AdamW over all trainable parameters; biases and normalisation weights (one-dimensional) do not decay.

    Args:
        model: on its device.
        train: the recipe.
        loss_scaling: whether fp16's gradient scaler will drive the optimiser.
    """
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decayed = [(name, parameter) for name, parameter in trainable if parameter.ndim > 1]
    plain = [(name, parameter) for name, parameter in trainable if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": [parameter for _, parameter in decayed], "weight_decay": train.weight_decay},
            {"params": [parameter for _, parameter in plain], "weight_decay": 0.0},
        ],
        lr=train.learning_rate,
        betas=(train.adam_beta1, train.adam_beta2),
        eps=train.adam_epsilon,
        # A fused optimiser skips steps that overflow by itself, and accelerate would count them as done.
        fused=not loss_scaling and all(parameter.device.type in {"cpu", "cuda"} for _, parameter in trainable),
    )
    return NamedOptimizer(optimizer=optimizer, names=tuple(name for name, _ in decayed + plain))


def build_scheduler(optimizer: torch.optim.Optimizer, train: Train, total_steps: int) -> LRScheduler:
    """Return the schedule: warm-up from 0 over `warmup_ratio` of the steps, then linear or cosine decay to 0."""
    scheduler: LRScheduler = get_scheduler(
        train.lr_scheduler_type,
        optimizer,
        num_warmup_steps=math.ceil(total_steps * train.warmup_ratio),
        num_training_steps=total_steps,
    )
    return scheduler


def optimizer_tensors(named: NamedOptimizer) -> dict[str, torch.Tensor]:
    """Return the optimiser's state as tensors named `<slot>/<parameter>`, for example `exp_avg/classifier.weight`."""
    return {f"{slot}/{name}": tensor for name, slot, tensor in _slots(named)}


def load_optimizer_tensors(named: NamedOptimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Restore what `optimizer_tensors` returned.

    Raises:
        KeyError: a tensor belongs to a parameter that this optimiser does not have.
    """
    index = {name: position for position, name in enumerate(named.names)}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        slot, _, name = key.partition("/")
        state.setdefault(index[name], {})[slot] = tensor
    whole = named.optimizer.state_dict()
    named.optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def _slots(named: NamedOptimizer) -> Iterator[tuple[str, str, torch.Tensor]]:
    for position, slots in named.optimizer.state_dict()["state"].items():
        for slot, tensor in slots.items():
            yield named.names[position], slot, tensor
