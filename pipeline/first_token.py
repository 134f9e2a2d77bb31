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

from pipeline.layers import find_depths

# Of the largest number compared, as in `pipeline.packing`; float32's rounding stays a hundred times below.
TOLERANCE: Final = 1e-4
WIDTH: Final = 8  # tokens of the made-up rows


def compute_first_token_alone(model: PreTrainedModel) -> bool:
    """Have the last layer computed for the first token alone, if that is all that the head reads.

    Its outputs then have the shape [rows, 1, hidden], so call this where nothing but logits is wanted of the model.

    Args:
        model: a sequence classifier with float32 weights, whole and on any device, not made in inference mode, which
            knows no gradients. Whether it learns or evaluates stays what it is.

    Returns:
        Whether the model does so now.
    """
    if not type(model).__module__.startswith("transformers."):
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
    attention = getattr(layer, "attention", None)
    if _has(layer, "attention.self.query", "attention.output", "intermediate", "output"):
        known = _has(attention, "self.key", "self.value") and not getattr(layer, "is_decoder", False)
        return _AsInBert if known else None
    if _has(layer, "attention.q_lin", "attention.out_lin", "sa_layer_norm", "ffn", "output_layer_norm"):
        return _AsInDistilBert
    return None


def _has(module: torch.nn.Module | None, *names: str) -> bool:
    present = set() if module is None else {name for name, _ in module.named_modules()}
    return present.issuperset(names)


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
    return _close(seen[0][:, 0], first) and _close(found, logits)


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return float((found - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


class _AsInBert(torch.nn.Module):
    """A layer of BERT, RoBERTa, XLM-RoBERTa, ELECTRA and others that name its parts like them."""

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, *_: Any, **__: Any
    ) -> torch.Tensor:
        """Return [rows, 1, hidden] for [rows, tokens, hidden]."""
        layer: Any = self
        own, first = layer.attention.self, hidden_states[:, :1]
        attended = _attend(
            own.query(first),
            own.key(hidden_states),
            own.value(hidden_states),
            attention_mask,
            size=own.attention_head_size,
            dropout=own.dropout,
        )
        attended = layer.attention.output(attended, first)
        result: torch.Tensor = layer.output(layer.intermediate(attended), attended)
        return result


class _AsInDistilBert(torch.nn.Module):
    """A layer of DistilBERT."""

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, *_: Any, **__: Any
    ) -> torch.Tensor:
        """Return [rows, 1, hidden] for [rows, tokens, hidden]."""
        layer: Any = self
        own, first = layer.attention, hidden_states[:, :1]
        attended = _attend(
            own.q_lin(first),
            own.k_lin(hidden_states),
            own.v_lin(hidden_states),
            attention_mask,
            size=own.attention_head_size,
            dropout=own.dropout,
        )
        attended = layer.sa_layer_norm(own.out_lin(attended) + first)
        result: torch.Tensor = layer.output_layer_norm(layer.ffn(attended) + attended)
        return result


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    size: int,
    dropout: torch.nn.Dropout,
) -> torch.Tensor:
    """Attend from one token of each row to all of its tokens.

    Args:
        query: [rows, 1, heads x size].
        key: [rows, tokens, heads x size]; so is value.
        value: see key.
        mask: in any form that transformers makes for the kinds of attention: [rows, tokens], 1 is a token;
            [rows, 1, 1 or tokens, tokens], True is seen; the same in floating point, added to the scores; None is all.
        size: of a head.
        dropout: of the weights.

    Returns:
        [rows, 1, heads x size].
    """
    one, keys, values = (part.view(*part.shape[:2], -1, size).transpose(1, 2) for part in (query, key, value))
    scores = one @ keys.transpose(-1, -2) * size**-0.5
    if mask is not None:
        mask = mask[:, None, None, :].bool() if mask.dim() == 2 else mask[:, :, :1]
        hidden = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, hidden) if mask.dtype == torch.bool else scores + mask
    weights: torch.Tensor = dropout(functional.softmax(scores, dim=-1))
    return (weights @ values).transpose(1, 2).flatten(2)
