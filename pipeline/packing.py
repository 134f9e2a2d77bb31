"""The texts of a micro-batch end to end in one row instead of padded to the longest: no token computed in vain.

Promises: no text sees another: attention is limited to the own text, by a kernel for rows of many texts on CUDA and by
a block mask elsewhere; before training starts, packed outputs of some real rows are compared with padded ones, and an
architecture for which they differ is refused in one line. What belongs to a row (embeddings with their positions and
segments, pooling, the head) sees padded rows as ever; what costs the time, all layers between, sees one packed row.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils.generic import ModelOutput

from pipeline.errors import SeqtrackError
from pipeline.forward import same_but_for_rounding
from pipeline.modeling import quiet_transformers
from pipeline.on_device import logits_of, to_device, without_asking
from pipeline.params import Train
from pipeline.sharding import is_sharded
from pipeline.tokens import TokenStore

WHERE: Final = "params.yaml: train.packing"
OFF: Final = "set train.packing to false"
VARLEN: Final = "seqtrack_varlen"  # our attention's name among transformers' own
CHECKED_ROWS: Final = 6
HALF: Final = (torch.bfloat16, torch.float16)


def check_packing(accelerator: Accelerator, train: Train) -> None:
    """Refuse ways to train that packing does not go with.

    Raises:
        SeqtrackError: train.packing is true, and weights are divided or the model is compiled.
    """
    if not train.packing:
        return
    if is_sharded(accelerator):
        raise SeqtrackError("not with divided weights (FSDP2)", where=WHERE, fix=OFF)
    if accelerator.state.dynamo_plugin.backend != DynamoBackend.NO:
        raise SeqtrackError(
            "each packed row has a length of its own, for which the model would be compiled anew",
            where=WHERE,
            fix=f"set launch.dynamo_backend to no, or {OFF}",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Where the tokens of a padded batch lie in the packed row.

    Attributes:
        shape: texts and width of the padded batch.
        longest: tokens of the longest text.
        tensors: on the model's device: `places`, int64 [tokens], where each token lies in the flattened padded batch;
            `texts`, int64 [tokens], the text it is of; `positions`, int64 [tokens], its place in that; `bounds`, int32
            [texts + 1], where texts start in the packed row, and its end.
    """

    shape: tuple[int, int]
    longest: int
    tensors: dict[str, torch.Tensor]

    @staticmethod
    def of(attention_mask: torch.Tensor, device: torch.device) -> Layout:
        """Return the layout of a batch.

        Args:
            attention_mask: int64 [texts, width] on the CPU, so that no device is waited for; 1 is a token.
            device: the model's.
        """
        lengths = attention_mask.sum(dim=1)
        bounds = functional.pad(lengths.cumsum(0), (1, 0))
        texts = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        tensors = {
            "places": attention_mask.flatten().nonzero().squeeze(1),
            "texts": texts,
            "positions": torch.arange(len(texts)) - bounds[texts],
            "bounds": bounds.to(torch.int32),
        }
        texts_in, width = attention_mask.shape
        return Layout(shape=(texts_in, width), longest=int(lengths.max()), tensors=to_device(tensors, device))

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """Return [1, tokens, ...] for [texts, width, ...]."""
        return padded.flatten(0, 1).index_select(0, self.tensors["places"]).unsqueeze(0)

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """Return [texts, width, ...], with zeros as padding, for [1, tokens, ...]."""
        texts, width = self.shape
        padded = packed.new_zeros(texts * width, *packed.shape[2:])
        return padded.index_copy(0, self.tensors["places"], packed.squeeze(0)).view(texts, width, *packed.shape[2:])

    def visible(self, window: int | None = None) -> torch.Tensor:
        """Return which token may see which, bool [tokens, tokens]: those of its text, at most `window` tokens away."""
        texts = self.tensors["texts"]
        same = texts[:, None] == texts[None, :]
        if window is None:
            return same
        places = torch.arange(len(texts), device=texts.device)
        return same & ((places[:, None] - places[None, :]).abs() <= window)


