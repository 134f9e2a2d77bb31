"""Figures: equal bytes, any label name, any number of classes."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline import figures
from pipeline.figures import confusion_figure, drawable, f1_figure, learning_curves

PNG = b"\x89PNG\r\n\x1a\n"
CHINESE = ("体育", "财经", "科技")


def draw(folder: Path, names: Sequence[str], suffix: str = "") -> tuple[bytes, bytes]:
    size = len(names)
    counts = np.random.default_rng(0).integers(0, 50, (size, size))
    matrix, bars = folder / f"matrix{suffix}.png", folder / f"bars{suffix}.png"
    confusion_figure(counts, names, "test", matrix)
    f1_figure([1 / (i + 1) for i in range(size)], list(range(size)), names, "F1", bars)
    return matrix.read_bytes(), bars.read_bytes()


def test_equal_data_give_equal_bytes_without_version_or_date(tmp_path: Path) -> None:
    first = draw(tmp_path, ["sport", "tech"], "1")
    assert first == draw(tmp_path, ["sport", "tech"], "2")
    assert first != draw(tmp_path, ["sport", "arts"], "3")
    for picture in first:
        assert picture.startswith(PNG)
        assert b"matplotlib" not in picture
        assert b"Software" not in picture


@pytest.mark.parametrize(
    "names",
    [CHINESE, ("$x^$", "$\\frac$"), ("a", "x" * 300), [f"class-{i}" for i in range(150)], ("", " ")],
    ids=["chinese", "dollars", "long", "many", "blank"],
)
def test_any_names_are_drawn_without_a_warning(
    tmp_path: Path, names: Sequence[str], caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        for picture in draw(tmp_path, names):
            assert picture.startswith(PNG)
    assert not caplog.records


def test_names_no_font_can_show_become_class_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "FONTS", ("DejaVu Sans",))
    assert drawable(["sport", "体育", "x" * 40]) == ["sport", "class 1", "x" * 27 + "…"]


def test_learning_curves_take_a_history_with_and_without_validation(tmp_path: Path) -> None:
    history = tmp_path / "history.csv"
    history.write_text(
        "step,epoch,train_loss,learning_rate,eval_loss,eval_accuracy,eval_f1_macro\n"
        "10,1,0.9,1e-4,0.8,0.5,0.4\n20,2,0.5,0,0.6,0.8,0.7\n"
    )
    learning_curves(history, tmp_path / "full.png")
    learning_curves(history, tmp_path / "again.png")
    assert (tmp_path / "full.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    history.write_text("step,epoch,train_loss,learning_rate,eval_loss\n10,1,0.9,1e-4,\n20,2,,0,\n")
    learning_curves(history, tmp_path / "train.png")
    assert (tmp_path / "train.png").read_bytes() not in (b"", (tmp_path / "full.png").read_bytes())


def test_the_users_matplotlibrc_changes_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, matplotlib; matplotlib.rcParams['axes.titlesize'] = 30;"
        "matplotlib.rcParams['figure.facecolor'] = 'red';"
        "from tests.test_figures import draw; folder = pathlib.Path(sys.argv[1]);"
        "draw(folder, ['sport', 'tech'], '-rc');"
        "assert matplotlib.rcParams['axes.titlesize'] == 30;"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert draw(tmp_path, ["sport", "tech"])[0] == (tmp_path / "matrix-rc.png").read_bytes()
