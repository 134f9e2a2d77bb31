"""Figures of scores: equal bytes, any name, nothing to draw."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest

from pipeline.calibration import Choices, reliability
from pipeline.length_errors import errors_by_length
from pipeline.ranking import precision_recall_curve, roc_curve
from pipeline.score_figures import (
    Interval,
    curves_figure,
    length_figure,
    regression_figure,
    reliability_figure,
    slices_figure,
)

NAMES = ("体育", "$x^$", "_hidden", "", "x" * 300, *(f"class-{place}" for place in range(20)))


def draw(folder: Path, seed: int) -> list[bytes]:
    generator = np.random.default_rng(seed)
    scores, positive = generator.normal(size=(80, len(NAMES))), generator.random((80, len(NAMES))) < 0.5
    pairs = {name: (scores[:, place], positive[:, place]) for place, name in enumerate(NAMES)}
    roc = {name: roc_curve(*pair) for name, pair in pairs.items()}
    recall = {name: precision_recall_curve(*pair) for name, pair in pairs.items()}
    bins = reliability(Choices.of_labels(scores, positive))
    parts = [Interval(name=name, value=0.5, low=0.4, high=0.6, few=len(name) > 2) for name in NAMES]
    folder.mkdir()
    curves_figure(roc, recall, "test", folder / "1.png")
    reliability_figure({"as trained": bins, "temperature 2": bins}, "test", folder / "2.png")
    slices_figure(parts, 0.5, "accuracy", "test", folder / "3.png")
    regression_figure(scores[:, 0], scores[:, 1], "test", folder / "4.png")
    lengths, wrong = generator.integers(3, 90, 80), (generator.random(80) < 0.3).astype(float)
    length_figure(errors_by_length(lengths, wrong, shares=True, confidence=0.95), "error", "test", folder / "5.png")
    return [(folder / f"{place}.png").read_bytes() for place in range(1, 6)]


def test_equal_data_give_equal_bytes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        first = draw(tmp_path / "first", 1)
        assert first == draw(tmp_path / "again", 1)
        other = draw(tmp_path / "other", 2)
    assert not caplog.records
    assert [one != two for one, two in zip(first, other, strict=True)] == [
        True,
        True,
        False,
        True,
        True,
    ]  # slices are fixed


def test_nothing_to_draw_is_drawn_without_a_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curves_figure({}, {}, "test", tmp_path / "curves.png")
        slices_figure([], 0.5, "accuracy", "test", tmp_path / "slices.png")
        regression_figure(np.array([1.0]), np.array([1.0]), "test", tmp_path / "regression.png")
        reliability_figure({"as trained": ()}, "test", tmp_path / "reliability.png")
    assert len(list(tmp_path.iterdir())) == 4
