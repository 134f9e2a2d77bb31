"""Which texts mean the same to an encoder: all pairs whose vectors' cosine reaches a threshold.

Promises: every pair is compared, none is guessed at by an index, and each found is computed again in float64; the
result depends on the texts and the encoder alone, not on the order of rows. Vectors outlive the process, so that
another threshold embeds nothing. The time is quadratic in the number of texts.

Texts are embedded in normal form, so that all rows of one content have one vector.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline import embedding, normalize, params
from pipeline.console import say
from pipeline.embedding import Embedder, best_device
from pipeline.errors import SeqtrackError
from pipeline.model_source import ModelSource, resolve
from pipeline.normalize import normalise
from pipeline.outputs import replacing
from pipeline.progress import progress
from pipeline.signatures import sides_of

KEPT = 4  # sets of vectors that a cache holds
DECIMALS = 4  # of a cosine: what comes after differs between machines, and so decides nothing
MOST_PARTNERS = 32  # pairs found for each content, on average, from which the threshold is taken for a mistake
_MARGIN = 1e-3  # what rounding may take from a cosine in float32 (or from its factors, on a GPU)
_BLOCK = 8_000_000  # cosines computed at once: what a processor's memory takes lightly, and fills a GPU well enough
_CHUNK_PAIRS = 10_000  # pairs computed again at once


@dataclass(frozen=True, kw_only=True, eq=False)
class SemanticPairs:
    """What `find_semantic` found.

    Attributes:
        pairs: int64, shape (pairs, 2): contents, first < second, sorted.
        cosine: float64, shape (pairs,): of their vectors, rounded to `DECIMALS`.
        compared: number of pairs compared: all there are of single texts, and of text pairs.
        encoder: digest of the encoder's files.
    """

    pairs: NDArray[np.int64]
    cosine: NDArray[np.float64]
    compared: int
    encoder: str


Texts = tuple[str, str | None]  # text and text_pair of a row


def find_encoder(settings: params.Split) -> ModelSource:
    """Find the encoder that split.semantic_model names, downloading it when it is a hub id.

    Raises:
        SeqtrackError: the name leads nowhere, or the hub cannot be reached.
    """
    with _blaming(settings):
        model = params.Model(name_or_path=settings.semantic_model, revision=None, trust_remote_code=False)
        return resolve(model, weights=True)


def find_semantic(
    contents: pa.Table,
    crowd: NDArray[np.int64],
    threshold: float,
    source: ModelSource,
    settings: params.Split,
    cache: Path | None,
) -> SemanticPairs:
    """Find all pairs of contents whose cosine reaches the threshold.

    For pairs of texts the cosine is the lower one of the two sides, in the order, straight or crossed, in which that is
    higher. A single text and a pair are never alike.

    Args:
        contents: a row of each content; `text` and `text_pair` are read.
        crowd: shape (contents,): contents of one crowd are known to belong together, and the pairs among them are left
            out; -1 for contents in none.
        threshold: split.semantic_threshold.
        source: where `find_encoder` found the encoder.
        settings: semantic_model counts here.
        cache: folder that keeps vectors for a later search, if any.

    Raises:
        SeqtrackError: the encoder cannot be used, or the threshold lets through more than `MOST_PARTNERS` pairs for
            each content.
    """
    first, second = sides_of(contents)
    alone = contents["text_pair"].is_null().to_numpy()
    others = [None] * len(first) if second is None else pc.if_else(pa.array(alone), None, second).to_pylist()
    texts, left, right = _number(first.to_pylist(), others)
    groups = [np.flatnonzero(chosen) for chosen in (alone, ~alone)]
    compared = sum(len(members) * (len(members) - 1) // 2 for members in groups)
    say(
        f"semantic duplicates: {contents.num_rows:,} contents of {len(texts):,} texts, {settings.semantic_model} on "
        f"{best_device().type}; all {compared:,} pairs are compared"
    )
    digest = source.digest()
    vectors = _vectors(texts, source, digest, settings, cache)
    found, cosines = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    candidates = 0
    with progress("compare", contents.num_rows, "contents") as bar:
        for members, sides in zip(groups, ([left], [left, right]), strict=True):
            for done, couples in _alike(vectors, [side[members] for side in sides], threshold - _MARGIN):
                bar.advance(done)
                pairs = members[couples]
                pairs = pairs[(crowd[pairs[:, 0]] < 0) | (crowd[pairs[:, 0]] != crowd[pairs[:, 1]])]
                candidates += len(pairs)
                if candidates > MOST_PARTNERS * contents.num_rows:
                    _refuse(candidates, contents.num_rows, threshold)
                cosine = _cosines(vectors, left, right, pairs)
                found.append(pairs[cosine >= threshold])
                cosines.append(cosine[cosine >= threshold])
    pairs, cosine = np.concatenate(found), np.concatenate(cosines)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return SemanticPairs(pairs=pairs[order], cosine=cosine[order], compared=compared, encoder=digest)


def cosines_of(pairs: Sequence[tuple[Texts, Texts]], settings: params.Split) -> NDArray[np.float64]:
    """Return how alike two rows are in meaning, for many pairs, shape (pairs,): computed from their texts alone.

    Args:
        pairs: text and text_pair of either row; None where there is no second text.
        settings: semantic_model counts here.

    Raises:
        SeqtrackError: the encoder cannot be used.
    """
    if not pairs:
        return np.zeros(0)
    rows = [row for pair in pairs for row in pair]
    second = [None if text is None else normalise(text) for _, text in rows]
    texts, left, right = _number([normalise(text) for text, _ in rows], second)
    vectors = _embed(texts, find_encoder(settings), settings)
    return _cosines(vectors, left, right, np.arange(len(rows)).reshape(-1, 2))


def count_unlike(pairs: Sequence[tuple[Texts, Texts]], threshold: float, settings: params.Split) -> int:
    """Return how many of some pairs, scored again from their texts, miss the threshold; arguments as above.

    A little below it passes: the vectors that the pairs were found by may come from another machine.
    """
    return int((cosines_of(pairs, settings) < threshold - _MARGIN).sum())


def _number(
    first: Sequence[str], second: Sequence[str | None]
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct texts in order, and for both sides the number of each row's, -1 where there is no second."""
    texts = sorted({*first, *second} - {None}, key=str)
    place: dict[str | None, int] = {text: number for number, text in enumerate(texts)} | {None: -1}
    left, right = (np.array([place[text] for text in side], np.int64) for side in (first, second))
    return [str(text) for text in texts], left, right


