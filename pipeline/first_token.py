"""The last layer of an encoder for the first token alone, where the head reads no other: as good, and less work.

Promises: applied only to models in which the outputs of the last layer for other tokens have no influence at all on the
logits, and after some made-up rows got the logits they got before; all others stay as they are, and those with code
that is not transformers'. Of that layer keys and values are computed for all tokens, all else for one: with 6 layers
that saves a seventh of the encoder's matrix products, with 12 a fourteenth.
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from pipeline.forward import of_transformers, same_but_for_rounding
from pipeline.layers import find_depths

WIDTH: Final = 8  # tokens of the made-up rows
PARTS_IN_BERT: Final = {f"attention.self.{name}" for name in ("query", "key", "value")} | {
    "attention.output",
    "intermediate",
    "output",
}
PARTS_IN_DISTILBERT: Final = {f"attention.{name}" for name in ("q_lin", "k_lin", "v_lin", "out_lin")} | {
    "sa_layer_norm",
    "ffn",
    "output_layer_norm",
}


def compute_first_token_alone(model: PreTrainedModel) -> bool:
    """Have the last layer computed for the first token alone, if that is all that the head reads.

    Its outputs then have the shape [rows, 1, hidden], so call this where nothing but logits is wanted of the model.

    Args:
        model: a sequence classifier with float32 weights, whole and on any device, not made in inference mode, which
            knows no gradients. Whether it learns or evaluates stays what it is.

    Returns:
        Whether the model does so now.
    """
    if not of_transformers(model):
        return False  # in training, code of other hands may do what it does not do here
    layer = _last_layer(model)
    form = None if layer is None else _form(layer)
    if layer is None or form is None:
        return False
    if isinstance(layer, form):
        return True
    learning = model.training
    model.train(False)
    try:
        found = _try_out(model, layer)
        if found is None:
            return False
        plain = type(layer)
        # Under the same name, by which FSDP is told of it; a class, unlike a function of one layer, survives copying.
        layer.__class__ = type(plain.__name__, (form, plain), {"__module__": plain.__module__})
        same = _same(model, layer, *found)
        if not same:
            layer.__class__ = plain
        return same
    finally:
        model.train(learning)


def _last_layer(model: PreTrainedModel) -> torch.nn.Module | None:
    depths = find_depths(model)
    if depths is None or len(depths.stacks) != 1:
        return None
    stack = model.get_submodule(depths.stacks[0])
    return cast("torch.nn.ModuleList", stack)[-1]


def _form(layer: torch.nn.Module) -> type[torch.nn.Module] | None:
    """Return how to compute a layer for its first token, None where it is built in a way that is not known here."""
    parts = {name for name, _ in layer.named_modules()}
    if parts.issuperset(PARTS_IN_BERT) and not getattr(layer, "is_decoder", False):
        return _AsInBert
    return _AsInDistilBert if parts.issuperset(PARTS_IN_DISTILBERT) else None


def _rows(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return two rows of some tokens, the second shorter than the first."""
    tokens = torch.arange(4, 4 + 2 * WIDTH, device=model.device).view(2, WIDTH) % int(model.config.vocab_size)
    mask = torch.ones_like(tokens)
    mask[1, WIDTH // 2 :] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def _try_out(model: PreTrainedModel, layer: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return what the plain layer gives for the first token, [2, hidden], and the logits, [2, classes].

    None where the logits depend on what it gives for other tokens, or on nothing of it.
    """
    seen: list[torch.Tensor] = []

    def cut(_module: torch.nn.Module, _inputs: object, output: object) -> object:
        if not isinstance(output, torch.Tensor):
            return None
        seen.append(output.detach().requires_grad_())
        return seen[0]

    handle = layer.register_forward_hook(cut)
    try:
        with torch.enable_grad():
            logits = model(**_rows(model)).logits
            if not seen:
                return None
            # Squares, so that contributions of several classes do not cancel out.
            (gradient,) = torch.autograd.grad(logits.square().sum(), seen, allow_unused=True)
    finally:
        handle.remove()
    if gradient is None or not gradient[:, 0].any() or gradient[:, 1:].any():
        return None
    return seen[0][:, 0].detach(), logits.detach()


def _same(model: PreTrainedModel, layer: torch.nn.Module, first: torch.Tensor, logits: torch.Tensor) -> bool:
    """Return whether a model gives, with its last layer changed, what it gave before."""
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda _, __, output: seen.append(output))
    try:
        with torch.no_grad():
            found = model(**_rows(model)).logits
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return False  # built like BERT to the eye only, or around another number of tokens
    finally:
        handle.remove()
    return same_but_for_rounding(seen[0][:, 0], first) and same_but_for_rounding(found, logits)


class _AsInBert(torch.nn.Module):
    """A layer of BERT, RoBERTa, XLM-RoBERTa, ELECTRA and others that name its parts like them."""

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, *_: Any, **__: Any
    ) -> torch.Tensor:
        """Return [rows, 1, hidden] for [rows, tokens, hidden]."""
        layer: Any = self
        own = layer.attention.self
        attended = _attend(own, (own.query, own.key, own.value), hidden_states, attention_mask)
        attended = layer.attention.output(attended, hidden_states[:, :1])
        result: torch.Tensor = layer.output(layer.intermediate(attended), attended)
        return result


class _AsInDistilBert(torch.nn.Module):
    """A layer of DistilBERT."""

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, *_: Any, **__: Any
    ) -> torch.Tensor:
        """Return [rows, 1, hidden] for [rows, tokens, hidden]."""
        layer: Any = self
        own = layer.attention
        attended = _attend(own, (own.q_lin, own.k_lin, own.v_lin), hidden_states, attention_mask)
        attended = layer.sa_layer_norm(own.out_lin(attended) + hidden_states[:, :1])
        result: torch.Tensor = layer.output_layer_norm(layer.ffn(attended) + attended)
        return result


def _attend(
    own: Any,
    projections: tuple[torch.nn.Module, torch.nn.Module, torch.nn.Module],
    hidden_states: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """Attend from the first token of each row to all of its tokens.

    Args:
        own: transformers' module for attention: the size of a head, and the dropout of its weights, are taken from it.
        projections: to queries, keys and values.
        hidden_states: [rows, tokens, hidden].
        mask: in any form that transformers makes for the kinds of attention: [rows, tokens], 1 is a token;
            [rows, 1, 1 or tokens, tokens], True is seen; the same in floating point, added to the scores; None is all.

    Returns:
        [rows, 1, hidden].
    """
    size: int = own.attention_head_size
    to_query, to_key, to_value = projections
    parts = (to_query(hidden_states[:, :1]), to_key(hidden_states), to_value(hidden_states))
    one, keys, values = (part.view(*part.shape[:2], -1, size).transpose(1, 2) for part in parts)
    scores = one @ keys.transpose(-1, -2) * size**-0.5
    if mask is not None:
        mask = mask[:, None, None, :].bool() if mask.dim() == 2 else mask[:, :, :1]
        hidden = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, hidden) if mask.dtype == torch.bool else scores + mask
    weights = own.dropout(functional.softmax(scores, dim=-1))
    attended: torch.Tensor = (weights @ values).transpose(1, 2).flatten(2)
    return attended