class Packing:
    """A model that can compute packed rows.

    Attributes:
        varlen: whether attention knows the texts' bounds, and needs no mask.
    """

    def __init__(self, model: PreTrainedModel, *, varlen: bool | None = None) -> None:
        """Make a model ready; it computes padded batches as before until `laid_end_to_end` is entered.

        Args:
            model: a sequence classifier, on the device it will train on.
            varlen: whether to do without a mask where the architecture lets attention be replaced; None: on CUDA.

        Raises:
            SeqtrackError: its layers are not found, or its attention is that of a package of its own.
        """
        self._model = model
        self._trunk = _trunk(model)
        self._names = tuple(inspect.signature(self._trunk.forward).parameters)
        self._layout: Layout | None = None
        self._implementation = str(model.config._attn_implementation)
        if self._implementation not in ("eager", "sdpa"):
            raise SeqtrackError(
                f"packed rows have an attention of their own, and not {self._implementation}",
                where="params.yaml: model.attn_implementation",
                expected="null, sdpa or eager with train.packing",
            )
        wanted = _has_kernels(model.device) if varlen is None else varlen
        # Eager where transformers has nothing better means that the architecture computes attention in a way of its own
        self.varlen = wanted and self._implementation == "sdpa" and _replace_attention(model)
        self._trunk.register_forward_pre_hook(self._pack, with_kwargs=True)
        self._trunk.register_forward_hook(self._unpack)

    @staticmethod
    def of(
        model: PreTrainedModel, tokens: TokenStore, positions: npt.NDArray[np.int64], *, varlen: bool | None = None
    ) -> Packing:
        """Make a model ready and see on some rows that it computes packed what it computes padded.

        Args:
            model: see `__init__`.
            tokens: tokenized rows.
            positions: rows of the train split, int64 [rows]; some, from the shortest to the longest, are tried.
            varlen: see `__init__`.

        Raises:
            SeqtrackError: it does not, or `__init__` refuses it.
        """
        packing = Packing(model, varlen=varlen)
        by_length = positions[np.argsort(tokens.lengths[positions], kind="stable")]
        tried = by_length[np.unique(np.linspace(0, len(by_length) - 1, CHECKED_ROWS).astype(int))]
        packing.check(tokens.batch(tried))
        return packing

    @contextmanager
    def laid_end_to_end(self, attention_mask: torch.Tensor) -> Iterator[None]:
        """While this is entered, the model, called with a padded batch, computes it packed.

        Args:
            attention_mask: of that batch, on the CPU, see `Layout.of`.
        """
        self._layout = Layout.of(attention_mask, self._model.device)
        try:
            yield
        finally:
            self._layout = None

    def in_words(self) -> str:
        """Return how texts are kept apart."""
        return "varlen attention" if self.varlen else "block mask"

    def check(self, batch: dict[str, torch.Tensor]) -> None:
        """Compare packed with padded outputs, in float32 and without dropout.

        Args:
            batch: a padded batch on the CPU.

        Raises:
            SeqtrackError: they differ.
        """
        mask, learning = batch["attention_mask"], self._model.training
        self._model.train(False)
        try:
            padded = self._outputs(batch)
            with self.laid_end_to_end(mask):
                packed = self._outputs(batch)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            # What an architecture that knows nothing of packed rows has to say of one.
            raise self._refused(f"it fails on them ({error})") from error
        finally:
            self._model.train(learning)
        for name, expected in padded.items():
            if not same_but_for_rounding(packed[name], expected):
                error_size = float((packed[name] - expected).abs().max())
                raise self._refused(f"its {name} differ by up to {error_size:.1e} from those of padded rows")

    def _outputs(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return what layers make of the tokens, float32 [tokens, hidden], and logits, float32 [texts, classes].

        Layers besides logits: those of a new head are so small that a difference might hide in them.
        """
        seen: list[torch.Tensor] = []
        handle = self._trunk.register_forward_hook(lambda _, __, output: seen.append(output[0]))
        try:
            with torch.no_grad():
                logits = logits_of(self._model, batch, self._model.device)
        finally:
            handle.remove()
        tokens = batch["attention_mask"].bool().to(logits.device)
        return {"layers' outputs": seen[0][tokens].float(), "logits": logits.float()}

    def _refused(self, why: str) -> SeqtrackError:
        return SeqtrackError(
            f"{type(self._model).__name__} ({self._model.config.model_type}) cannot compute packed texts: {why}",
            where=WHERE,
            fix=OFF,
        )

    def _pack(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Replace a padded batch by a packed row in the arguments of the layers' module."""
        layout = self._layout
        if layout is None:
            return None
        given = dict(zip(self._names, args, strict=False)) | kwargs
        mask = given.get("attention_mask")
        packed = {
            name: layout.pack(value)
            if isinstance(value, torch.Tensor) and value.shape[:2] == layout.shape and name != "attention_mask"
            else value
            for name, value in given.items()
        }
        packed["attention_mask"] = self._attention_mask(layout, mask, packed)
        if isinstance(module, PreTrainedModel):  # which numbers tokens itself; other modules get that done
            packed["position_ids"] = layout.tensors["positions"].unsqueeze(0)
        if self.varlen:
            bounds = layout.tensors["bounds"]
            packed |= {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
            packed |= {"max_length_q": layout.longest, "max_length_k": layout.longest}
        return (), packed

    def _unpack(self, _module: torch.nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        return None if self._layout is None else _map_tensors(self._unpacked, output)

    def _unpacked(self, found: torch.Tensor) -> torch.Tensor:
        assert self._layout is not None
        tokens = len(self._layout.tensors["texts"])
        return self._layout.unpack(found) if found.dim() > 2 and found.shape[:2] == (1, tokens) else found

    def _attention_mask(self, layout: Layout, padded: torch.Tensor | None, packed: dict[str, Any]) -> Any:
        """Return the mask in the form that the architecture wants: by kind of layer, ready, or to be made so."""
        config = self._model.config
        if isinstance(self._trunk, PreTrainedModel) and hasattr(config, "layer_types"):
            windows = {"full_attention": None, "sliding_attention": getattr(config, "sliding_window", None)}
            return {kind: self._ready(layout, windows[kind], packed) for kind in sorted(set(config.layer_types))}
        if isinstance(padded, torch.Tensor) and padded.dim() == 2 and not isinstance(self._trunk, PreTrainedModel):
            return layout.visible().unsqueeze(0).to(padded.dtype)
        return self._ready(layout, None, packed)

    def _ready(self, layout: Layout, window: int | None, packed: dict[str, Any]) -> torch.Tensor | None:
        if self.varlen:
            return None
        visible = layout.visible(window)[None, None]
        if self._implementation == "sdpa":
            return visible
        hidden = packed.get("hidden_states")
        dtype = hidden.dtype if isinstance(hidden, torch.Tensor) else self._model.dtype
        return torch.zeros_like(visible, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)


def _trunk(model: PreTrainedModel) -> torch.nn.Module:
    """Return the module that keeps the encoder's layers and runs them one after the other.

    Raises:
        SeqtrackError: layers lie in no list, or in lists of several modules.
    """
    base: torch.nn.Module = model.base_model
    lists = [name for name, module in base.named_modules() if isinstance(module, torch.nn.ModuleList)]
    outermost = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    parents = {name.rpartition(".")[0] for name in outermost}
    if len(parents) != 1:
        raise SeqtrackError(
            f"cannot tell the layers of {type(model).__name__} ({model.config.model_type})",
            where=WHERE,
            expected="one module with a list of layers",
            found=", ".join(outermost) or "none",
            fix=OFF,
        )
    return base.get_submodule(parents.pop())


def _map_tensors(function: Callable[[torch.Tensor], torch.Tensor], output: Any) -> Any:
    """Return a module's output, which may be tensors within tuples and transformers' outputs, with all replaced."""
    if isinstance(output, torch.Tensor):
        return function(output)
    if isinstance(output, ModelOutput):
        for name in tuple(output):
            output[name] = _map_tensors(function, output[name])
    if isinstance(output, tuple):
        return tuple(_map_tensors(function, one) for one in output)
    return output


def _replace_attention(model: PreTrainedModel) -> bool:
    """Have a model compute attention by `_attention`; return whether its architecture lets that be chosen."""
    AttentionInterface.register(VARLEN, _attention)
    AttentionMaskInterface.register(VARLEN, without_asking(sdpa_mask))
    with quiet_transformers():  # it would say so where it does not
        model.set_attn_implementation(VARLEN)
    return bool(model.config._attn_implementation == VARLEN)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention as transformers asks for it: packed where bounds are given, else by PyTorch's fused kernel.

    Args:
        module: that asks.
        query: [texts or 1, heads, tokens, size of a head]; so are key and value.
        key: see query.
        value: see query.
        attention_mask: of padded batches.
        dropout: share of attention weights that is dropped.
        scaling: factor of the products of queries and keys.
        sliding_window: tokens that are seen on each side, counting the own; None is all.
        cu_seq_lens_q: bounds, see `Layout`.
        max_length_q: tokens of the longest text.
        kwargs: what else transformers hands on.

    Returns:
        [texts or 1, tokens, heads, size of a head], and no weights.
    """
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    found = varlen_attention(
        *(part.squeeze(0).transpose(0, 1) for part in (query, key, value)),
        bounds=cu_seq_lens_q,
        longest=max_length_q,
        dropout=dropout,
        scaling=scaling,
        window=None if sliding_window is None else sliding_window - 1,
    )
    return found.unsqueeze(0), None


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    bounds: torch.Tensor,
    longest: int,
    dropout: float = 0.0,
    scaling: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Attend within each text of a packed row, by the fastest means that the device has for these numbers.

    On CUDA these are the kernels behind PyTorch's attention (Dao, 2023, arXiv:2307.08691, in 16 bits, and the
    memory-efficient one in float32), called as PyTorch calls them for nested tensors; `torch.nn.attention.varlen` has
    the former too, but knows no dropout.

    Args:
        query: [tokens, heads, size of a head]; so are key and value.
        key: see query.
        value: see query.
        bounds: int32 [texts + 1] on the same device: where texts start, and the end.
        longest: tokens of the longest text.
        dropout: share of attention weights that is dropped.
        scaling: factor of the products of queries and keys; None is one over the square root of a head's size.
        window: most tokens between two that see each other; None is no limit.

    Returns:
        The same shape as query.
    """
    # What kernels can read at once is 16 bytes.
    if query.device.type == "cuda" and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256:
        if query.dtype in HALF and torch.cuda.get_device_capability(query.device) >= (8, 0):
            return flash(query, key, value, bounds, longest, dropout, scaling, window)
        if window is None:
            return memory_efficient(query, key, value, bounds, longest, dropout, scaling)
    return text_by_text(query, key, value, bounds, dropout, scaling, window)


def flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Do what `varlen_attention` does, in bfloat16 or float16 on an Ampere GPU or a later one."""
    found: torch.Tensor = torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        bounds,
        bounds,
        longest,
        longest,
        dropout,
        False,  # not causal
        False,  # dropout's mask is not wanted
        scale=scaling,
        window_size_left=window,
        window_size_right=window,
    )[0]
    return found


def memory_efficient(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """Do what `varlen_attention` does without a window, in any precision on any CUDA GPU."""
    found: torch.Tensor = torch.ops.aten._efficient_attention_forward(
        query.unsqueeze(0),
        key.unsqueeze(0),
        value.unsqueeze(0),
        None,  # no bias
        bounds,
        bounds,
        longest,
        longest,
        dropout,
        0,  # not causal
        True,  # keep what the backward pass needs
        scale=scaling,
    )[0]
    return found.squeeze(0)


def text_by_text(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    dropout: float,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Do what `varlen_attention` does in the plain way, on any device, one text after the other."""
    found = []
    for start, end in pairwise(bounds.tolist()):
        near = None
        if window is not None:
            places = torch.arange(end - start, device=query.device)
            near = (places[:, None] - places[None, :]).abs() <= window
        one, its_keys, its_values = (part[start:end].transpose(0, 1) for part in (query, key, value))
        attended = functional.scaled_dot_product_attention(
            one, its_keys, its_values, attn_mask=near, dropout_p=dropout, scale=scaling
        )
        found.append(attended.transpose(0, 1))
    return torch.cat(found)


def _has_kernels(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.cuda is not None
