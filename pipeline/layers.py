"""Where a parameter lies in an encoder: embeddings, one of the layers, or above them.

Promises: found from the modules themselves, so any encoder that keeps its layers in a list is understood; one that
does not (ALBERT shares one layer) is refused, never guessed at.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from pipeline.errors import SeqtrackError


@dataclass(frozen=True, kw_only=True)
class Depths:
    """How deep each parameter lies.

    Attributes:
        layers: how many layers the encoder has.
        by_name: depth by parameter name: 0 for embeddings, 1 to `layers` for layers from the bottom, `layers` + 1 for
            what is above (pooler, head).
        stacks: names of the lists that hold the layers; several where an encoder keeps attentions apart, for one.
    """

    layers: int
    by_name: dict[str, int]
    stacks: tuple[str, ...]


def parameter_depths(model: PreTrainedModel, *, needed_by: str) -> Depths:
    """Return where each parameter lies.

    Args:
        model: a sequence classifier.
        needed_by: the params.yaml key that asks, for the message.

    Raises:
        SeqtrackError: the model keeps no list of as many layers as its configuration says.
    """
    depths = find_depths(model)
    if depths is None:
        outermost = _outermost_lists(model)
        raise SeqtrackError(
            f"cannot tell the layers of {type(model).__name__}",
            where=f"params.yaml: {needed_by}",
            expected=f"a list of {_layers(model)} layers in the model",
            found=", ".join(f"{name} of {length}" for name, length in outermost.items()) or "none",
            fix="set it to null",
        )
    return depths


def find_depths(model: PreTrainedModel) -> Depths | None:
    """Return where each parameter lies, None where the model keeps no list of as many layers as it says it has.

    Args:
        model: a sequence classifier.
    """
    layers = _layers(model)
    stacks = tuple(name for name, length in _outermost_lists(model).items() if length == layers)
    if not stacks:
        return None
    names = [name for name, _ in model.named_parameters()]
    in_stack = {name: depth for name in names if (depth := _layer(name, stacks))}
    # The encoder without its head; a model of the user's own may not set it apart.
    encoder = f"{model.base_model_prefix}." if hasattr(model, model.base_model_prefix) else ""
    below = True
    by_name = {}
    for name in names:
        below &= name not in in_stack
        if name in in_stack:
            by_name[name] = in_stack[name]
        # Relative position embeddings are shared by all layers and stand after them in some encoders.
        elif name.startswith(encoder) and (below or "embed" in name.removeprefix(encoder)):
            by_name[name] = 0
        else:
            by_name[name] = layers + 1
            below |= not name.startswith(encoder)  # a head that is declared before the encoder
    return Depths(layers=layers, by_name=by_name, stacks=stacks)


def _layers(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().num_hidden_layers)


def _outermost_lists(model: PreTrainedModel) -> dict[str, int]:
    """Return the lists of modules that are in no other, by name, with their lengths."""
    lists = {name: len(module) for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)}
    return {name: n for name, n in lists.items() if not any(name.startswith(f"{other}.") for other in lists)}


def _layer(name: str, stacks: tuple[str, ...]) -> int:
    """Return the number of the layer a parameter is in, from 1, or 0 when it is in none."""
    for stack in stacks:
        if name.startswith(f"{stack}."):
            return int(name[len(stack) + 1 :].partition(".")[0]) + 1
    return 0
