"""The optimiser and its schedule.

Promises: AdamW with decoupled decay (Loshchilov and Hutter, 2019) on matrices only, or an optimiser of the user's; a
schedule's rates are those of transformers; the state of both is tensors and numbers by name, so a resumed training goes
on as if nothing had happened, or the optimiser is refused before any work.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau
from transformers import PreTrainedModel, SchedulerType, get_scheduler
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, GreedyLR

from pipeline.errors import SeqtrackError
from pipeline.layers import find_depths, parameter_depths
from pipeline.params import Train
from pipeline.parts import load_part, require_call
from pipeline.sharding import divided_like, is_divided, whole
from pipeline.suggestions import did_you_mean

OWN = "train.custom.optimizer"
KWARGS = "params.yaml: train.lr_scheduler_kwargs"
# Schedules that look at a score instead of the step: by name, what takes their keyword arguments.
BY_SCORE: dict[str, Callable[..., Any]] = {"reduce_lr_on_plateau": ReduceLROnPlateau, "greedy": GreedyLR}
# What transformers.get_scheduler fills in itself.
FILLED_IN = {"self", "optimizer", "num_warmup_steps", "num_training_steps", "last_epoch", "verbose"}
# transformers hands no keyword arguments on to these.
WITHOUT_KWARGS = {"constant", "constant_with_warmup"}


# Of the head's learning rate, with train.layerwise_lr_decay auto: 0.906 a layer down for 6 layers, 0.948 for 12 and
# 0.973 for 24. Sun et al. (2019, arXiv:1905.05583) found 0.95 best for 12. See docs/results.md.
EMBEDDINGS_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class NamedOptimizer:
    """An optimiser that knows its parameters by name, in the order of its state.

    Attributes:
        optimizer: its first group has the highest learning rate.
        names: parameter names, first group first.
        settings: the numbers in each group as they were at first, by name; what differs later is state.
    """

    optimizer: torch.optim.Optimizer
    names: tuple[str, ...]
    settings: tuple[dict[str, float], ...]


def settled(train: Train, model: PreTrainedModel, *, pretrained: bool) -> Train:
    """Return the recipe with what `train.layerwise_lr_decay: auto` means for a model: a number, or null.

    Embeddings then learn at EMBEDDINGS_SHARE of the head's rate, whatever the number of layers. All weights learn alike
    where none that learns is pretrained, from scratch or with adapters, and where layers cannot be told apart.

    Args:
        train: the recipe.
        model: what is trained.
        pretrained: whether its encoder is.
    """
    if train.layerwise_lr_decay != "auto":
        return train
    depths = find_depths(model) if pretrained and train.lora is None else None
    decay = None if depths is None else round(EMBEDDINGS_SHARE ** (1 / (depths.layers + 1)), 3)
    return train.model_copy(update={"layerwise_lr_decay": decay})


def build_optimizer(model: PreTrainedModel, train: Train, *, loss_scaling: bool) -> NamedOptimizer:
    """Return the recipe's optimiser over all trainable parameters.

    Biases and normalisation weights (one-dimensional) do not decay. With train.layerwise_lr_decay each layer learns at
    that factor times the rate of the layer above, and embeddings as if they were the layer below the first (Howard and
    Ruder, 2018, arXiv:1801.06146, section 3.2; Clark et al., 2020, arXiv:2003.10555, appendix B).

    Args:
        model: on its device.
        train: the recipe, `settled` for this model.
        loss_scaling: whether fp16's gradient scaler will drive the optimiser.

    Raises:
        SeqtrackError: the model's layers cannot be told apart, or the user's optimiser refuses.
    """
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    factors = _rate_factors(model, train.layerwise_lr_decay)
    # Weights before biases: the groups of a training without decay by layers. Sorting keeps the model's order within.
    keys = {name: (-factors[name], parameter.ndim <= 1) for name, parameter in trainable}
    groups = []
    names: list[str] = []
    for key in sorted(set(keys.values())):
        members = [(name, parameter) for name, parameter in trainable if keys[name] == key]
        names += [name for name, _ in members]
        groups.append(
            {
                "params": [parameter for _, parameter in members],
                "weight_decay": 0.0 if key[1] else train.weight_decay,
                "lr": train.learning_rate * -key[0],
            }
        )
    optimizer: torch.optim.Optimizer
    if train.custom.optimizer is not None:
        optimizer = _own_optimizer(groups, train.custom.optimizer, train.learning_rate)
    else:
        optimizer = torch.optim.AdamW(
            groups,
            lr=train.learning_rate,
            betas=(train.adam_beta1, train.adam_beta2),
            eps=train.adam_epsilon,
            # A fused optimiser skips steps that overflow by itself, and accelerate would count them as done.
            fused=not loss_scaling and all(parameter.device.type in {"cpu", "cuda"} for _, parameter in trainable),
        )
    return NamedOptimizer(
        optimizer=optimizer, names=tuple(names), settings=tuple(_numbers(group) for group in optimizer.param_groups)
    )


def _rate_factors(model: PreTrainedModel, decay: float | Literal["auto"] | None) -> dict[str, float]:
    """Return what the learning rate is multiplied by, by parameter name."""
    if decay == "auto":
        raise ValueError("auto has to be settled first")
    if decay is None:
        return {name: 1.0 for name, _ in model.named_parameters()}
    depths = parameter_depths(model, needed_by="train.layerwise_lr_decay")
    return {name: decay ** (depths.layers + 1 - depth) for name, depth in depths.by_name.items()}


def check_optimizer(train: Train, divide: Callable[[torch.Tensor], torch.Tensor] = whole) -> None:
    """Try a user's optimiser on two small parameters, through a step and a round trip of its state.

    Args:
        train: the recipe.
        divide: makes of a tensor what FSDP2 would.

    Raises:
        SeqtrackError: it cannot be imported or called, is none, or keeps state that a checkpoint cannot hold.
    """
    path = train.custom.optimizer
    if path is None:
        return
    weight, bias = (torch.nn.Parameter(divide(torch.ones(shape))) for shape in ((2, 2), (2,)))
    groups = [{"params": [p], "weight_decay": train.weight_decay, "lr": train.learning_rate} for p in (weight, bias)]
    optimizer = _own_optimizer(groups, path, train.learning_rate)
    settings = tuple(_numbers(group) for group in optimizer.param_groups)
    named = NamedOptimizer(optimizer=optimizer, names=("weight", "bias"), settings=settings)
    weight.grad, bias.grad = torch.ones_like(weight), torch.ones_like(bias)
    try:
        optimizer.step()
    except TypeError as error:
        raise SeqtrackError(
            f"{path} cannot do a step without arguments ({error})",
            where=f"params.yaml: {OWN}",
            expected="an optimiser whose step() needs no closure",
        ) from error
    except RuntimeError as error:
        if not is_divided(weight):
            raise
        raise SeqtrackError(
            f"{path} cannot do a step with what FSDP2 divides among processes",
            where=f"params.yaml: {OWN}",
            expected="an optimiser that treats each number of a parameter by itself, as torch.optim:NAdam does",
        ) from error
    load_optimizer_tensors(named, {name: whole(tensor) for name, tensor in optimizer_tensors(named).items()})


def _own_optimizer(groups: list[dict[str, Any]], path: str, rate: float) -> torch.optim.Optimizer:
    part = load_part(path, OWN)
    require_call(part, path, OWN, groups, lr=rate, form="(groups, lr=...)")
    try:
        optimizer = part(groups, lr=rate)
    except (TypeError, ValueError) as error:
        raise SeqtrackError(f"{path} refuses ({error})", where=f"params.yaml: {OWN}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise SeqtrackError(
            f"{path} makes no optimiser",
            where=f"params.yaml: {OWN}",
            expected="a torch.optim.Optimizer",
            found=type(optimizer).__name__,
        )
    return optimizer


def warmup_steps(train: Train, total_steps: int) -> int:
    """Return over how many steps the rate rises, as transformers counts: a share of the steps is rounded up."""
    return math.ceil(total_steps * train.warmup_ratio) if train.warmup_steps is None else train.warmup_steps


def build_scheduler(
    optimizer: torch.optim.Optimizer, train: Train, total_steps: int, *, maximize: bool = False
) -> LRScheduler:
    """Return the schedule that transformers knows under `lr_scheduler_type`.

    Args:
        optimizer: whose rates are set.
        train: the recipe.
        total_steps: optimisation steps of the whole training.
        maximize: whether the score that schedules like reduce_lr_on_plateau look at is better when higher.

    Raises:
        SeqtrackError: lr_scheduler_kwargs do not fit, or there are more steps of warm-up than of training.
    """
    kind, kwargs = train.lr_scheduler_type, dict(train.lr_scheduler_kwargs)
    warmup = warmup_steps(train, total_steps)
    if warmup > total_steps:
        raise SeqtrackError(
            f"{warmup:,} steps of warm-up are more than the whole training",
            where="params.yaml: train.warmup_steps",
            expected=f"at most {total_steps:,}",
        )
    _require_known(kind, list(kwargs))
    if kind in BY_SCORE:
        kwargs.setdefault("mode", "max" if maximize else "min")
    try:
        scheduler: LRScheduler = get_scheduler(
            kind,
            optimizer,
            num_warmup_steps=warmup,
            num_training_steps=total_steps,
            scheduler_specific_kwargs=kwargs,
        )
        if isinstance(scheduler, LambdaLR):
            # Where the phases meet is where a formula divides by zero, if it does.
            for step in {0, warmup, total_steps - 1, total_steps}:
                scheduler.lr_lambdas[0](step)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise SeqtrackError(
            f"the schedule {kind} refuses ({error})", where=KWARGS, found=str(dict(train.lr_scheduler_kwargs))
        ) from error
    return scheduler


def schedule_in_words(train: Train, total_steps: int) -> str:
    """Return the learning rate over the training, for people to read."""
    words = [f"{train.learning_rate:g}", train.lr_scheduler_type]
    if train.lr_scheduler_type not in {"constant", *BY_SCORE}:
        words.append(f"warm-up over {warmup_steps(train, total_steps):,} steps")
    if train.layerwise_lr_decay is not None and train.layerwise_lr_decay != "auto":
        words.append(f"x {train.layerwise_lr_decay:g} with each layer down")
    return ", ".join(words)


def check_schedule(train: Train, total_steps: int) -> None:
    """Try the schedule without a model; raises what `build_scheduler` does."""
    build_scheduler(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=train.learning_rate), train, total_steps)


def _require_known(kind: str, names: Sequence[str]) -> None:
    takes: Any
    takes = BY_SCORE[kind] if kind in BY_SCORE else TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(kind)]
    known = set() if kind in WITHOUT_KWARGS else set(inspect.signature(takes).parameters) - FILLED_IN
    for name in names:
        if name not in known:
            raise SeqtrackError(
                f"the schedule {kind} has no {name}{did_you_mean(name, known)}",
                where=KWARGS,
                expected=("one of " + ", ".join(sorted(known))) if known else "{}",
            )


def advance(scheduler: LRScheduler) -> None:
    """Go on to the next optimisation step; schedules that look at scores stay as they are."""
    if not isinstance(scheduler, ReduceLROnPlateau | GreedyLR):
        scheduler.step()


def observe(scheduler: LRScheduler, score: float) -> None:
    """Tell a schedule that looks at scores the newest one of `metric_for_best_model`."""
    if isinstance(scheduler, ReduceLROnPlateau | GreedyLR):
        scheduler.step(score)


def scheduler_state(scheduler: LRScheduler) -> dict[str, Any]:
    """Return the numbers of a schedule's state, for JSON; its functions are rebuilt from params.

    What is infinite is left out: "the best score so far" before the first one, which a fresh schedule has too.
    """
    return {
        name: value
        for name, value in scheduler.state_dict().items()
        if name != "lr_lambdas" and not (isinstance(value, float) and not math.isfinite(value))
    }


def optimizer_tensors(named: NamedOptimizer) -> dict[str, torch.Tensor]:
    """Return the optimiser's state as tensors named `<slot>/<parameter>`, for example `exp_avg/classifier.weight`.

    A number is a tensor without dimensions, `<slot>:int/<parameter>` or `<slot>:float/<parameter>`. What an optimiser
    keeps in a parameter group, and has changed, is `group:<index>/<name>`. What is None is left out.

    Raises:
        SeqtrackError: the optimiser keeps something else, or divides among processes what it cannot divide again.
    """
    tensors: dict[str, torch.Tensor] = {}
    shapes = {
        name: parameter.shape for name, parameter in zip(named.names, parameters_of(named.optimizer), strict=True)
    }
    for name, slot, value in _slots(named):
        if isinstance(value, torch.Tensor):
            if is_divided(value) and value.shape != shapes[name]:  # nobody would know how to divide it again
                raise SeqtrackError(
                    f"{type(named.optimizer).__name__} keeps {slot!r} in another shape than the parameter's, which "
                    "does not go with FSDP2",
                    where=f"params.yaml: {OWN}",
                )
            tensors[f"{slot}/{name}"] = value
        elif isinstance(value, int | float):
            kind = "int" if isinstance(value, int) else "float"
            tensors[f"{slot}:{kind}/{name}"] = torch.tensor(value, dtype=KINDS[kind])
        elif value is not None:
            raise SeqtrackError(
                f"{type(named.optimizer).__name__} keeps a {type(value).__name__} as {slot!r}, which no checkpoint has",
                where=f"params.yaml: {OWN}",
                expected="a state of tensors and numbers for each parameter",
            )
    for index, (group, first) in enumerate(zip(named.optimizer.param_groups, named.settings, strict=True)):
        for name, number in _numbers(group).items():
            if first.get(name) != number:
                kind = "int" if isinstance(number, int) else "float"
                tensors[f"group:{index}:{kind}/{name}"] = torch.tensor(number, dtype=KINDS[kind])
    return tensors


def load_optimizer_tensors(named: NamedOptimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Restore what `optimizer_tensors` returned.

    Raises:
        KeyError: a tensor belongs to a parameter that this optimiser does not have.
    """
    index = {name: position for position, name in enumerate(named.names)}
    parameters = dict(zip(named.names, parameters_of(named.optimizer), strict=True))
    state: dict[int, dict[str, Any]] = {}
    groups = named.optimizer.state_dict()["param_groups"]
    for key, tensor in tensors.items():
        slot, _, name = key.partition("/")
        slot, *kind = slot.split(":")
        if slot == "group":
            groups[int(kind[0])][name] = tensor.item()
        else:
            state.setdefault(index[name], {})[slot] = tensor.item() if kind else divided_like(tensor, parameters[name])
    named.optimizer.load_state_dict({"state": state, "param_groups": groups})


KINDS = {"int": torch.int64, "float": torch.float64}


def parameters_of(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    """Yield what an optimiser steps, first group first."""
    for group in optimizer.param_groups:
        yield from group["params"]


def _slots(named: NamedOptimizer) -> Iterator[tuple[str, str, object]]:
    for position, slots in named.optimizer.state_dict()["state"].items():
        for slot, value in slots.items():
            yield named.names[position], slot, value


def _numbers(group: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a parameter group but the rates, which are the schedule's."""
    return {
        name: value
        for name, value in group.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in {"lr", "initial_lr"}
    }
