"""An average of the weights over the steps of a training: scored and kept in place of the last ones.

Promises: training itself takes the steps it takes without; the average is a function of the weights after each step
alone, and lies in checkpoints with the optimiser's state, so a resumed training has the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import torch

from pipeline.optimization import parameters_of
from pipeline.sharding import local

SLOT: Final = "weight_average"  # in the optimiser's state of a parameter, and so in checkpoints
# One step of so many is counted, since each costs reading and writing the average; of few steps all are.
STEPS_APART: Final = 4
ENOUGH: Final = 100


class WeightAverage:
    """The average of Shamir and Zhang (2013, arXiv:1212.1824, section 4), in which step t weighs about t to a power.

    So it follows a training of any length: with a power of 3 half of the weight lies on the last sixth of the steps.

    Args:
        optimizer: whose parameters are averaged.
        power: of the step by which it weighs; the average lags behind by a share of 1 / (power + 2) of the steps.
        total_steps: of the training.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, power: float, total_steps: int) -> None:
        self._optimizer = optimizer
        self._power = power
        self._apart = min(STEPS_APART, max(1, total_steps // ENOUGH))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Count the weights after a step in.

        To be called while gradients are still there: an optimiser first has to make the state of a parameter, which
        some do when it is empty.

        Args:
            step: steps done, this one included.
        """
        if step % self._apart:
            return
        for parameter in parameters_of(self._optimizer):
            if parameter.grad is not None and SLOT not in self._optimizer.state[parameter]:
                self._optimizer.state[parameter][SLOT] = parameter.detach().clone()
        averages, weights = self._held()
        if averages:
            counted = step // self._apart
            torch._foreach_lerp_(averages, weights, (self._power + 1) / (counted + self._power))

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """While this is entered, the model's weights are the average."""
        averages, weights = self._held()
        kept = [weight.clone() for weight in weights]
        if weights:
            torch._foreach_copy_(weights, averages)
        try:
            yield
        finally:
            if weights:
                torch._foreach_copy_(weights, kept)

    def _held(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return what this process has of the averages, and of the weights that they are of."""
        states = [(parameter, self._optimizer.state.get(parameter, {})) for parameter in parameters_of(self._optimizer)]
        held = [(state[SLOT], parameter.detach()) for parameter, state in states if SLOT in state]
        return [local(average) for average, _ in held], [local(weight) for _, weight in held]


@torch.no_grad()
def put_average(optimizer: Mapping[str, torch.Tensor], model: torch.nn.Module) -> None:
    """Give a model the average that a checkpoint holds; what it holds none of stays.

    Args:
        optimizer: its tensors, see `pipeline.optimization.optimizer_tensors`.
        model: the training's, whole.
    """
    for name, parameter in model.named_parameters():
        average = optimizer.get(f"{SLOT}/{name}")
        if average is not None:
            parameter.copy_(average)
