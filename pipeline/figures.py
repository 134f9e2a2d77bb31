"""Figures of an evaluation and of a training run, as PNG.

Promises: equal data give equal bytes (no date, no version inside), nothing needs a display, and label names show as
they are: Chinese, Japanese and Korean where a font is installed, else as the class's number; `$` is never mathematics.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

from pipeline.outputs import replacing

FONTS = (  # the first that exist are used, in this order, glyph by glyph
    "DejaVu Sans",  # comes with matplotlib
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Arial Unicode MS",
)
MOST_CELLS_WITH_NUMBERS = 20  # classes up to which counts are written into the confusion matrix
MOST_TICKS = 60  # classes up to which they are named along the matrix
MOST_BARS = 40  # classes in the bar chart; of more, the lowest scores are shown
LONGEST_NAME = 28  # characters
SCORES = {  # of the learning curves, those that the task has
    "accuracy": "accuracy",
    "f1_macro": "F1 (macro)",
    "f1_micro": "F1 (micro)",
    "pearson": "Pearson",
    "spearman": "Spearman",
}


def confusion_figure(counts: npt.NDArray[np.int64], names: Sequence[str], title: str, out: Path) -> None:
    """Draw a confusion matrix: colour is the share of the actual class, numbers are rows.

    Args:
        counts: [classes, classes], actual by predicted.
        names: class names in id order.
        title: heading.
        out: PNG file.
    """
    classes = len(names)
    side = min(12.0, 3.2 + 0.5 * classes)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    with drawing():
        figure = Figure(figsize=(side + 0.8, side), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(image, ax=axes, shrink=0.8, label="share of the actual class")
        axes.set_title(title)
        axes.set_xlabel("predicted")
        axes.set_ylabel("actual")
        if classes <= MOST_TICKS:
            shown = drawable(names)
            axes.set_xticks(range(classes), shown, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
            axes.set_yticks(range(classes), shown, parse_math=False)
        if classes <= MOST_CELLS_WITH_NUMBERS:
            for row, column in np.argwhere(counts):
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour)
        save(figure, out)


def f1_figure(f1: Sequence[float], support: Sequence[int], names: Sequence[str], title: str, out: Path) -> None:
    """Draw F1 by class as bars, in id order; of many classes those with the lowest F1.

    Args:
        f1: scores, [classes].
        support: rows of each class, [classes].
        names: class names in id order.
        title: heading.
        out: PNG file.
    """
    chosen = sorted(sorted(range(len(names)), key=lambda i: f1[i])[:MOST_BARS])
    if len(chosen) < len(names):
        title = f"{title}: the lowest {len(chosen)} of {len(names)} classes"
    shown = drawable(names)
    with drawing():
        figure = Figure(figsize=(7.5, 1.4 + 0.32 * len(chosen)), layout="constrained")
        axes = figure.add_subplot()
        bars = axes.barh(range(len(chosen)), [f1[i] for i in chosen], color="#4c78a8")
        axes.bar_label(bars, [f"{f1[i]:.3f}" for i in chosen], padding=3)
        axes.set_yticks(range(len(chosen)), [f"{shown[i]} ({support[i]:,})" for i in chosen], parse_math=False)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.1)
        axes.set_xlabel("F1 (rows of the class in parentheses)")
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
        save(figure, out)


def learning_curves(history_csv: Path, out: Path) -> None:
    """Draw losses and scores over optimiser steps.

    Args:
        history_csv: one line per evaluation, with the columns step and train_loss and, where there is a validation
            split, eval_loss and those of SCORES that the task has; others are ignored, empty cells left out.
        out: PNG file.
    """
    with history_csv.open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    with drawing():
        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        _curves(left, lines, {"train_loss": "training", "eval_loss": "validation"}, "loss")
        _curves(right, lines, {f"eval_{name}": shown for name, shown in SCORES.items()}, "validation score")
        save(figure, out)


def drawable(names: Sequence[str], what: str = "class") -> list[str]:
    """Return names as they can be shown: shortened, or by number where no installed font has a character of it.

    Args:
        names: in the order that numbers them, from 0.
        what: goes before a number.
    """
    with drawing():
        covered = [get_font(findfont(FontProperties(family=[family]))).get_charmap() for family in _families()]
    return [
        (name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…")
        if all(any(ord(character) in charmap for charmap in covered) for character in name)
        else f"{what} {index}"
        for index, name in enumerate(names)
    ]


def _curves(axes: Axes, lines: Sequence[dict[str, str]], labels: dict[str, str], title: str) -> None:
    drawn = False
    for column, label in labels.items():
        points = [(float(line["step"]), float(line[column])) for line in lines if line.get(column)]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=label)
            drawn = True
    axes.set_title(title)
    axes.set_xlabel("optimiser step")
    axes.grid(alpha=0.3)
    if drawn:
        axes.legend()
    else:
        axes.text(0.5, 0.5, "no validation split", ha="center", va="center", transform=axes.transAxes)


def _families() -> list[str]:
    """Return those of FONTS that are installed: asking for others would warn once per figure."""
    installed = {font.name for font in fontManager.ttflist}
    return [family for family in FONTS if family in installed]


@contextmanager
def drawing() -> Iterator[None]:
    """Draw with matplotlib's defaults, whatever the user's matplotlibrc says, and our fonts."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["font.family"] = _families()
        yield


def save(figure: Figure, out: Path) -> None:
    """Write a figure as PNG, the same bytes for the same figure."""
    with replacing(out) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
