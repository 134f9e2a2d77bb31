"""What the evaluate stage writes and shows of an evaluation.

Promises: equal evaluations give equal bytes; metrics.json is written last, so one that is there means that all the
other files are; files in the folder `evaluation` depend on the task, the others are there for every task.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.calibration import ReliabilityBin, reliability
from pipeline.console import say, table
from pipeline.decisions import decide
from pipeline.evaluation import AS_GIVEN, Evaluation, Scores, SplitEvaluation, choices_of
from pipeline.figures import confusion_figure, drawable, f1_figure
from pipeline.labels import LabelSet
from pipeline.length_errors import LengthBin, errors_by_length
from pipeline.metrics import HEADLINES, ClassScore, class_scores, confusion, label_scores
from pipeline.outputs import Json, output_folder, write_json, write_manifest, write_text
from pipeline.params import Evaluate
from pipeline.probabilities import binary_row_losses, probabilities, row_losses, sigmoid
from pipeline.ranking import Curve, areas, precision_recall_curve, roc_curve, thinned
from pipeline.resampling import Values, once
from pipeline.row_predictions import FILE, SplitPredictions, write_predictions
from pipeline.rows import SCHEMA, select_rows
from pipeline.score_figures import (
    Interval,
    curves_figure,
    length_figure,
    regression_figure,
    reliability_figure,
    slices_figure,
)

FOLDER = "evaluation"  # in the folder of reports
MOST_CURVES = 20  # classes in the files of curves, those with the most rows
SHOWN_ERRORS = 5
SHOWN_CHARACTERS = 60  # of a text in the terminal
POOLED = "(all classes pooled)"


def write_reports(evaluation: Evaluation, *, rows: Path, reports: Path, evaluate: Evaluate) -> tuple[Path, ...]:
    """Write what was found.

    Files: metrics.json (numbers and intervals), all_results.json (everything), calibration.json (the temperature),
    errors.jsonl (wrong rows, worst first), and evaluation/ with the outputs on every scored row, and tables and figures
    of the last scored split, which is test where it can be scored.

    Args:
        evaluation: what to report.
        rows: canonical rows, for the texts of wrong ones.
        reports: folder to write into; other files in it stay.
        evaluate: the section.

    Returns:
        The figures.
    """
    everything = _all_results(evaluation, evaluate)
    write_json(reports / "all_results.json", everything)
    write_json(reports / "calibration.json", _calibration(evaluation))
    # Test as given has the rows of test once more.
    own = [split for split in evaluation.splits if split.split != AS_GIVEN]
    errors = [error for split in own for error in _errors(evaluation, split, rows, evaluate.max_errors)]
    lines = [json.dumps(error, ensure_ascii=False, allow_nan=False) + "\n" for error in errors]
    write_text(reports / "errors.jsonl", "".join(lines))
    with output_folder(reports / FOLDER) as out:
        by_length = _by_length(evaluation, evaluation.splits[-1], evaluate)
        _write_tables(evaluation, by_length, out)
        _draw(evaluation, by_length, out)
        outputs = [_outputs(split, rows) for split in evaluation.splits]
        write_predictions(out / FILE, evaluation.labels, evaluation.thresholds, outputs)
        write_manifest(
            out,
            inputs={"model": evaluation.model_digest},
            params=evaluate.model_dump(mode="json"),
            rows={split.split: len(split.logits) for split in evaluation.splits},
            run_key=evaluation.run_key,
        )
    write_json(reports / "metrics.json", evaluation.metrics())
    _show(evaluation, rows, reports, evaluate)
    return tuple(sorted((reports / FOLDER).glob("*.png")))


def _outputs(split: SplitEvaluation, rows: Path) -> SplitPredictions:
    labels = select_rows(rows, split.row_ids, ["row_id", "label"])["label"].combine_chunks()
    return SplitPredictions(split=split.split, row_ids=split.row_ids, labels=labels, logits=split.logits)


def _classes(evaluation: Evaluation, split: SplitEvaluation) -> tuple[ClassScore, ...]:
    labels = evaluation.labels
    if labels.problem_type == "regression":
        return ()
    if labels.problem_type == "multi_label_classification":
        chosen = decide(labels, split.logits, evaluation.thresholds).ids > 0
        return label_scores(chosen, split.targets > 0, labels.names)
    return class_scores(split.logits, _ids(split), labels.names)


def _ids(split: SplitEvaluation) -> npt.NDArray[np.int64]:
    return split.targets.astype(np.int64, copy=False)


def _reliability(evaluation: Evaluation, split: SplitEvaluation) -> dict[str, tuple[ReliabilityBin, ...]]:
    """Return the bins by what the probabilities are; nothing in regression."""
    if evaluation.labels.problem_type == "regression":
        return {}
    choices = choices_of(evaluation.labels, split.logits, split.targets)
    found = {"as trained": reliability(choices)}
    if evaluation.temperature is not None:
        found[f"temperature {evaluation.temperature:g}"] = reliability(choices.at(evaluation.temperature))
    return found


def _all_results(evaluation: Evaluation, evaluate: Evaluate) -> Json:
    labels = evaluation.labels
    return {
        "model": evaluation.model_digest,
        "model_parameters": evaluation.parameters,
        "run_key": evaluation.run_key,
        "problem_type": labels.problem_type,
        "labels": list(labels.names),
        "thresholds": None if evaluation.thresholds is None else evaluation.thresholds.tolist(),
        "temperature": evaluation.temperature,
        "bootstrap": {
            "method": "percentile",
            "samples": evaluate.bootstrap_samples,
            "confidence": evaluate.confidence,
            "seed": evaluate.seed,
        },
        "splits": {split.split: _split_results(evaluation, split) for split in evaluation.splits},
    }


def _split_results(evaluation: Evaluation, split: SplitEvaluation) -> Json:
    found = {
        "rows": len(split.logits),
        "unlabelled_rows": split.unlabelled,
        **_scores(split.scores),
        "slices": [
            {"by": part.kind, "name": part.name, "rows": part.rows, "few_rows": part.few, **_scores(part.scores)}
            for part in split.slices
        ],
    }
    if evaluation.labels.problem_type != "regression":
        found["classes"] = [dataclasses.asdict(score) for score in _classes(evaluation, split)]
        found["reliability"] = {
            name: [dataclasses.asdict(each) for each in bins] for name, bins in _reliability(evaluation, split).items()
        }
    if evaluation.labels.problem_type == "single_label_classification":
        found["confusion_matrix"] = confusion(split.logits, _ids(split), evaluation.labels.names).tolist()
    return found


def _scores(scores: Scores) -> dict[str, Json]:
    return {
        "metrics": scores.metrics,
        "intervals": {name: list(interval) for name, interval in scores.intervals.items()},
    }


def _calibration(evaluation: Evaluation) -> Json:
    """Say which temperature belongs to which model, and what it does."""
    names = ("loss", "ece", "mce", "brier")
    fitted = evaluation.temperature is not None
    return {
        "model": evaluation.model_digest,
        "temperature": evaluation.temperature,
        "fitted_on": evaluation.splits[0].split if fitted else None,
        "splits": {
            split.split: {
                name: split.scores.metrics[name]
                for base in names
                for name in (base, f"{base}_scaled")
                if name in split.scores.metrics
            }
            for split in evaluation.splits
        }
        if fitted
        else {},
    }


def _by_length(evaluation: Evaluation, split: SplitEvaluation, evaluate: Evaluate) -> tuple[LengthBin, ...]:
    decided = decide(evaluation.labels, split.logits, evaluation.thresholds)
    numbers = evaluation.labels.problem_type == "regression"
    if numbers:
        errors = np.abs(decided.ids - split.targets).astype(np.float64)
    elif evaluation.labels.problem_type == "multi_label_classification":
        errors = ((decided.ids > 0) != (split.targets > 0)).any(axis=1).astype(np.float64)
    else:
        errors = (decided.ids != _ids(split)).astype(np.float64)
    return errors_by_length(split.lengths, errors, shares=not numbers, confidence=evaluate.confidence)


def _write_tables(evaluation: Evaluation, by_length: Sequence[LengthBin], out: Path) -> None:
    """Write all tables; those that the task does not have are a header alone, since `dvc plots` looks for the files."""
    labels, last = evaluation.labels, evaluation.splits[-1]
    pairs: Iterable[Sequence[object]] = ()
    if labels.problem_type == "single_label_classification":
        found = zip(_ids(last), last.logits.argmax(axis=1), strict=True)
        pairs = [(labels.names[actual], labels.names[predicted]) for actual, predicted in found]
    numbers: Iterable[Sequence[object]] = ()
    if labels.problem_type == "regression":
        numbers = zip(last.targets.tolist(), last.logits[:, 0].tolist(), strict=True)
    bins = [
        (name, each.low, each.high, each.rows, each.confidence, each.accuracy)
        for name, found in _reliability(evaluation, last).items()
        for each in found
    ]
    roc, precision_recall = _curves(labels, last)
    _write_csv(out / "slices.csv", _slice_lines(evaluation))
    _write_csv(out / "classes.csv", _class_lines(evaluation, last))
    _write_csv(out / "confusion.csv", [("actual", "predicted"), *pairs])
    _write_csv(out / "regression.csv", [("actual", "predicted"), *numbers])
    header = ("probabilities", "above", "up_to", "decisions", "confidence", "accuracy")
    _write_csv(out / "reliability.csv", [header, *bins])
    lengths = [(each.shortest, each.longest, each.rows, each.error, each.low, each.high) for each in by_length]
    _write_csv(out / "lengths.csv", [("tokens_from", "tokens_up_to", "rows", "error", "low", "high"), *lengths])
    rates = ("class", "false_positive_rate", "true_positive_rate", "threshold")
    _write_csv(out / "roc.csv", [rates, *_points(roc)])
    _write_csv(
        out / "precision_recall.csv", [("class", "recall", "precision", "threshold"), *_points(precision_recall)]
    )


def _points(curves: Mapping[str, Curve]) -> Iterator[Sequence[object]]:
    for name, curve in curves.items():
        # The first point has no threshold: nothing is called positive there.
        thresholds = ["", *curve.thresholds[1:].tolist()]
        for point in zip(curve.x.tolist(), curve.y.tolist(), thresholds, strict=True):
            yield (name, *point)


def _draw(evaluation: Evaluation, by_length: Sequence[LengthBin], out: Path) -> None:
    labels, last = evaluation.labels, evaluation.splits[-1]
    title = f"{last.split}, {len(last.logits):,} rows"
    metric = _shown_metrics(evaluation)[0]
    shown = [
        Interval(
            name=f"{part.kind}: {part.name} ({part.rows:,})"
            if part.kind != "length"
            else f"{part.name} ({part.rows:,})",
            value=part.scores.metrics[metric],
            low=part.scores.intervals[metric][0],
            high=part.scores.intervals[metric][1],
            few=part.few,
        )
        for part in last.slices
    ]
    slices_figure(shown, last.scores.metrics[metric], metric, f"{metric} by slice of {title}", out / "slices.png")
    error = "mean absolute error" if labels.problem_type == "regression" else "share of wrong rows"
    length_figure(by_length, error, f"error by length, {title}", out / "lengths.png")
    if labels.problem_type == "regression":
        predicted, actual = last.logits[:, 0].astype(np.float64), last.targets.astype(np.float64)
        regression_figure(predicted, actual, title, out / "regression.png")
        return
    _tell_numbered(labels)
    classes = _classes(evaluation, last)
    f1, support = [score.f1 for score in classes], [score.support for score in classes]
    f1_figure(f1, support, labels.names, f"F1 by class on {title}", out / "f1_by_class.png")
    curves_figure(*_curves(labels, last), last.split, out / "curves.png")
    reliability_figure(_reliability(evaluation, last), title, out / "reliability.png")
    if labels.problem_type == "single_label_classification":
        counts = confusion(last.logits, _ids(last), labels.names)
        confusion_figure(counts, labels.names, title, out / "confusion.png")


def _tell_numbered(labels: LabelSet) -> None:
    """Say which classes the figures name by number."""
    numbers = {f"class {place}": name for place, name in enumerate(labels.names)}
    numbered = [shown for shown in drawable(labels.names) if shown in numbers and shown != numbers[shown]]
    if numbered:
        legend = ", ".join(f"{shown} is {numbers[shown]}" for shown in numbered[:SHOWN_ERRORS])
        more = f", and so on: {FOLDER}/classes.csv has them in this order" if len(numbered) > SHOWN_ERRORS else ""
        say(f"evaluate: no font here can write some classes, so figures number them: {legend}{more}")
        say("evaluate: a font with these characters mends that, for example the package fonts-noto-cjk")


def _by_class(labels: LabelSet, split: SplitEvaluation) -> tuple[Values, npt.NDArray[np.bool_]]:
    """Return what ranks the rows for each class, and which rows are of it, [rows, classes] each."""
    if labels.problem_type == "multi_label_classification":
        return split.logits.astype(np.float64), split.targets > 0
    return probabilities(split.logits), _ids(split)[:, None] == np.arange(len(labels.names))


def _curves(labels: LabelSet, split: SplitEvaluation) -> tuple[dict[str, Curve], dict[str, Curve]]:
    """Return ROC and precision-recall curves by class: of two classes for id 1, of more also for all pooled."""
    if labels.problem_type == "regression":
        return {}, {}
    scores, wanted = _by_class(labels, split)
    two = labels.problem_type == "single_label_classification" and len(labels.names) == 2
    flags = {} if two else {POOLED: (scores.ravel(), wanted.ravel())}
    chosen = [1] if two else sorted(np.argsort(-wanted.sum(axis=0), kind="stable")[:MOST_CURVES].tolist())
    flags |= {labels.names[place]: (scores[:, place], wanted[:, place]) for place in chosen}
    # Rows all of one kind have no curve.
    drawn = {name: pair for name, pair in flags.items() if 0 < pair[1].sum() < len(pair[1])}
    return (
        {name: thinned(roc_curve(*pair)) for name, pair in drawn.items()},
        {name: thinned(precision_recall_curve(*pair)) for name, pair in drawn.items()},
    )


def _class_lines(evaluation: Evaluation, split: SplitEvaluation) -> list[Sequence[object]]:
    names = ("precision", "recall", "f1", "support", "predicted")
    lines: list[Sequence[object]] = [("class", *names, "roc_auc", "average_precision", "threshold")]
    if evaluation.labels.problem_type == "regression":
        return lines
    scores, wanted = _by_class(evaluation.labels, split)
    thresholds = [""] * wanted.shape[1] if evaluation.thresholds is None else evaluation.thresholds.tolist()
    for place, score in enumerate(_classes(evaluation, split)):
        found = (float(area[0]) for area in areas(scores[:, place], wanted[:, place], once(len(scores))))
        known = [value if np.isfinite(value) else "" for value in found]
        lines.append((score.name, *(getattr(score, name) for name in names), *known, thresholds[place]))
    return lines


def _slice_lines(evaluation: Evaluation) -> list[Sequence[object]]:
    metrics = _shown_metrics(evaluation)
    columns = [f"{metric}{end}" for metric in metrics for end in ("", "_low", "_high")]
    lines: list[Sequence[object]] = [("split", "by", "slice", "rows", "few_rows", *columns)]
    for split in evaluation.splits:
        for part in split.slices:
            flat = part.scores.flat()
            facts = (split.split, part.kind, part.name, part.rows, str(part.few).lower())
            lines.append((*facts, *(flat[column] for column in columns)))
    return lines


def _write_csv(path: Path, lines: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    write_text(path, text.getvalue())


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Wrong:
    """A wrong row of a split: its position, what was said and what is right, and how bad that is."""

    position: int
    label: Json
    predicted: Json
    badness: float
    confidence: float | None


def _wrong(evaluation: Evaluation, split: SplitEvaluation) -> list[_Wrong]:
    """Return the wrong rows of a split, worst first; in regression all that are not exactly right."""
    labels, logits = evaluation.labels, split.logits
    decided = decide(labels, logits, evaluation.thresholds)
    actual: list[Json]
    if labels.problem_type == "regression":
        badness = np.abs(decided.ids - split.targets)
        mistaken, actual, sure = badness > 0, split.targets.tolist(), None
    elif labels.problem_type == "multi_label_classification":
        wanted = split.targets > 0
        badness = binary_row_losses(logits, wanted.astype(np.float64))
        mistaken = ((decided.ids > 0) != wanted).any(axis=1)
        actual = [[labels.names[place] for place in np.flatnonzero(row)] for row in wanted]
        chances = sigmoid(logits)
        # As sure as the surest of the wrong choices.
        apart = np.where((decided.ids > 0) != wanted, np.maximum(chances, 1 - chances), 0)
        sure = apart.max(axis=1)
    else:
        badness = row_losses(logits, _ids(split))
        mistaken = decided.ids != _ids(split)
        actual = [labels.names[place] for place in _ids(split)]
        sure = probabilities(logits).max(axis=1)
    found = np.flatnonzero(mistaken)
    return [
        _Wrong(
            position=int(place),
            label=actual[place],
            predicted=decided.labels[place],
            badness=float(badness[place]),
            confidence=None if sure is None else float(sure[place]),
        )
        for place in found[np.argsort(-badness[found], kind="stable")]
    ]


def _errors(evaluation: Evaluation, split: SplitEvaluation, rows: Path, most: int) -> list[dict[str, Json]]:
    """Return the wrong rows of a split, highest loss first."""
    labels = evaluation.labels
    worst = _wrong(evaluation, split)[:most]
    positions = np.array([wrong.position for wrong in worst], np.int64)
    texts = select_rows(rows, split.row_ids.take(pa.array(positions)), SCHEMA.names).to_pylist()
    chances = decide(labels, split.logits[positions], evaluation.thresholds).probabilities
    errors = []
    for place, (wrong, row) in enumerate(zip(worst, texts, strict=True)):
        error = {
            "row_id": row["row_id"],
            "split": split.split,
            "text": row["text"],
            "text_pair": row["text_pair"],
            "label": wrong.label,
            "predicted": wrong.predicted,
            "source": row["source"],
            "line": row["line"],
        }
        if chances is None:
            error["absolute_error"] = round(wrong.badness, 6)
        else:
            error["loss"] = round(wrong.badness, 6)
            error["probabilities"] = dict(zip(labels.names, chances[place].round(6).tolist(), strict=True))
        errors.append(error)
    return errors


def _shown_metrics(evaluation: Evaluation) -> tuple[str, ...]:
    return HEADLINES[evaluation.labels.problem_type]


def _show(evaluation: Evaluation, rows: Path, reports: Path, evaluate: Evaluate) -> None:
    names = [*_shown_metrics(evaluation), *(metric.name for metric in evaluation.own)]
    names += [name for name in ("ece", "ece_scaled") if name in evaluation.splits[0].scores.metrics]
    table(
        f"scores with {evaluate.confidence:.0%} intervals",
        ["metric", *(split.split for split in evaluation.splits)],
        [[name, *(_with_interval(split.scores, name) for split in evaluation.splits)] for name in names],
    )
    _show_sources(evaluation)
    last = evaluation.splits[-1]
    _show_errors(evaluation, last, rows)
    file = reports / "errors.jsonl"
    if evaluation.labels.problem_type == "regression":
        say(f"largest errors first in {file}, everything else in all_results.json and {FOLDER}/ beside it")
        return
    wrong = ", ".join(
        f"{len(_wrong(evaluation, split)):,} of {len(split.logits):,} in {split.split}" for split in evaluation.splits
    )
    say(f"wrong rows: {wrong}; worst first in {file}, scores by class in all_results.json beside it")


def _show_sources(evaluation: Evaluation) -> None:
    names = _shown_metrics(evaluation)[:2]
    lines = [
        [source, *(_with_interval(scores, name) for name in names)]
        for split in evaluation.splits
        for source, scores in split.sources().items()
    ]
    if lines:
        table("by evaluation file", ["file", *names], lines)


def _show_errors(evaluation: Evaluation, split: SplitEvaluation, rows: Path) -> None:
    """Show the wrong rows of which the model was surest."""
    wrong = _wrong(evaluation, split)
    surest = sorted(wrong, key=lambda each: -(each.badness if each.confidence is None else each.confidence))
    surest = surest[:SHOWN_ERRORS]
    if not surest:
        return
    ids = split.row_ids.take(pa.array([each.position for each in surest]))
    texts = select_rows(rows, ids, ["row_id", "text", "text_pair"]).to_pylist()
    regression = evaluation.labels.problem_type == "regression"
    table(
        f"{'largest' if regression else 'most confident'} errors in {split.split}",
        ["text", "actual", "predicted", "error" if regression else "confidence"],
        [
            [
                _short(row["text"] if row["text_pair"] is None else f"{row['text']} | {row['text_pair']}"),
                _told(each.label),
                _told(each.predicted),
                f"{each.badness if each.confidence is None else each.confidence:.3f}",
            ]
            for each, row in zip(surest, texts, strict=True)
        ],
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"


def _told(label: Json) -> str:
    if isinstance(label, list):
        return ", ".join(label) or "none"
    return f"{label:.4g}" if isinstance(label, float) else str(label)


def _with_interval(scores: Scores, name: str) -> str:
    value, interval = scores.metrics[name], scores.intervals.get(name)
    return f"{value:.4f}" if interval is None else f"{value:.4f} ({interval[0]:.4f} to {interval[1]:.4f})"
