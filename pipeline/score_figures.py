"""Figures of an evaluation besides the confusion matrix: curves, reliability, slices, and predicted against actual.

Promises: those of `pipeline.figures`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.calibration import ReliabilityBin
from pipeline.figures import drawable, drawing, save
from pipeline.length_errors import LengthBin
from pipeline.ranking import Curve
from pipeline.resampling import Values

MOST_CURVES = 10  # with a legend entry each; of more classes the first are drawn
MOST_DOTS = 5_000  # of a scatter plot; of more rows, evenly spaced ones


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A score to draw: its name, value and bounds, and whether it rests on few rows."""

    name: str
    value: float
    low: float
    high: float
    few: bool


def curves_figure(roc: Mapping[str, Curve], precision_recall: Mapping[str, Curve], title: str, out: Path) -> None:
    """Draw ROC and precision-recall curves side by side, one per class.

    Args:
        roc: curve by class name.
        precision_recall: the same classes.
        title: heading.
        out: PNG file.
    """
    shown = drawable(list(roc))
    with drawing():
        figure = Figure(figsize=(10.5, 4.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot([0, 1], [0, 1], color="#bbbbbb", linestyle=":")
        for name, label in list(zip(roc, shown, strict=True))[:MOST_CURVES]:
            left.plot(roc[name].x, roc[name].y, label=_plain(label))
            curve = precision_recall[name]
            right.step(curve.x, curve.y, where="pre", label=_plain(label))
        left.set(title=f"ROC, {title}", xlabel="false positive rate", ylabel="true positive rate")
        right.set(title=f"precision and recall, {title}", xlabel="recall", ylabel="precision")
        for axes in (left, right):
            axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
            axes.grid(alpha=0.3)
        if roc:
            right.legend(fontsize="small")
        save(figure, out)


def reliability_figure(bins: Mapping[str, Sequence[ReliabilityBin]], title: str, out: Path) -> None:
    """Draw accuracy over confidence, and how many decisions have which confidence.

    Args:
        bins: by what the probabilities are: as they come, or with a temperature.
        title: heading.
        out: PNG file.
    """
    with drawing():
        figure = Figure(figsize=(5.2, 6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        upper.plot([0, 1], [0, 1], color="#bbbbbb", linestyle=":")
        for label, found in bins.items():
            upper.plot([each.confidence for each in found], [each.accuracy for each in found], marker="o", label=label)
            centres = [(each.low + each.high) / 2 for each in found]
            lower.step(centres, [each.rows for each in found], where="mid", marker=".")
        upper.set(title=title, ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
        upper.grid(alpha=0.3)
        upper.legend()
        lower.set(xlabel="confidence", ylabel="decisions")
        save(figure, out)


def slices_figure(scores: Sequence[Interval], whole: float, metric: str, title: str, out: Path) -> None:
    """Draw a score and its interval for each slice, beside that of all rows.

    Args:
        scores: from top to bottom.
        whole: the score of all rows.
        metric: what the score is.
        title: heading.
        out: PNG file.
    """
    shown = drawable([score.name for score in scores], "line")
    with drawing():
        figure = Figure(figsize=(7.5, 1.4 + 0.3 * max(1, len(scores))), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(whole, color="#bbbbbb", linestyle=":")
        for place, score in enumerate(scores):
            colour = "#bbbbbb" if score.few else "#4c78a8"
            axes.plot([score.low, score.high], [place, place], color=colour, linewidth=2)
            axes.plot([score.value], [place], color=colour, marker="o")
        axes.set_yticks(range(len(scores)), shown, parse_math=False)
        axes.invert_yaxis()
        axes.set(title=title, xlabel=f"{metric} (grey: few rows; dotted: all rows)")
        axes.grid(axis="x", alpha=0.3)
        if not scores:
            _nothing(axes, "no slices")
        save(figure, out)


def length_figure(bins: Sequence[LengthBin], error: str, title: str, out: Path) -> None:
    """Draw the error of rows over their length, with intervals, and how many rows are how long.

    Args:
        bins: from short to long.
        error: what the error is.
        title: heading.
        out: PNG file.
    """
    names = [
        f"{each.shortest} to {each.longest}" if each.longest > each.shortest else f"{each.shortest}" for each in bins
    ]
    with drawing():
        figure = Figure(figsize=(7.5, 4.6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        for place, each in enumerate(bins):
            upper.plot([place, place], [each.low, each.high], color="#4c78a8", linewidth=2)
        upper.plot(range(len(bins)), [each.error for each in bins], color="#4c78a8", marker="o", linestyle=":")
        upper.set(title=title, ylabel=error)
        upper.set_ylim(bottom=0)
        upper.grid(axis="y", alpha=0.3)
        lower.bar(range(len(bins)), [each.rows for each in bins], color="#bbbbbb")
        lower.set_xticks(range(len(bins)), names, rotation=30, ha="right", rotation_mode="anchor")
        lower.set(xlabel="tokens before truncation", ylabel="rows")
        save(figure, out)


def regression_figure(predicted: Values, actual: Values, title: str, out: Path) -> None:
    """Draw predicted over actual numbers, and a histogram of the residuals, predicted less actual.

    Args:
        predicted: [rows].
        actual: [rows].
        title: heading.
        out: PNG file.
    """
    chosen = np.unique(np.linspace(0, len(actual) - 1, min(len(actual), MOST_DOTS)).round().astype(int))
    ends = [min(actual.min(), predicted.min()), max(actual.max(), predicted.max())]
    with drawing():
        figure = Figure(figsize=(10.5, 4.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(ends, ends, color="#bbbbbb", linestyle=":")
        left.scatter(actual[chosen], predicted[chosen], s=8, alpha=0.4, linewidths=0)
        left.set(title=title, xlabel="actual", ylabel="predicted")
        right.hist(predicted - actual, bins=40)
        right.axvline(0, color="#bbbbbb", linestyle=":")
        right.set(title="residuals", xlabel="predicted less actual", ylabel="rows")
        save(figure, out)


def _plain(label: str) -> str:
    """Keep a legend from taking `$` for mathematics, and a leading underscore for a wish to be left out."""
    escaped = label.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped or " "


def _nothing(axes: Axes, why: str) -> None:
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes)
