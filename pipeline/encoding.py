"""Texts to token ids, and token ids to padded batches: one way for tokenize, train, evaluate and predict.

Promises: ids equal those of calling the tokenizer with `truncation=True`, unpadded; truncation is never silent: every
row carries the length it had before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import SeqtrackError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


NO_LIMIT = 10**30  # what transformers gives a tokenizer that names no maximum length


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Unpadded rows.

    Attributes:
        input_ids: token ids, special tokens included, one sequence per row of at most max_length.
        token_type_ids: 0 for the first text and 1 for its pair, as long as input_ids; None where the model has none.
        full_lengths: tokens per row before truncation, special tokens included.
    """

    input_ids: list[Sequence[int]]
    token_type_ids: list[Sequence[int]] | None
    full_lengths: list[int]


@dataclass(frozen=True, kw_only=True, eq=False)
class FlatRows:
    """Unpadded rows, one after the other.

    Attributes:
        input_ids: int32, shape (tokens,).
        token_type_ids: int8, shape (tokens,); None where the model has none.
        lengths: int64, shape (rows,): tokens per row.
        full_lengths: int32, shape (rows,): the same before truncation.
    """

    input_ids: npt.NDArray[np.int32]
    token_type_ids: npt.NDArray[np.int8] | None
    lengths: npt.NDArray[np.int64]
    full_lengths: npt.NDArray[np.int32]

    @staticmethod
    def of(encoded: Encoded) -> FlatRows:
        """Return rows that are given as lists."""
        lengths = flat_array(map(len, encoded.input_ids), np.int64, len(encoded.input_ids))
        tokens, types = int(lengths.sum()), encoded.token_type_ids
        return FlatRows(
            input_ids=flat_array(chain.from_iterable(encoded.input_ids), np.int32, tokens),
            token_type_ids=None if types is None else flat_array(chain.from_iterable(types), np.int8, tokens),
            lengths=lengths,
            full_lengths=flat_array(encoded.full_lengths, np.int32, len(lengths)),
        )


