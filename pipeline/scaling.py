"""Regression targets on a scale that any model learns on: mean 0 and standard deviation 1 over the train split.

Promises: the exported model gives numbers on the scale of the labels, since the scale is folded into the weights of its
last layer; so nothing that loads it need know of it. Adam's steps do not grow with the numbers: without this, labels
in the thousands would take a head thousands of steps to reach.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from pipeline.targets import Targets


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Where the zero of standardised numbers lies on the scale of the labels, and how long their unit is.

    Attributes:
        mean: on the labels' scale.
        std: on the labels' scale, above 0.
        head: name of the layer that the scale is folded into when the model is exported; "" where there is none.
    """

    mean: float = 0.0
    std: float = 1.0
    head: str = ""

    @staticmethod
    def of(targets: Targets) -> Scale:
        """Return mean and standard deviation of numbers, [rows], at least one; equal numbers keep their unit."""
        std = float(targets.std(dtype=np.float64))
        return Scale(mean=float(targets.mean(dtype=np.float64)), std=std if std > 0 else 1.0)

    def standardised(self, targets: Targets) -> npt.NDArray[np.float32]:
        """Return numbers on the labels' scale as standardised ones, float32 [rows]."""
        result: npt.NDArray[np.float32] = ((targets - self.mean) / self.std).astype(np.float32)
        return result

    def restored(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return standardised numbers on the labels' scale, float32 of the same shape."""
        result: npt.NDArray[np.float32] = (logits.astype(np.float64) * self.std + self.mean).astype(np.float32)
        return result

    def fold(self, head: torch.nn.Linear) -> None:
        """Change a head that gives standardised numbers into one that gives them on the labels' scale, in place."""
        _map(head, self.std, self.mean)

    def unfold(self, head: torch.nn.Linear) -> None:
        """Undo `fold`, in place."""
        _map(head, 1 / self.std, -self.mean / self.std)


def _map(head: torch.nn.Linear, factor: float, offset: float) -> None:
    with torch.no_grad():
        head.weight.copy_(head.weight.double() * factor)
        head.bias.copy_(head.bias.double() * factor + offset)


def find_head(model: PreTrainedModel) -> tuple[str, torch.nn.Linear] | None:
    """Return name and module of the layer whose output is the model's, where it is linear and has a bias, else None.

    Args:
        model: gives one number per row.
    """
    heads = {
        module: name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == 1 and module.bias is not None
    }
    outputs: list[tuple[torch.nn.Linear, torch.Tensor]] = []
    hooks = [module.register_forward_hook(lambda layer, _, output: outputs.append((layer, output))) for module in heads]
    # Some architectures read the vector at the end-of-text token, so one must be there.
    eos = getattr(model.config, "eos_token_id", None)
    tokens = torch.full((1, 4), eos if isinstance(eos, int) else 0, device=model.device)
    was_training = model.training
    model.train(False)
    try:
        with torch.no_grad():
            logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return next(((heads[layer], layer) for layer, output in outputs if output is logits), None)