def _alike(
    vectors: NDArray[np.float32], sides: list[NDArray[np.int64]], threshold: float
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield, block by block, how many members were compared with all after them, and the pairs over the threshold.

    Args:
        vectors: shape (texts, width).
        sides: the numbers of the members' texts, shape (members,), of one side or of two.
        threshold: of float32 cosines.
    """
    import torch

    def product(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return one[start:end] @ other[start:].T

    factors = [torch.from_numpy(vectors[side]).to(best_device()) for side in sides]
    start, count = 0, len(sides[0])
    while start < count:
        end = min(start + max(1, _BLOCK // (count - start)), count)
        scores = product(factors[0], factors[0])
        if len(factors) > 1:
            one, two = factors
            straight = torch.minimum(scores, product(two, two))
            scores = torch.maximum(straight, torch.minimum(product(one, two), product(two, one)))
        yield end - start, torch.nonzero(torch.triu(scores >= threshold, diagonal=1)).cpu().numpy() + start
        start = end


def _cosines(
    vectors: NDArray[np.float32], left: NDArray[np.int64], right: NDArray[np.int64], pairs: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the rounded cosine of each pair, shape (pairs,), each of two single texts or of two pairs of texts."""

    def dots(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.float64]:
        products: NDArray[np.float64] = np.einsum("ij,ij->i", vectors[one], vectors[other], dtype=np.float64)
        return products

    result = np.zeros(len(pairs))
    for start in range(0, len(pairs), _CHUNK_PAIRS):
        one, other = pairs[start : start + _CHUNK_PAIRS].T
        scores = dots(left[one], left[other])
        both = right[one] >= 0
        one, other = one[both], other[both]
        straight = np.minimum(scores[both], dots(right[one], right[other]))
        scores[both] = np.maximum(straight, np.minimum(dots(left[one], right[other]), dots(right[one], left[other])))
        result[start : start + len(scores)] = scores
    return result.round(DECIMALS)


def _vectors(
    texts: list[str], source: ModelSource, digest: str, settings: params.Split, cache: Path | None
) -> NDArray[np.float32]:
    """Return the vectors of texts, shape (texts, width), from the cache where it has them."""
    if cache is None:
        return _embed(texts, source, settings)
    key = hashlib.blake2b(f"{digest} {embedding.VERSION} {normalize.VERSION}".encode(), digest_size=16)
    for text in texts:
        key.update(hashlib.blake2b(text.encode(), digest_size=16).digest())
    file = cache / f"{key.hexdigest()}.npy"
    try:
        found: NDArray[np.float32] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # absent, or damaged
        found = _embed(texts, source, settings)
        with replacing(file) as temporary, temporary.open("wb") as out:
            np.save(out, found, allow_pickle=False)
    file.touch()
    newest = sorted(cache.glob("*.npy"), key=os.path.getmtime, reverse=True)
    for old in newest[KEPT:]:
        old.unlink(missing_ok=True)
    return found


def _embed(texts: list[str], source: ModelSource, settings: params.Split) -> NDArray[np.float32]:
    with _blaming(settings), progress("embed", len(texts), "texts") as bar:
        return Embedder.load(source).embed(texts, bar.advance)


@contextmanager
def _blaming(settings: params.Split) -> Iterator[None]:
    """Name split.semantic_model as the place of what goes wrong with the encoder."""
    key = "split.semantic_model"
    try:
        yield
    except SeqtrackError as error:
        raise SeqtrackError(
            error.problem,
            where=f"params.yaml: {key}: {settings.semantic_model}",
            expected=error.expected,
            found=error.found,
            fix=error.fix and error.fix.replace("model.name_or_path", key),
        ) from error


def _refuse(pairs: int, contents: int, threshold: float) -> None:
    raise SeqtrackError(
        "so many texts are alike that they cannot be duplicates",
        where="params.yaml: split.semantic_threshold",
        expected=f"a threshold that leaves each text {MOST_PARTNERS} others like it, on average, at most",
        found=f"{threshold:g}, and {pairs:,} pairs among {contents:,} contents before all were compared",
        fix="raise it: the vectors are kept, so the next search is fast",
    )
