"""The parts of a report that show rows: the worst errors with the words behind them, and labels that may be wrong.

Promises: texts are shown as they are, long ones cut with a word on how much is left out; a weight is never shown
without what it is the weight for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.attributions import Explanation, Word, explain
from pipeline.inference import Classifier
from pipeline.label_errors import FOLDS, LabelErrors, Suspect
from pipeline.labels import LabelSet, parted
from pipeline.outputs import Json
from pipeline.progress import progress
from pipeline.report_blocks import Block, Card, Cell, Fold, Passage, Section, Span, Text
from pipeline.report_data import passages
from pipeline.report_inputs import Inputs
from pipeline.report_words import clipped, count, label, named, score, share, where

MOST_ERRORS = 50  # rows without weights, below those with
MOST_SUSPECTS = 50
ERROR_CHARACTERS = 1_500
LEVELS = 4  # shades of a weight
FAINT = 0.08  # share of the largest weight below which a word is not shaded
TOLD = 6  # words named below a text, in each direction


@dataclass(frozen=True, kw_only=True)
class ExplainedError:
    """A wrong row, the class whose output is explained (None in regression), and the weights."""

    error: Json
    target: str | None
    explanation: Explanation


@dataclass(frozen=True, kw_only=True)
class FoundSuspects:
    """What the search for label errors found, with the encoder's name and the rows, by position."""

    encoder: str
    errors: LabelErrors
    rows: Sequence[Json]


def explain_errors(inputs: Inputs, classifier: Classifier, most: int) -> tuple[ExplainedError, ...]:
    """Weigh the words of the worst wrong rows of the split that the page tells of."""
    chosen = [error for error in inputs.errors if error["split"] == inputs.split][:most]
    found = []
    with progress("report: weigh words", len(chosen), "rows") as bar:
        for error in chosen:
            target = target_of(classifier.labels, error)
            place = 0 if target is None else classifier.labels.names.index(target)
            explanation = explain(classifier, error["text"], error["text_pair"], place)
            found.append(ExplainedError(error=error, target=target, explanation=explanation))
            bar.advance(1)
    return tuple(found)


def target_of(labels: LabelSet, error: Json) -> str | None:
    """Return the class whose output is to be explained: the one that was predicted, or the surest of wrong decisions.

    Args:
        labels: the label set.
        error: a line of errors.jsonl.

    Returns:
        A class name; None in regression.
    """
    if labels.problem_type == "regression":
        return None
    if labels.problem_type == "single_label_classification":
        return str(error["predicted"])
    chances: dict[str, float] = error["probabilities"]
    wrong = set(error["predicted"]) ^ set(error["label"])
    return max((name for name in labels.names if name in wrong), key=lambda name: max(chances[name], 1 - chances[name]))


def errors_section(inputs: Inputs, explained: Sequence[ExplainedError]) -> Section:
    """Show the worst wrong rows, some with the weight of each word."""
    regression = inputs.results["problem_type"] == "regression"
    errors = [error for error in inputs.errors if error["split"] == inputs.split]
    blocks: list[Block] = []
    if not errors:
        none = (
            "No row is wrong." if inputs.evaluate["max_errors"] else "evaluate.max_errors is 0: no wrong row was kept."
        )
        blocks.append(Text(text=none))
    if explained:
        blocks.append(
            Text(
                text="Shaded words speak for the output that is explained (solid underline) or against it (dotted), by "
                "integrated gradients on the embedding layer, from padding to the text. Weights tell what moved the "
                "model, not what ought to."
            )
        )
        blocks += [_explained(each) for each in explained]
    rest = errors[len(explained) :][:MOST_ERRORS]
    if rest:
        summary = f"{len(rest)} more {'large errors' if regression else 'wrong rows'}, worst first"
        blocks.append(Fold(summary=summary, blocks=[_wrong(error) for error in rest]))
    blocks.append(Text(text="errors.jsonl has them all, up to evaluate.max_errors for each split."))
    lead = f"Rows of {inputs.split} with the {'largest error' if regression else 'highest loss'}: why the model errs."
    return Section(anchor="errors", title="Worst errors", lead=lead, blocks=blocks)


def _outcome(error: Json) -> list[Cell]:
    """Say what is right, what was predicted, and how bad that is."""
    predicted = label(error["predicted"])
    actual = label(error["label"])
    told = [
        Cell(text=f"actual: {actual.text}", user=actual.user, tone="good"),
        Cell(text=f"predicted: {predicted.text}", user=predicted.user, tone="bad"),
    ]
    if "loss" in error:
        return [*told, Cell(text=f"loss {error['loss']:.3f}")]
    return [*told, Cell(text=f"off by {error['absolute_error']:.4g}")]


def _wrong(error: Json) -> Card:
    return Card(badges=_outcome(error), passages=passages({**error, "split": None}, None, ERROR_CHARACTERS))


