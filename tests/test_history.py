"""The history as CSV: a function of the state alone."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path

from pipeline.checkpoints import CurvePoint, Evaluation, TrainingState
from pipeline.history import write_curve, write_history
from pipeline.outputs import read_json, write_json


def test_evaluations(tmp_path: Path) -> None:
    evaluations = [
        Evaluation(step=step, epoch=step / 3, train_loss=1 / step, learning_rate=1e-4, metrics={"loss": 2.0, "f1": 1.0})
        for step in (3, 6)
    ]
    write_history(tmp_path / "history.csv", evaluations)
    assert (tmp_path / "history.csv").read_bytes() == (
        b"step,epoch,train_loss,learning_rate,eval_f1,eval_loss\n"
        b"3,1,0.333333333,0.0001,1,2\n"
        b"6,2,0.166666667,0.0001,1,2\n"
    )


def test_a_resumed_history_has_the_same_bytes(tmp_path: Path) -> None:
    """What comes back from a checkpoint's JSON has its keys in another order."""
    state = TrainingState(step=1)
    metrics = {"mcc": 0.5, "accuracy": 1 / 3}
    state.evaluations.append(Evaluation(step=1, epoch=1.0, train_loss=0.1, learning_rate=0.2, metrics=metrics))
    write_json(tmp_path / "state.json", asdict(state))
    write_history(tmp_path / "fresh.csv", state.evaluations)
    write_history(tmp_path / "resumed.csv", TrainingState.from_json(read_json(tmp_path / "state.json")).evaluations)
    assert (tmp_path / "fresh.csv").read_bytes() == (tmp_path / "resumed.csv").read_bytes()


def test_no_evaluations_is_a_header(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", [])
    assert (tmp_path / "history.csv").read_text() == "step,epoch,train_loss,learning_rate\n"


def test_the_curve(tmp_path: Path) -> None:
    points = [
        CurvePoint(step=1, epoch=0.5, loss=1e-12, learning_rate=0.0, grad_norm=None),
        CurvePoint(step=2, epoch=1.0, loss=0.123456789123, learning_rate=3e-5, grad_norm=12.5),
    ]
    write_curve(tmp_path / "curve.csv", points)
    with (tmp_path / "curve.csv").open() as stream:
        one, two = csv.DictReader(stream)
    assert one == {"step": "1", "epoch": "0.5", "loss": "1e-12", "learning_rate": "0", "grad_norm": ""}
    assert two == {"step": "2", "epoch": "1", "loss": "0.123456789", "learning_rate": "3e-05", "grad_norm": "12.5"}
