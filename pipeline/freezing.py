"""Which parameters are trained.

Promises: a pattern does what it says or is refused: one that matches no parameter, or all of them, is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch

from pipeline.errors import SeqtrackError

WHERE = "params.yaml: train.freeze"


def freeze(model: torch.nn.Module, patterns: Sequence[str]) -> None:
    """Exclude parameters from training, in place.

    Args:
        model: whose parameters.
        patterns: of names as in `model.named_parameters()`; `*` stands for any characters, `?` for one, `[..]` for one
            of several.

    Raises:
        SeqtrackError: a pattern matches nothing, or nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        matched = [name for name in parameters if fnmatchcase(name, pattern)]
        if not matched:
            raise SeqtrackError(
                "no parameter has such a name",
                where=WHERE,
                expected="patterns of names such as " + ", ".join(_examples(list(parameters))),
                found=pattern,
            )
        for name in matched:
            parameters[name].requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in parameters.values()):
        raise SeqtrackError(
            "all parameters are frozen", where=WHERE, found=", ".join(patterns), fix="leave out a pattern"
        )


def _examples(names: list[str]) -> list[str]:
    """Return a dozen names from all over the model: the first of each module that lies three levels deep."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(".".join(name.split(".")[:3]), name)
    found = list(first.values())
    return found if len(found) <= 12 else [*found[:8], *found[-4:]]
