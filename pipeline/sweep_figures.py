"""Pictures of a sweep: its history, what the good trials have in common, which keys matter.

Promises: as `pipeline.figures`: equal trials give equal bytes, nothing needs a display.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.figures import drawing, save
from pipeline.sweep_space import Axis

BLUE, ORANGE, GREY = "#4c78a8", "#f58518", "#b0b0b0"


def history_figure(
    scores: Sequence[tuple[int, float]], stopped: Sequence[tuple[int, float]], *, maximized: bool, goal: str, out: Path
) -> None:
    """Draw each trial's score, and the best so far.

    Args:
        scores: number and score of complete trials, by number.
        stopped: of those stopped early, with their last score.
        maximized: whether higher is better.
        goal: what the score is.
        out: PNG file.
    """
    with drawing():
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.add_subplot()
        if stopped:
            axes.scatter(*zip(*stopped, strict=True), color=GREY, marker="x", label="stopped early")
        if scores:
            numbers, values = zip(*scores, strict=True)
            axes.scatter(numbers, values, color=BLUE, label="trial")
            best = np.maximum.accumulate(values) if maximized else np.minimum.accumulate(values)
            axes.plot(numbers, best, color=ORANGE, drawstyle="steps-post", label="best so far")
        axes.set(xlabel="trial", ylabel=goal, title="History")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if scores or stopped:
            axes.legend()
        save(figure, out)


def parallel_figure(
    axes_of: Sequence[Axis], trials: Sequence[tuple[Mapping[str, Any], float]], goal: str, out: Path
) -> None:
    """Draw a line per complete trial across the keys of the space, coloured by its score.

    Args:
        axes_of: the space.
        trials: what each was drawn as, and its score; at least one.
        goal: what the score is.
        out: PNG file.
    """
    values = [value for _, value in trials]
    norm, colours = Normalize(min(values), max(values)), colormaps["viridis"]
    with drawing():
        figure = Figure(figsize=(2.5 + 2.0 * len(axes_of), 4.5), layout="constrained")
        plot = figure.add_subplot()
        for drawn, value in sorted(trials, key=lambda trial: trial[1]):
            heights = [_height(axis, drawn[axis.key]) for axis in axes_of] + [float(norm(value))]
            plot.plot(range(len(heights)), heights, color=colours(norm(value)), alpha=0.8, marker="o", markersize=3)
        for place, axis in enumerate(axes_of):
            plot.axvline(place, color="black", linewidth=0.6)
            for height, text in _ticks(axis):
                plot.annotate(text, (place, height), fontsize=8, xytext=(3, 2), textcoords="offset points")
        plot.axvline(len(axes_of), color="black", linewidth=0.6)
        names = [axis.key.replace(".", ".\n", 1) for axis in axes_of]
        plot.set_xticks(range(len(axes_of) + 1), [*names, goal.replace(".", ".\n", 1)], fontsize=8, parse_math=False)
        plot.set(ylim=(-0.05, 1.08), yticks=[], title="Trials")
        figure.colorbar(ScalarMappable(norm, colours), ax=plot, label=goal)
        save(figure, out)


def importance_figure(importance: Mapping[str, float], out: Path) -> None:
    """Draw how much of the scores' variance each key accounts for.

    Args:
        importance: shares by key, which add up to 1.
        out: PNG file.
    """
    ordered = sorted(importance.items(), key=lambda item: item[1])
    with drawing():
        figure = Figure(figsize=(7.5, 1.4 + 0.4 * len(ordered)), layout="constrained")
        axes = figure.add_subplot()
        bars = axes.barh([key for key, _ in ordered], [share for _, share in ordered], color=BLUE)
        axes.bar_label(bars, [f"{share:.2f}" for _, share in ordered], padding=3)
        axes.set_xlim(0, 1.1)
        axes.set(xlabel="share of the variance (fANOVA)", title="Importance")
        axes.spines[["top", "right"]].set_visible(False)
        save(figure, out)


def _height(axis: Axis, drawn: Any) -> float:
    """Return where on its line a value stands, between 0 and 1."""
    if axis.choices:
        places = axis.points()
        return places.index(drawn) / max(1, len(places) - 1)
    if axis.log:
        return float(np.log(drawn / axis.low) / np.log(axis.high / axis.low))
    return float((drawn - axis.low) / (axis.high - axis.low))


def _ticks(axis: Axis) -> list[tuple[float, str]]:
    if axis.choices:
        return [(_height(axis, place), str(place)) for place in axis.points()]
    return [(0.0, f"{axis.low:g}"), (1.0, f"{axis.high:g}")]
