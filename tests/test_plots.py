"""The plots that dvc draws: their columns are there, whatever the task."""

from __future__ import annotations

import json

import pytest
from ruamel.yaml import YAML

from pipeline.code import HOME
from pipeline.labels import LabelSet
from pipeline.metrics import metric_names

TASKS = (
    LabelSet(problem_type="single_label_classification", names=("bad", "good", "other")),
    LabelSet(problem_type="multi_label_classification", names=("bad", "good", "other")),
    LabelSet(problem_type="regression", names=()),
)


@pytest.mark.parametrize("labels", TASKS, ids=lambda labels: labels.problem_type)
def test_every_task_has_the_columns_of_its_history(labels: LabelSet) -> None:
    plots = YAML(typ="safe").load(HOME / "dvc.yaml")["plots"]
    history = {"step", "train_loss", *(f"eval_{name}" for name in metric_names(labels)), "eval_loss"}
    for plot in plots:
        ((_, definition),) = plot.items()
        for file, columns in definition["y"].items():
            if file == "data/reports/history.csv":
                # DVC stops at a column that is not there.
                assert {definition["x"], *([columns] if isinstance(columns, str) else columns)} <= history


def test_the_template_of_scores_knows_some_of_each_task_and_none_that_does_not_exist() -> None:
    template = json.loads((HOME / ".dvc/plots/scores.json").read_text(encoding="utf-8"))
    drawn = {name.removeprefix("eval_") for name in template["transform"][0]["fold"]}
    known = [set(metric_names(labels)) for labels in TASKS]
    assert all(names & drawn for names in known)
    assert drawn <= set.union(*known)
