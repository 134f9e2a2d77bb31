"""Texts to sentence vectors: a pretrained encoder, the mean over its tokens, scaled to length 1.

Promises: a text's vector does not depend on the texts beside it or on their order (batches have one of a few shapes,
chosen by the text's own length); no text is cut, a long one is read window by window. torch and transformers are
imported only when an encoder is loaded.

Method: Reimers and Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks", 2019 (mean pooling).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.encoding import Encoder
from pipeline.errors import SeqtrackError
from pipeline.model_source import ModelSource

if TYPE_CHECKING:
    import torch

VERSION = 1  # of the vectors: what is stored under another version is not reused

_WINDOW = 256  # tokens that the encoder sees at once, special tokens included
_SHORTEST = 16  # tokens that a batch is wide at least
_BATCH_TOKENS = 1024  # width x rows of every batch, about
_BATCH_TOKENS_ACCELERATOR = 16_384
_CHUNK = 32_768  # texts tokenized at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedder:
    """An encoder with its tokenizer, on the best device there is, in float32.

    Attributes:
        model: in evaluation mode.
        encoder: its tokenizer.
        window: tokens that the model reads at once, special tokens included.
    """

    model: Any  # the class differs by architecture
    encoder: Encoder
    window: int

    @staticmethod
    def load(source: ModelSource) -> Embedder:
        """Load an encoder, without a head.

        Raises:
            SeqtrackError: the folder holds no encoder whose weights fit, or no tokenizer that can cut windows.
        """
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModel

        encoder = Encoder.load(source.folder, _SHORTEST)
        try:
            with _quiet():
                model, report = AutoModel.from_pretrained(source.folder, dtype=torch.float32, output_loading_info=True)
        except (OSError, ValueError, SafetensorError) as error:
            raise SeqtrackError(f"cannot load an encoder ({error})", expected="config.json and weights") from error
        tensors = len(model.state_dict())
        if 2 * len(report["missing_keys"]) > tensors:  # transformers fills them with random numbers
            raise SeqtrackError(
                f"the weights do not fit config.json: {len(report['missing_keys'])} of {tensors} tensors are missing"
            )
        if model.config.is_encoder_decoder or not encoder.tokenizer.is_fast:
            raise SeqtrackError(
                "not a model to embed texts with",
                expected="an encoder, with a tokenizer.json",
                found=f"a {model.config.model_type} model, {type(encoder.tokenizer).__name__}",
            )
        window = min(_WINDOW, encoder.tokenizer.model_max_length)
        return Embedder(model=model.eval().to(best_device()), encoder=encoder, window=window)

    def embed(self, texts: Sequence[str], on_batch: Callable[[int], None] = lambda _: None) -> NDArray[np.float32]:
        """Return the vectors of texts, float32, shape (texts, width of the encoder), each of length 1.

        Args:
            texts: any number, of any length.
            on_batch: called now and then with the number of texts begun since.

        Raises:
            SeqtrackError: a vector is not finite, or zero.
        """
        result = np.zeros((len(texts), self.model.config.hidden_size))
        for start in range(0, len(texts), _CHUNK):
            chunk = texts[start : start + _CHUNK]
            self._add_up(chunk, result[start : start + len(chunk)], on_batch)
        lengths = np.linalg.norm(result, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise SeqtrackError("the encoder's outputs are not finite")
        # The mean over tokens and their sum point the same way, so the count cancels out.
        vectors: NDArray[np.float32] = (result / lengths).astype(np.float32)
        return vectors

    def _add_up(self, texts: Sequence[str], sums: NDArray[np.float64], on_batch: Callable[[int], None]) -> None:
        """Add to each text's row of `sums` the last hidden states of all its tokens."""
        import torch

        windows = self.encoder.tokenizer(
            list(texts), truncation=True, max_length=self.window, return_overflowing_tokens=True
        )
        ids, owner = windows["input_ids"], np.array(windows["overflow_to_sample_mapping"], np.int64)
        types = windows["token_type_ids"] if self.encoder.has_token_types else None
        widths = np.array([self._width(len(window)) for window in ids])
        begun = np.diff(owner, prepend=-1) > 0
        tokens = _BATCH_TOKENS if self.model.device.type == "cpu" else _BATCH_TOKENS_ACCELERATOR
        for width in np.unique(widths)[::-1].tolist():
            chosen = np.flatnonzero(widths == width)
            rows = tokens // width
            for start in range(0, len(chosen), rows):
                batch = chosen[start : start + rows]
                # Filled up with its last window: kernels round differently in another shape.
                full = np.append(batch, np.repeat(batch[-1], rows - len(batch))).tolist()
                inputs = self.encoder.padding.batch(
                    [ids[window] for window in full],
                    None if types is None else [types[window] for window in full],
                    multiple_of=width,
                )
                with torch.inference_mode():
                    inputs = {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
                    hidden = self.model(**inputs).last_hidden_state * inputs["attention_mask"].unsqueeze(-1)
                    vectors = hidden.sum(dim=1)[: len(batch)].cpu().numpy()
                np.add.at(sums, owner[batch], vectors)
                on_batch(int(begun[batch].sum()))

    def _width(self, tokens: int) -> int:
        """Return the width of the batches that a window of this length belongs to."""
        step = max(8, (1 << (tokens - 1).bit_length()) // 8)
        return min(self.window, max(_SHORTEST, -(-tokens // step) * step))


def best_device() -> torch.device:
    """Return the accelerator where there is one, else the CPU."""
    import torch

    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' report on weights that no encoder needs (a head, a pooler), and its bars."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
