"""How much each word of a text speaks for what the model says of it: integrated gradients on the embedding layer.

Promises: weights add up to the model's output for the text less that for a text of padding alone, but for an error that
is told beside them; what the model never read is marked; equal inputs give equal weights on one machine.

Method: Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, as captum computes it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import LayerIntegratedGradients

from pipeline.errors import SeqtrackError
from pipeline.inference import Classifier
from pipeline.normalize import stands_alone
from pipeline.on_device import to_device

STEPS = (50, 200, 400)  # points between padding and the text; the next number where the last leaves too large an error
CLOSE = 0.02  # share of the difference to explain that may be missing
LITTLE = 0.005  # an error, in units of the output, that is none
_BATCH_TOKENS = 4096  # of the points computed at once: activations are kept for the backward pass


@dataclass(frozen=True, kw_only=True)
class Word:
    """A stretch of a text.

    Attributes:
        text: as it stands there; joined, a text's words are the text.
        weight: what it adds to the output, in units of the output; None for white space and what the model never read.
    """

    text: str
    weight: float | None


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What the words of a row add to one output of the model.

    Attributes:
        output: the model's output for the row: a logit, or a number in regression.
        baseline: the same where each token but the special ones is padding.
        words: of the text.
        pair_words: of the second text; None where there is none.
        steps: points between baseline and text.
    """

    output: float
    baseline: float
    words: tuple[Word, ...]
    pair_words: tuple[Word, ...] | None
    steps: int

    @property
    def completeness_error(self) -> float:
        """How far the sum of the weights is from what it should be; 0 in theory."""
        words = (*self.words, *(self.pair_words or ()))
        return sum(word.weight or 0.0 for word in words) - (self.output - self.baseline)