def _explained(each: ExplainedError) -> Card:
    found, error = each.explanation, each.error
    sides = [(where(error), found.words)]
    if found.pair_words is not None:
        sides.append(("second text", found.pair_words))
    every = [word for _, words in sides for word in words]
    largest = max((abs(word.weight) for word in every if word.weight is not None), default=0.0)
    output = "the predicted number" if each.target is None else f"the output for {clipped(each.target, 60)}"
    total = sum(word.weight or 0.0 for word in every)
    lines = [
        Cell(text=f"Explained: {output}, {score(found.baseline)} for padding alone and {score(found.output)} here.")
    ]
    for said, sign in (("For it", 1), ("Against it", -1)):
        ranked = sorted(((word.weight or 0.0, word.text) for word in every), key=lambda pair: -sign * pair[0])
        # What rounds to nothing says nothing.
        least = max(0.001, largest * FAINT)
        shown = [(weight, text) for weight, text in ranked if sign * weight >= least][:TOLD]
        if shown:
            words = ", ".join(f"{clipped(text, 30)} {weight:+.3f}" for weight, text in shown)
            lines.append(Cell(text=f"{said}: {words}"))
    lines.append(
        Cell(
            text=f"The weights add up to {total:.3f}, of {found.output - found.baseline:.3f} to explain (error "
            f"{found.completeness_error:+.3f}, {found.steps} steps)."
        )
    )
    return Card(
        badges=_outcome(error),
        passages=[Passage(name=name, spans=_spans(words, largest)) for name, words in sides],
        lines=lines,
    )


def _spans(words: Sequence[Word], largest: float) -> list[Span]:
    """Shade words by their weight, relative to the largest of the row; cut what is too long to read."""
    spans, left = [], ERROR_CHARACTERS
    last = max((place for place, word in enumerate(words) if word.weight is not None), default=-1)
    for place, word in enumerate(words):
        if word.weight is None:
            # Before the first word and after the last one: more than white space was cut off.
            unread = bool(word.text.strip()) and (place == 0 or place > last)
            spans.append(Span(text=clipped(word.text, 200), tone="unread" if unread else ""))
        else:
            spans.append(Span(text=clipped(word.text, 200), tone=_tone(word.weight, largest)))
        left -= len(word.text)
        if left <= 0 and place < len(words) - 1:
            rest = sum(len(each.text) for each in words[place + 1 :])
            spans.append(Span(text=f"… [{rest:,} more characters]"))
            break
    return spans


def _tone(weight: float, largest: float) -> str:
    strength = abs(weight) / largest if largest else 0.0
    if strength < FAINT:
        return ""
    return f"{'p' if weight > 0 else 'n'}{min(LEVELS, 1 + int(strength * LEVELS))}"


def label_errors_section(inputs: Inputs, found: FoundSuspects | None) -> Section:
    """Show rows whose labels may be wrong, or say how to look for them."""
    blocks: list[Block] = []
    if inputs.results["problem_type"] == "regression":
        blocks.append(Text(text="There is no such search for numbers."))
    elif found is None:
        blocks.append(
            Text(text="Not looked for. report.label_errors: true in params.yaml does; it needs the extra label-errors.")
        )
    else:
        errors = found.errors
        blocks.append(
            Text(
                text="Cross-validated confident learning (cleanlab): logistic regression on sentence vectors of "
                f"{found.encoder}, in {FOLDS} folds, so that each row is judged by a model that never saw it. It "
                f"judged {count(errors.judged)} of {count(len(found.rows))} labelled rows and agrees with "
                f"{share(errors.accuracy)} of the labels. It is weaker than your model and wrong about some of these "
                "rows: read before you change."
            )
        )
        shown = errors.suspects[:MOST_SUSPECTS]
        if shown:
            summary = f"{len(shown)} of {count(len(errors.suspects))} suspects, most suspicious first"
            several = inputs.results["problem_type"] == "multi_label_classification"
            cards = [_suspect(suspect, found.rows[suspect.row], several=several) for suspect in shown]
            blocks.append(Fold(summary=summary, blocks=cards, open=True))
        else:
            blocks.append(Text(text="No label looks wrong.", tone="good"))
    return Section(
        anchor="label-errors",
        title="Suspected label errors",
        lead="Labels that are probably wrong in your files.",
        blocks=blocks,
    )


def _suspect(suspect: Suspect, row: Json, *, several: bool) -> Card:
    known = label(list(parted(row["label"])) if several else row["label"])
    if suspect.suggested is None:
        told = Cell(text=f"probably not: {clipped(suspect.label, 60)}", user=True, tone="bad")
    elif suspect.suggested == suspect.label:
        told = Cell(text=f"probably also: {clipped(suspect.label, 60)}", user=True, tone="bad")
    else:
        told = Cell(text=f"probably: {named(suspect.suggested).text}", user=True, tone="bad")
    badges = [
        Cell(text=f"label: {known.text}", user=known.user),
        told,
        Cell(text=f"chance of {clipped(suspect.label, 40)}: {suspect.chance:.1%}", user=True),
    ]
    return Card(badges=badges, passages=passages(row, None))
