"""What a newcomer gets: the bundled sample, with params.yaml as it is, in a fresh clone, offline."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.outputs import read_json
from tests.clone import Clone

pytestmark = pytest.mark.slow


def test_accuracy_is_what_the_field_expects(tmp_path: Path) -> None:
    clone = Clone.make(tmp_path / "clone")
    clone.run("dvc", "repro")
    metrics = read_json(clone.folder / "data/reports/metrics.json")
    assert metrics["test"]["accuracy"] >= 0.965
    assert metrics["validation"]["f1_macro"] >= 0.95
    (run,) = clone.mlflow_runs()
    assert run.data.metrics["test/accuracy"] == pytest.approx(metrics["test"]["accuracy"])
    assert len(clone.mlflow_client().get_metric_history(run.info.run_id, "validation/f1_macro")) == 3
