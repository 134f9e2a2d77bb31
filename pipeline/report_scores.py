"""The parts of a report that tell how good the model is: curves, metrics, classes, calibration, slices, lengths.

Promises: numbers are those of evaluate's reports; of many classes only so many are shown, and the page says of how
many; few rows are marked where they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.evaluation import AS_GIVEN
from pipeline.evaluation_report import POOLED
from pipeline.figures import SCORES
from pipeline.metrics import HEADLINES
from pipeline.outputs import Json
from pipeline.report_blocks import Block, Cell, Chart, Charts, Fold, Section, Table, Text, Tile
from pipeline.report_charts import MOST_SERIES, Axis, Bar, Series, bar_chart, interval_mark, line_chart
from pipeline.report_inputs import Inputs
from pipeline.report_style import HEAT
from pipeline.report_words import count, named, plain, score, share, with_interval
from pipeline.slices import FEW_ROWS

MOST_MATRIX = 20  # classes up to which the whole confusion matrix is shown
MOST_CONFUSIONS = 20
MOST_CLASSES = 40
MOST_SLICES = 60
MOST_EVALUATIONS = 100


def tiles(inputs: Inputs) -> list[Tile]:
    """Return the numbers to see first."""
    scored, split = inputs.scored, inputs.split
    found = []
    for name in HEADLINES[inputs.results["problem_type"]][:4]:
        interval = scored["intervals"].get(name)
        note = f"{score(interval[0])} to {score(interval[1])}" if interval else split
        found.append(Tile(name=f"{name}, {split}", value=score(scored["metrics"][name]), note=note))
    kept = inputs.leakage["rows"]["kept"]
    found.append(
        Tile(
            name="rows",
            value=count(sum(kept.values())),
            note=f"{count(kept['train'])} train, {count(kept['validation'])} validation, {count(kept['test'])} test",
        )
    )
    return found


def training_section(inputs: Inputs) -> Section:
    """Tell how training went: losses and scores over its steps."""
    losses, shown = [], []
    trained = _points(inputs.curve, "loss") or _points(inputs.history, "train_loss")
    if trained:
        losses.append(Series(points=trained, marks=len(trained) < 3))
        shown.append(Cell(text="training"))
    if validated := _points(inputs.history, "eval_loss"):
        losses.append(Series(points=validated))
        shown.append(Cell(text="validation"))
    steps = Axis(title="optimiser step")
    charts = [
        Chart(
            caption="Loss",
            picture=line_chart("Loss over optimiser steps", steps, Axis(title="loss"), losses),
            series=shown,
        )
    ]
    scores = {title: _points(inputs.history, f"eval_{name}") for name, title in SCORES.items()}
    scores = {title: points for title, points in scores.items() if points}
    if scores:
        charts.append(
            Chart(
                caption="Scores on validation",
                picture=line_chart(
                    "Scores on validation over optimiser steps",
                    steps,
                    Axis(title="score"),
                    [Series(points=points) for points in scores.values()],
                ),
                series=plain(*scores),
            )
        )
    columns = list(inputs.history[0]) if inputs.history else []
    latest = inputs.history[-MOST_EVALUATIONS:]
    lines = [plain(*(_cell(line[column]) for column in columns)) for line in latest]
    blocks: list[Block] = [Charts(charts=charts)]
    if lines:
        table = Table(caption="Evaluations during training", columns=plain(*columns), rows=lines, left=0)
        of = (
            f"{len(lines):,}"
            if len(lines) == len(inputs.history)
            else f"The last {len(lines)} of {len(inputs.history):,}"
        )
        blocks.append(Fold(summary=f"{of} evaluations as numbers", blocks=[table]))
    return Section(
        anchor="training", title="Learning curves", lead="Whether training was long enough, or too long.", blocks=blocks
    )


def _points(lines: Sequence[dict[str, str]], column: str) -> list[tuple[float, float]]:
    return [(float(line["step"]), float(line[column])) for line in lines if line.get(column)]


def _cell(text: str) -> str:
    return f"{float(text):.5g}" if text else ""


def metrics_section(inputs: Inputs) -> Section:
    """Tell all metrics of all splits, with their intervals."""
    results = inputs.results
    order = [name for name in (inputs.split, AS_GIVEN, "validation") if name in results["splits"]]
    splits = list(dict.fromkeys(order))
    first = HEADLINES[results["problem_type"]]
    names = list(results["splits"][splits[0]]["metrics"])
    headline = [name for name in first if name in names]
    others = [name for name in names if name not in first]
    bootstrap = results["bootstrap"]
    note = (
        f"In parentheses: {bootstrap['confidence']:.0%} intervals from {bootstrap['samples']:,} resamples of the rows. "
        "They tell what other rows would do to a score, not what another training would."
    )
    unlabelled = [(name, results["splits"][name]["unlabelled_rows"]) for name in splits]
    blocks: list[Block] = [_metrics(inputs, splits, headline, "Main metrics", note)]
    if others:
        fold = Fold(
            summary=f"{len(others)} more metrics", blocks=[_metrics(inputs, splits, others, "More metrics", note)]
        )
        blocks.append(fold)
    blocks += [
        Text(text=f"{count(rows)} rows of {name} have no label and are not scored.", tone="warn")
        for name, rows in unlabelled
        if rows
    ]
    if "test" not in results["splits"]:
        blocks.insert(
            0,
            Text(
                text="Test has no labels: what follows is about validation, which chose the best checkpoint and so "
                "flatters the model a little.",
                tone="warn",
            ),
        )
    return Section(
        anchor="metrics", title="Metrics", lead="How good the model is, and how sure that is.", blocks=blocks
    )


def _metrics(inputs: Inputs, splits: Sequence[str], names: Sequence[str], caption: str, note: str) -> Table:
    found = inputs.results["splits"]
    heads = [f"{split} ({count(found[split]['rows'])} rows)" for split in splits]
    return Table(
        caption=caption,
        columns=plain("metric", *heads),
        rows=[
            [Cell(text=name), *(_marked(found[split], name) for split in splits if name in found[split]["metrics"])]
            for name in names
        ],
        note=note,
    )


def _marked(scores: Json, name: str) -> Cell:
    """Return a score with its interval, drawn on a line from 0 to 1 where it cannot leave that."""
    interval = scores["intervals"].get(name)
    value = scores["metrics"][name]
    inside = interval is not None and min(interval[0], value) >= 0 and max(interval[1], value) <= 1
    mark = interval_mark(value, interval[0], interval[1], (0.0, 1.0)) if inside and interval is not None else None
    return Cell(text=with_interval(scores, name), chart=mark)


def classes_section(inputs: Inputs) -> Section:
    """Tell classes apart: scores of each, which are taken for which, curves; in regression predicted over actual."""
    if inputs.results["problem_type"] == "regression":
        return Section(
            anchor="classes",
            title="Predicted and actual",
            lead="Where the numbers are right, and where they are off.",
            blocks=[_scatter(inputs)],
        )
    blocks: list[Block] = []
    if (matrix := inputs.scored.get("confusion_matrix")) is not None:
        blocks.append(_confusion(inputs, matrix) if len(matrix) <= MOST_MATRIX else _confusions(inputs, matrix))
    blocks += [_classes(inputs), _curves(inputs)]
    lead = "Which classes the model knows, and which it takes for one another."
    return Section(anchor="classes", title="Classes and confusion", lead=lead, blocks=blocks)


def _scatter(inputs: Inputs) -> Charts:
    points = [(float(line["actual"]), float(line["predicted"])) for line in inputs.numbers]
    ends = [value for point in points for value in point]
    room = (max(ends) - min(ends)) * 0.05 or 0.5
    low, high = min(ends) - room, max(ends) + room
    picture = line_chart(
        "Predicted over actual numbers",
        Axis(title="actual", low=low, high=high),
        Axis(title="predicted", low=low, high=high),
        [Series(points=points, line=False)],
        diagonal=True,
    )
    few = f"{len(points):,} of {inputs.scored['rows']:,} rows of {inputs.split}; on the dotted line a number is right."
    return Charts(charts=[Chart(caption="Predicted over actual", picture=picture, note=few)])


def _confusion(inputs: Inputs, matrix: Sequence[Sequence[int]]) -> Table:
    names = inputs.results["labels"]
    rows = []
    for name, counts in zip(names, matrix, strict=True):
        total = sum(counts) or 1
        shades = [Cell(text=count(rows_), tone=f"h{round(rows_ / total * (HEAT - 1))}") for rows_ in counts]
        rows.append([named(name, 40), *shades])
    return Table(
        caption=f"Confusion matrix, {inputs.split}",
        columns=[Cell(text="actual ↓ predicted →"), *(named(name, 40) for name in names)],
        rows=rows,
        square=True,
        note="Numbers are rows; the shade is the share of the actual class.",
    )


def _confusions(inputs: Inputs, matrix: Sequence[Sequence[int]]) -> Table:
    names = inputs.results["labels"]
    found = [
        (rows, actual, predicted)
        for actual, counts in enumerate(matrix)
        for predicted, rows in enumerate(counts)
        if rows and actual != predicted
    ]
    shown = sorted(found, key=lambda each: (-each[0], each[1], each[2]))[:MOST_CONFUSIONS]
    return Table(
        caption=f"Most frequent confusions, {inputs.split}",
        columns=plain("actual", "predicted", "rows", "share of the class"),
        left=2,
        rows=[
            [
                named(names[actual]),
                named(names[predicted]),
                *plain(count(rows), share(rows / sum(matrix[actual]))),
            ]
            for rows, actual, predicted in shown
        ],
        note=f"{len(shown)} of {len(found):,} pairs of classes; with {len(names):,} classes the matrix is not drawn. "
        "evaluation/confusion.csv has every row.",
    )


def _classes(inputs: Inputs) -> Table:
    classes = inputs.scored["classes"]
    chosen = sorted(sorted(range(len(classes)), key=lambda place: classes[place]["f1"])[:MOST_CLASSES])
    cut = len(chosen) < len(classes)
    return Table(
        caption=f"Scores by class, {inputs.split}",
        columns=plain("class", "precision", "recall", "F1", "rows", "predicted"),
        rows=[
            [
                named(classes[place]["name"]),
                *plain(*(f"{classes[place][name]:.3f}" for name in ("precision", "recall"))),
                Cell(
                    text=f"{classes[place]['f1']:.3f}",
                    chart=interval_mark(classes[place]["f1"], 0.0, classes[place]["f1"], (0.0, 1.0)),
                ),
                *plain(*(count(classes[place][name]) for name in ("support", "predicted"))),
            ]
            for place in chosen
        ],
        note=f"The {len(chosen)} lowest F1 of {len(classes):,} classes; evaluation/classes.csv has all." if cut else "",
    )


def _curves(inputs: Inputs) -> Charts:
    """Draw ROC and precision-recall curves of the pooled classes and the first few."""
    names = list(dict.fromkeys(line["class"] for line in inputs.roc))[:MOST_SERIES]
    kinds = (
        ("ROC", inputs.roc, "false_positive_rate", "true_positive_rate", True),
        ("Precision and recall", inputs.recall, "recall", "precision", False),
    )
    charts = []
    for caption, lines, x, y, diagonal in kinds:
        grouped = {name: [] for name in names}  # type: dict[str, list[tuple[float, float]]]
        for line in lines:
            if line["class"] in grouped:
                grouped[line["class"]].append((float(line[x]), float(line[y])))
        if not any(grouped.values()):
            continue
        picture = line_chart(
            f"{caption} on {inputs.split}",
            Axis(title=x.replace("_", " "), low=0.0, high=1.0),
            Axis(title=y.replace("_", " "), low=0.0, high=1.0),
            [Series(points=points, marks=False) for points in grouped.values()],
            diagonal=diagonal,
        )
        series = [Cell(text="all classes pooled") if name == POOLED else named(name, 40) for name in names]
        charts.append(Chart(caption=caption, picture=picture, series=series))
    return Charts(charts=charts)


def calibration_section(inputs: Inputs) -> Section:
    """Tell whether probabilities mean what they say."""
    bins = inputs.scored["reliability"]
    picture = line_chart(
        "Accuracy over confidence",
        Axis(title="confidence", low=0.0, high=1.0),
        Axis(title="accuracy", low=0.0, high=1.0),
        [Series(points=[(each["confidence"], each["accuracy"]) for each in found]) for found in bins.values()],
        diagonal=True,
    )
    first = next(iter(bins.values()))
    histogram = bar_chart(
        "Decisions by confidence",
        Axis(title="confidence", low=0.0, high=1.0),
        Axis(title="decisions", low=0.0),
        [Bar(low=each["low"], high=each["high"], value=each["rows"]) for each in first],
    )
    metrics = inputs.scored["metrics"]
    names = [f"{name}{end}" for name in ("ece", "mce", "brier") for end in ("", "_scaled")]
    table = Table(
        caption=f"Calibration errors, {inputs.split}",
        columns=plain("metric", "value"),
        rows=[plain(name, with_interval(inputs.scored, name)) for name in names if name in metrics],
    )
    temperature = inputs.results["temperature"]
    said = (
        "No temperature was fitted; evaluate.temperature_scaling: true fits one."
        if temperature is None
        else f"A temperature of {temperature:g} was fitted on validation; predict.temperature applies it."
    )
    charts = [
        Chart(
            caption="Reliability",
            picture=picture,
            series=plain(*bins),
            note="Below the dotted line the model is too sure.",
        ),
        Chart(caption="How sure it is", picture=histogram),
    ]
    return Section(
        anchor="calibration",
        title="Calibration",
        lead="Whether a row that the model calls 80% certain is right 80% of the time.",
        blocks=[Charts(charts=charts), table, Text(text=said)],
    )


def slices_section(inputs: Inputs) -> Section:
    """Tell how the model does on parts of the data, by slice and by length."""
    metric = HEADLINES[inputs.results["problem_type"]][0]
    parts = inputs.scored["slices"]
    flat = [bound for part in parts for bound in part["intervals"].get(metric, ())]
    bounds = (min(flat, default=0.0), max(flat, default=1.0))
    rows = [
        [
            named(part["by"]),
            named(part["name"]),
            Cell(text=count(part["rows"]), tone="quiet" if part["few_rows"] else ""),
            _slice(part, metric, bounds),
        ]
        for part in parts[:MOST_SLICES]
    ]
    note = (
        f"Marks run from {score(bounds[0])} to {score(bounds[1])}. Grey: fewer than {FEW_ROWS} rows, which say little."
    )
    if len(parts) > MOST_SLICES:
        note += f" The first {MOST_SLICES} of {len(parts):,}; evaluation/slices.csv has all."
    blocks: list[Block] = []
    if rows:
        columns = plain("by", "part", "rows", metric)
        blocks.append(
            Table(caption=f"{metric} by part of {inputs.split}", columns=columns, rows=rows, left=2, note=note)
        )
    else:
        blocks.append(Text(text="The rows are in no more than one part of each kind of evaluate.slices."))
    blocks.append(_by_length(inputs))
    return Section(
        anchor="slices", title="Slices", lead="On which parts of the data the model is better or worse.", blocks=blocks
    )


def _slice(part: Json, metric: str, bounds: tuple[float, float]) -> Cell:
    interval = part["intervals"].get(metric)
    if metric not in part["metrics"]:
        return Cell(text="undefined", tone="quiet")
    mark = None if interval is None else interval_mark(part["metrics"][metric], interval[0], interval[1], bounds)
    return Cell(text=with_interval(part, metric), tone="quiet" if part["few_rows"] else "", chart=mark)


def _by_length(inputs: Inputs) -> Charts:
    numbers = inputs.results["problem_type"] == "regression"
    error = "mean absolute error" if numbers else "share of wrong rows"
    lines = inputs.by_length
    bars = [
        Bar(low=place, high=place + 1, value=float(line["error"]), interval=(float(line["low"]), float(line["high"])))
        for place, line in enumerate(lines)
    ]
    picture = bar_chart(
        f"Error by length on {inputs.split}",
        Axis(title="tokens before truncation, up to", low=0.0, high=float(max(len(bars), 1))),
        Axis(title=error, low=0.0),
        bars,
        [line["tokens_up_to"] for line in lines],
    )
    note = f"Each bar is about as many rows; lines are {inputs.results['bootstrap']['confidence']:.0%} intervals."
    return Charts(charts=[Chart(caption="Error by length", picture=picture, note=note)])
