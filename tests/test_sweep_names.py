"""Names and types that `dvc exp show`, `dvc metrics diff` and MLflow's compare view show: short, flat, numbers."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from pipeline.labels import LabelSet
from pipeline.metrics import metric_names
from pipeline.params import load_params
from tests.toy import REPOSITORY
from tests.world import NAMES, World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def test_metrics_are_numbers_under_flat_names_and_few(world: World) -> None:
    found = world.evaluate().metrics()
    assert set(found) == {"validation", "test"}
    for scores in found.values():
        assert len(scores) < 80
        for name, value in scores.items():
            assert re.fullmatch(r"[a-z][a-z0-9_]*", name), name
            assert isinstance(value, int | float), name
            assert not isinstance(value, bool), name
            assert math.isfinite(value), name


def test_every_interval_has_its_score_and_is_left_out_of_make_exps(world: World) -> None:
    (pattern,) = re.findall(r"^NOT_SHOWN := (.*)$", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.M)
    hidden = re.compile(pattern.replace("$$", "$"))
    names = [f"validation.{name}" for name in world.evaluate().metrics()["validation"]]
    intervals = [name for name in names if name.endswith(("_low", "_high"))]
    assert intervals
    assert {re.sub("_(low|high)$", "", name) for name in intervals} <= set(names)
    assert [name for name in names if not hidden.match(name)] == [name for name in names if name not in intervals]
    for path in ("pipeline/params.py", "stages/train.py", "data/splits", "custom", "sweep.n_trials"):
        assert hidden.match(path), path
    for key in ("train.learning_rate", "data.path", "split.seed", "train.custom.loss"):
        assert not hidden.match(key), key


def test_params_in_mlflow_are_dotted_scalars() -> None:
    flat = load_params(REPOSITORY / "params.yaml").flat("data", "split", "model", "train", "launch", "evaluate")
    assert "train.learning_rate" in flat
    assert "train.checkpoint.every" in flat
    for key, value in flat.items():
        assert re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)+", key), key
        assert value is None or isinstance(value, str | int | float), key


@pytest.mark.parametrize("task", ["single_label_classification", "multi_label_classification", "regression"])
def test_names_of_scores_need_no_quotes_anywhere(task: str) -> None:
    names = metric_names(LabelSet(problem_type=task, names=() if task == "regression" else NAMES))  # type: ignore[arg-type]
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)
    assert len(set(names)) == len(names)


def test_no_stage_that_trains_has_a_plot_without_a_title() -> None:
    text = Path(REPOSITORY / "dvc.yaml").read_text(encoding="utf-8")
    plots = text[text.index("\nplots:") :]
    assert all(re.fullmatch(r"[A-Za-z][\w ]+", name) for name in re.findall(r"^  - (.+):$", plots, re.M))
