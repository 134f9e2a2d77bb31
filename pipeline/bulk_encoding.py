"""Token ids for a whole corpus: batches that several threads may encode at once, as flat arrays instead of lists.

Promises: the rows of `Encoder.encode`. With two threads the ids of one batch are taken out while the tokenizer is at
work on the next, so all processors stay busy with tokenizing; long single texts are tokenized once, not twice.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.encoding import Encoder, FlatRows, flat_array, joined


class BulkEncoder:
    """Encodes batches; safe to call from several threads at once, while nothing else uses the encoder.

    Args:
        encoder: its tokenizer is set up for truncation, and stays so.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._backend = encoder.truncating_backend() if encoder.tokenizer.is_fast else None
        self._added = 0 if self._backend is None else self._backend.num_special_tokens_to_add(False)

    @property
    def definition(self) -> str | None:
        """What decides over the rows of a text, whole; None for a tokenizer written in Python, which cannot tell."""
        if self._backend is None:
            return None
        return f"{self._backend.to_str()}\n{self._backend.encode_special_tokens}"  # a switch that to_str leaves out

    @property
    def threads(self) -> int:
        """How many calls may run at once."""
        return 1 if self._backend is None else 2

    @cached_property
    def _whole_backend(self) -> Any:
        """The same tokenizer without truncation."""
        whole: Any = copy.deepcopy(self._backend)
        whole.no_truncation()
        return whole

    def __call__(self, texts: Sequence[str], pairs: Sequence[str | None]) -> FlatRows:
        """Encode a batch.

        Args:
            texts: first texts, shape (rows,).
            pairs: second texts, shape (rows,), None for rows that have none.
        """
        if self._backend is None or not texts:
            return FlatRows.of(self._encoder.encode(texts, pairs))
        rows = joined(texts, pairs)
        encodings = self._backend.encode_batch_fast(rows)
        lengths = flat_array(map(len, encodings), np.int64, len(rows))
        full = lengths.astype(np.int32)
        cut_pairs = []
        for index, encoding in enumerate(encodings):
            if not (pieces := encoding.overflowing):
                continue
            if pairs[index] is None:  # the pieces make up the text, each with special tokens of its own
                full[index] += sum(len(piece) - self._added for piece in pieces)
            else:  # the pieces of pairs overlap
                cut_pairs.append(index)
        if cut_pairs:
            whole = self._whole_backend.encode_batch_fast([rows[index] for index in cut_pairs])
            full[cut_pairs] = flat_array(map(len, whole), np.int32, len(whole))
        tokens = int(lengths.sum())

        def flat(name: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
            return flat_array(chain.from_iterable(map(attrgetter(name), encodings)), dtype, tokens)

        return FlatRows(
            input_ids=flat("ids", np.int32),
            token_type_ids=flat("type_ids", np.int8) if self._encoder.has_token_types else None,
            lengths=lengths,
            full_lengths=full,
        )
