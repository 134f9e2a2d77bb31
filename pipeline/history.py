"""The training history as CSV files, for `dvc plots` and for people.

Promises: a function of the training state alone, so a resumed run writes the same bytes as an uninterrupted one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from pipeline.checkpoints import CurvePoint, Evaluation
from pipeline.outputs import write_text


def write_history(path: Path, evaluations: Sequence[Evaluation]) -> None:
    """Write one line per evaluation: step, epoch, train_loss, learning_rate, then `eval_<metric>` columns."""
    # Sorted: metrics that came back from a checkpoint are in another order than fresh ones.
    names = sorted(evaluations[0].metrics) if evaluations else []
    header = ["step", "epoch", "train_loss", "learning_rate", *(f"eval_{name}" for name in names)]
    lines = [
        [e.step, e.epoch, e.train_loss, e.learning_rate, *(e.metrics[name] for name in names)] for e in evaluations
    ]
    _write(path, header, lines)


def write_curve(path: Path, points: Sequence[CurvePoint]) -> None:
    """Write one line per logged step: step, epoch, loss, learning_rate, grad_norm."""
    header = ["step", "epoch", "loss", "learning_rate", "grad_norm"]
    _write(path, header, [[p.step, p.epoch, p.loss, p.learning_rate, p.grad_norm] for p in points])


def _write(path: Path, header: Sequence[str], lines: Sequence[Sequence[float | None]]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_short(value) for value in line] for line in lines)
    write_text(path, buffer.getvalue())


def _short(value: float | None) -> str:
    """Render with nine significant digits: more than any plot shows, and short enough to read; None is empty."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.9g}"