def explain(classifier: Classifier, text: str, text_pair: str | None, target: int) -> Explanation:
    """Weigh the words of a row.

    Args:
        classifier: the model; afterwards its weights ask for no gradients.
        text: the row's text.
        text_pair: its second text, or None.
        target: the output to explain: a class id, 0 in regression.

    Raises:
        SeqtrackError: the model does not tell which layer embeds its tokens.
    """
    classifier.model.requires_grad_(False)
    layer = _embedding_layer(classifier)
    tokenized = _Tokenized.of(classifier, text, text_pair)
    ids = tokenized.inputs.pop("input_ids")
    others = tuple(tokenized.inputs.values())
    padding = torch.where(tokenized.special, ids, classifier.encoder.padding.pad_token_id)

    def output(input_ids: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        given = dict(zip(tokenized.inputs, rest, strict=True))
        logits: torch.Tensor = classifier.model(input_ids=input_ids, **given).logits
        return logits

    with torch.no_grad():
        told = float(output(ids, *others)[0, target])
        # Positions count from the row's own tokens, as they do on the way from here to the row.
        with _embedded_as(layer, layer(padding)):
            nothing = float(output(ids, *others)[0, target])
    method = LayerIntegratedGradients(output, layer)
    for steps in STEPS:
        found = method.attribute(
            ids,
            padding,
            target=target,
            additional_forward_args=others,
            n_steps=steps,
            internal_batch_size=max(1, _BATCH_TOKENS // ids.shape[1]),
        )
        weights = found.detach().cpu().double().sum(dim=-1)[0].tolist()
        if abs(sum(weights) - (told - nothing)) <= max(LITTLE, CLOSE * abs(told - nothing)):
            break
    words, pair_words = tokenized.words(weights)
    return Explanation(output=told, baseline=nothing, words=words, pair_words=pair_words, steps=steps)


@dataclass(frozen=True, kw_only=True)
class _Tokenized:
    """A row as the model reads it: tensors [1, tokens], and where each token stands in which text."""

    texts: tuple[str, ...]
    inputs: dict[str, torch.Tensor]
    special: torch.Tensor
    tokens: Sequence[str]
    places: Sequence[tuple[int, int, int] | None] | None  # (text, start, end); None for tokenizers that do not tell

    @staticmethod
    def of(classifier: Classifier, text: str, text_pair: str | None) -> _Tokenized:
        encoder = classifier.encoder
        texts = (text,) if text_pair is None else (text, text_pair)
        tokenizer: Any = encoder.tokenizer
        row = tokenizer(
            *texts, truncation=True, max_length=encoder.max_length, return_offsets_mapping=tokenizer.is_fast
        )
        ids: list[int] = row["input_ids"]
        types = [row["token_type_ids"]] if encoder.has_token_types else None
        inputs = encoder.padding.batch([ids], types, multiple_of=1)
        special = tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True)
        places = None
        if tokenizer.is_fast:
            places = [
                None if owner is None else (owner, start, end)
                for owner, (start, end) in zip(row.sequence_ids(0), row["offset_mapping"], strict=True)
            ]
            special = [place is None for place in places]
        device = classifier.device
        return _Tokenized(
            texts=texts,
            inputs=to_device(inputs, device),
            special=torch.tensor([special], dtype=torch.bool, device=device),
            tokens=tokenizer.convert_ids_to_tokens(ids),
            places=places,
        )

    def words(self, weights: Sequence[float]) -> tuple[tuple[Word, ...], tuple[Word, ...] | None]:
        """Return the words of the text, and of the second one, from weights by token."""
        if self.places is None:
            special = self.special[0].tolist()
            known = [pair for pair, out in zip(zip(self.tokens, weights, strict=True), special, strict=True) if not out]
            parts = [part for token, weight in known for part in (Word(text=token, weight=weight), _gap(" "))]
            return tuple(parts), None
        sides: list[list[tuple[int, int, float]]] = [[] for _ in self.texts]
        for place, weight in zip(self.places, weights, strict=True):
            if place is not None:
                sides[place[0]].append((*place[1:], weight))
        found = [merged(text, side) for text, side in zip(self.texts, sides, strict=True)]
        return found[0], found[1] if len(found) > 1 else None


def merged(text: str, pieces: Sequence[tuple[int, int, float]]) -> tuple[Word, ...]:
    """Return a text as words with the weights of their pieces added up, and what lies between them.

    Pieces of one word become one; in scripts without spaces the pieces stay as they are.

    Args:
        text: what the pieces are of.
        pieces: start, end and weight of each token, in the order of the text; several may share a character.
    """
    spans: list[tuple[int, int, float]] = []
    for start, end, weight in pieces:
        # Some tokenizers count the space before a word as its own.
        start += len(text[start:end]) - len(text[start:end].lstrip())
        if spans and (start < spans[-1][1] or _inside_word(text, spans[-1][1], start)):
            first, last, before = spans[-1]
            spans[-1] = (first, max(last, end), before + weight)
        else:
            spans.append((start, end, weight))
    words, at = [], 0
    for start, end, weight in spans:
        if start > at:
            words.append(_gap(text[at:start]))
        words.append(Word(text=text[start:end], weight=weight))
        at = max(at, end)
    if at < len(text):
        words.append(_gap(text[at:]))
    return tuple(words)


def _gap(text: str) -> Word:
    return Word(text=text, weight=None)


def _inside_word(text: str, end: int, start: int) -> bool:
    """Return whether a piece that ends and one that starts belong to one word."""
    if end != start or not 0 < start < len(text):
        return False
    return all(_in_words(character) and not stands_alone(character) for character in text[start - 1 : start + 1])


def _in_words(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character).startswith("M")


def _embedding_layer(classifier: Classifier) -> torch.nn.Module:
    try:
        layer: torch.nn.Module = classifier.model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        raise SeqtrackError(
            f"{type(classifier.model).__name__} does not tell which layer embeds its tokens",
            where="params.yaml: report.attributions",
            fix="give the class get_input_embeddings(), or set report.attributions to 0",
        ) from None
    return layer


@contextmanager
def _embedded_as(layer: torch.nn.Module, vectors: torch.Tensor) -> Iterator[None]:
    """Let a layer return these vectors, whatever it is given."""
    handle = layer.register_forward_hook(lambda *_: vectors)
    try:
        yield
    finally:
        handle.remove()