@dataclass(frozen=True, kw_only=True)
class Padding:
    """How a model wants its batches filled up."""

    pad_token_id: int
    pad_token_type_id: int
    side: str  # right or left

    def batch(
        self,
        input_ids: Sequence[Sequence[int] | npt.NDArray[Any]],
        token_type_ids: Sequence[Sequence[int] | npt.NDArray[Any]] | None,
        *,
        multiple_of: int = 8,
    ) -> dict[str, torch.Tensor]:
        """Return a model's inputs, padded to the longest row, rounded up to `multiple_of`.

        Args:
            input_ids: token ids, one sequence per row.
            token_type_ids: segment ids of the same lengths, or None.
            multiple_of: tensor cores like lengths divisible by 8.

        Returns:
            int64 tensors [rows, longest] under `input_ids`, `attention_mask` (1 = token, 0 = padding) and, where given,
            `token_type_ids`.
        """
        import torch

        longest = max(len(row) for row in input_ids)
        width = -(-longest // multiple_of) * multiple_of
        ids = np.full((len(input_ids), width), self.pad_token_id, dtype=np.int64)
        mask = np.zeros((len(input_ids), width), dtype=np.int64)
        types = None
        if token_type_ids is not None:
            types = np.full((len(input_ids), width), self.pad_token_type_id, dtype=np.int64)
        for index, row in enumerate(input_ids):
            where = slice(0, len(row)) if self.side == "right" else slice(width - len(row), width)
            ids[index, where] = row
            mask[index, where] = 1
            if types is not None and token_type_ids is not None:
                types[index, where] = token_type_ids[index]
        tensors = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        if types is not None:
            tensors["token_type_ids"] = torch.from_numpy(types)
        return tensors


class Encoder:
    """A tokenizer with its maximum length.

    Args:
        tokenizer: any transformers tokenizer; one backed by Rust is driven directly, which skips most of the cost.
        max_length: longest row in tokens, special tokens included.

    Raises:
        SeqtrackError: max_length is more than the model has positions for, or the tokenizer cannot pad.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        if max_length > tokenizer.model_max_length:
            raise SeqtrackError(
                "longer than the model can read",
                where="params.yaml: tokenize.max_length",
                expected=f"at most {tokenizer.model_max_length}",
                found=str(max_length),
            )
        if tokenizer.pad_token_id is None:
            raise SeqtrackError(
                "the tokenizer has no padding token",
                where="params.yaml: model.name_or_path",
                fix="choose an encoder, or set pad_token in the tokenizer's own files",
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.has_token_types = "token_type_ids" in tokenizer.model_input_names
        self.padding = Padding(
            pad_token_id=int(tokenizer.pad_token_id),
            pad_token_type_id=int(tokenizer.pad_token_type_id),
            side=str(tokenizer.padding_side),
        )

    @staticmethod
    def load(folder: Path, max_length: int, *, trust_remote_code: bool = False) -> Encoder:
        """Load the tokenizer of a model folder.

        Raises:
            SeqtrackError: the folder has none, or `__init__` refuses it.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
            if tokenizer.model_max_length >= NO_LIMIT:
                tokenizer.model_max_length = _positions(folder, trust_remote_code) or NO_LIMIT
        except (OSError, ValueError) as error:
            raise SeqtrackError(f"no usable tokenizer ({error})", where=str(folder)) from error
        return Encoder(tokenizer, max_length)

    def encode(self, texts: Sequence[str], pairs: Sequence[str | None] | None) -> Encoded:
        """Encode rows.

        Args:
            texts: first texts, shape (rows,).
            pairs: second texts, shape (rows,), None for rows that have none; None where no row has one.
        """
        if not texts:
            return Encoded(input_ids=[], token_type_ids=[] if self.has_token_types else None, full_lengths=[])
        if not self.tokenizer.is_fast:
            return self._encode_slowly(texts, pairs)
        backend = self.truncating_backend()
        rows = joined(texts, pairs)
        encodings = backend.encode_batch_fast(rows)
        lengths = [len(encoding) for encoding in encodings]
        cut = [index for index, encoding in enumerate(encodings) if encoding.overflowing]
        if cut:
            backend.no_truncation()
            whole = backend.encode_batch_fast([rows[index] for index in cut])
            for index, encoding in zip(cut, whole, strict=True):
                lengths[index] = len(encoding)
        return Encoded(
            input_ids=[encoding.ids for encoding in encodings],
            token_type_ids=[encoding.type_ids for encoding in encodings] if self.has_token_types else None,
            full_lengths=lengths,
        )

    def truncating_backend(self) -> Any:
        """Return the tokenizer in Rust, set to cut at max_length and not to pad; only where the tokenizer has one."""
        backend = self.tokenizer.backend_tokenizer
        backend.no_padding()
        backend.enable_truncation(self.max_length, stride=0, strategy="longest_first", direction=self._truncation_side)
        return backend

    def _encode_slowly(self, texts: Sequence[str], pairs: Sequence[str | None] | None) -> Encoded:
        """Encode through the tokenizer's own call: for tokenizers written in Python."""
        rows = [(row,) if isinstance(row, str) else row for row in joined(texts, pairs)]
        cut = [self.tokenizer(*row, truncation=True, max_length=self.max_length) for row in rows]
        return Encoded(
            input_ids=[encoding["input_ids"] for encoding in cut],
            token_type_ids=[encoding["token_type_ids"] for encoding in cut] if self.has_token_types else None,
            full_lengths=[len(self.tokenizer(*row, verbose=False)["input_ids"]) for row in rows],
        )

    @property
    def _truncation_side(self) -> str:
        return str(self.tokenizer.truncation_side)


def flat_array(numbers: Iterable[int], dtype: npt.DTypeLike, count: int) -> npt.NDArray[Any]:
    """Return numbers as an array of shape (count,)."""
    return np.fromiter(numbers, dtype, count)


def joined(texts: Sequence[str], pairs: Sequence[str | None] | None) -> list[str | tuple[str, str]]:
    """Return each row as a tokenizer takes it: a text, or a text and its pair."""
    if pairs is None:
        return list(texts)
    return [text if pair is None else (text, pair) for text, pair in zip(texts, pairs, strict=True)]


def _positions(folder: Path, trust_remote_code: bool) -> int | None:
    """Return how many positions a model has learned, None where it has no table of them.

    Beyond such a table a model fails in the middle of training. The model is built without memory for its weights:
    `max_position_embeddings` alone does not tell, since models with relative or rotary positions have it too.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model = AutoModel.from_config(config, trust_remote_code=trust_remote_code)  # type: ignore[no-untyped-call]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            # In the RoBERTa family the positions of tokens begin after the padding's.
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return None
