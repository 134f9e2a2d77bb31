"""Applying a model to a few texts from the command line.

Promises: an answer per text, in order, as soon as its window of texts is complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Final

from pipeline.columns import Columns
from pipeline.decisions import Decisions
from pipeline.errors import SeqtrackError
from pipeline.inference import Classifier
from pipeline.model_uri import TrainedModel
from pipeline.prediction import logits_of
from pipeline.prediction_input import Example
from pipeline.prediction_output import DECIMALS, RESULTS, records

WINDOW: Final = 64  # texts from a file that are read before they are answered
_SHOWN: Final = 3  # classes in a readable line


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model says of a text.

    Attributes:
        json: an object as one line: the text or texts, label (labels, score) and probabilities.
        readable: the same for people, the likeliest classes alone.
    """

    json: str
    readable: str


def answers(
    model: TrainedModel,
    lines: Iterable[str],
    *,
    pair: str | None = None,
    window: int = WINDOW,
    temperature: float = 1.0,
) -> Iterator[Answer]:
    """Classify texts.

    Args:
        model: what to classify with.
        lines: a text each, or a pair with a tab between its two texts.
        pair: the second text of every pair, in place of that after the tab.
        window: how many are read before they are answered.
        temperature: of the probabilities, see `pipeline.decisions.decide`.

    Raises:
        SeqtrackError: a line has no text, or a single text where the model reads pairs.
    """
    numbers = count(1)
    examples = (_example(line.rstrip("\r\n"), pair, model.columns, next(numbers)) for line in lines)
    while rows := list(islice(examples, window)):
        logits = logits_of(model.classifier, rows, WINDOW, lambda _: None)
        yield from _worded(rows, model.classifier.decide(logits, temperature), model.classifier)


def _example(line: str, pair: str | None, columns: Columns | None, number: int) -> Example:
    text, second = line, pair
    # A model of single texts takes a tab as white space; where it is not known what it reads, a tab parts a pair.
    if second is None and "\t" in line and (columns is None or columns.text_pair is not None):
        text, _, second = line.partition("\t")
    if second is not None and columns is not None and columns.text_pair is None:
        raise SeqtrackError("the model reads single texts, not pairs", where=f"text {number}")
    if second is None and columns is not None and columns.text_pair is not None:
        raise SeqtrackError(
            "the model reads pairs of texts",
            where=f"text {number}",
            found="one text",
            fix="put a tab between the two texts, or give the second one by --pair",
        )
    if not text.strip() and not (second or "").strip():
        raise SeqtrackError("no text", where=f"text {number}", found="a blank line")
    return Example(number, text, second)


def _worded(rows: list[Example], decisions: Decisions, classifier: Classifier) -> Iterator[Answer]:
    result = RESULTS[classifier.labels.problem_type]
    ids = [row.id for row in rows]
    for row, record in zip(rows, records(ids, decisions, classifier.labels, classifier.digest), strict=True):
        texts = {"text": row.text} if row.text_pair is None else {"text": row.text, "text_pair": row.text_pair}
        said = {name: value for name, value in record.items() if name not in {"id", "model"}}
        chances = sorted(said.get("probabilities", {}).items(), key=lambda item: -item[1])[:_SHOWN]
        value = record[result]
        named = ", ".join(value) if isinstance(value, list) else f"{value:.{DECIMALS}g}" if result == "score" else value
        shown = ", ".join(f"{name} {chance:.3f}" for name, chance in chances)
        yield Answer(
            json=json.dumps(texts | said, ensure_ascii=False),
            readable=f"{named or 'none'}{f' ({shown})' if shown else ''}",
        )
