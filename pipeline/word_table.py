"""The table of word vectors cut to the tokens that a training meets: as good, and less work, memory and disk.

Promises: training gives the weights that it gives with the whole table, but for rounding. A token that no row has gets
no gradient, and its vector no change but weight decay, which is made up for at the end. Applied only to models of
transformers that look vectors up in the plain way, and only where the outputs for some rows stay what they were; all
others stay as they are. Of a multilingual encoder most weights are in this table, and most of its tokens in no text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from pipeline.forward import of_transformers, same_but_for_rounding
from pipeline.on_device import logits_of

WORTHWHILE: Final = 0.8  # of the table; with a larger share of it in use, little is gained


class CutTable(torch.nn.Embedding):
    """Looks up vectors by token id, as the table that it is cut from does.

    Its weight has a vector for each token in use, in the order of their ids, and one more that no token leads to, of
    ones: what training makes of that is what it would make, by decay alone, of all vectors that were left out.
    """

    def __init__(self, table: torch.nn.Embedding, used: torch.Tensor) -> None:
        """Cut a table.

        Args:
            table: the whole one, [tokens, width].
            used: ids to keep, int64 [used], ascending.
        """
        vectors = torch.cat([table.weight.detach()[used], table.weight.new_ones(1, table.embedding_dim)])
        super().__init__(len(used) + 1, table.embedding_dim, _weight=vectors)
        places = torch.full((table.num_embeddings,), len(vectors), device=used.device)  # beyond the end: an error
        places[used] = torch.arange(len(used), device=used.device)
        # Not saved: it follows from the rows that are trained on, as the whole table does.
        self.register_buffer("places", places, persistent=False)
        # A table may know of no padding, or of another than the tokenizer's.
        if table.padding_idx is not None and table.padding_idx in used:
            self.padding_idx = int(places[table.padding_idx])

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return vectors, [..., width], for token ids, int64 [...].

        Raises:
            IndexError: a token is not in use (on CUDA a failed assertion of the device).
        """
        assert isinstance(self.places, torch.Tensor)
        return functional.embedding(self.places[input], self.weight, self.padding_idx)


class WordTable:
    """What it takes to put a model's table together again.

    Attributes:
        used: tokens that have a vector in training.
        tokens: those of the whole table.
    """

    def __init__(self, name: str, table: torch.nn.Embedding, used: torch.Tensor) -> None:
        self.used, self.tokens = len(used), table.num_embeddings
        self._name = name
        self._used = used.cpu()
        self._padding_idx = table.padding_idx
        self._whole = table.weight.detach().cpu()  # so that a GPU's memory has room for other things

    def in_words(self) -> str:
        """Return what learns, for people to read."""
        return f"{self.used:,} of {self.tokens:,}, those of tokens that rows have"

    @torch.no_grad()
    def restore(self, model: PreTrainedModel) -> None:
        """Give a model, whose weights are not divided, a whole table with the vectors that its cut one has now."""
        cut = model.get_submodule(self._name)
        assert isinstance(cut, CutTable)
        learnt, decay = cut.weight.detach()[:-1], cut.weight.detach()[-1]
        vectors = self._whole.to(decay.device) * decay
        vectors[self._used.to(decay.device)] = learnt
        tokens, width = vectors.shape
        whole = torch.nn.Embedding(tokens, width, padding_idx=self._padding_idx, _weight=vectors)
        model.set_submodule(self._name, whole.train(cut.training))


def cut_word_table(
    model: PreTrainedModel, find_used: Callable[[], npt.NDArray[np.int64]], rows: dict[str, torch.Tensor]
) -> WordTable | None:
    """Cut a model's table of word vectors to some tokens, if it learns and that leaves out enough.

    Args:
        model: a sequence classifier, whole and on any device. Whether it learns or evaluates stays what it is.
        find_used: returns the ids of all tokens that it will meet, int64 [used], ascending, without repeats; that with
            which rows are padded included. Asked only where the table could be cut: it may look through all rows.
        rows: inputs of some of them, on the CPU, for a comparison of outputs.

    Returns:
        What puts the table together again, or None where the model stays as it is.
    """
    if not of_transformers(model):
        return None  # code of other hands may use the table in ways of its own
    found = _table(model)
    if found is None:
        return None
    name, table = found
    used = find_used()
    if len(used) >= WORTHWHILE * table.num_embeddings:
        return None
    ids = torch.from_numpy(used).to(table.weight.device)
    learning = model.training
    model.train(False)
    before = _logits(model, rows)
    model.set_submodule(name, CutTable(table, ids))
    same = same_but_for_rounding(_logits(model, rows), before)
    if not same:
        model.set_submodule(name, table)
    model.train(learning)
    return WordTable(name, table, ids) if same else None


def _table(model: PreTrainedModel) -> tuple[str, torch.nn.Embedding] | None:
    """Return the table by name; None where it is none of PyTorch's plain kind, does not learn, or has other uses."""
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:
        return None
    if type(table) is not torch.nn.Embedding or not table.weight.requires_grad:
        return None
    if table.max_norm is not None or table.scale_grad_by_freq or table.sparse:
        return None
    names = [name for name, module in model.named_modules(remove_duplicate=False) if module is table]
    shared = [name for name, weight in model.named_parameters(remove_duplicate=False) if weight is table.weight]
    return (names[0], table) if len(names) == len(shared) == 1 else None


def _logits(model: PreTrainedModel, rows: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return logits_of(model, rows, model.device)
