"""What is printed after a run: the score of any task, and only what exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import next_steps
from pipeline.outputs import write_json


@pytest.mark.parametrize(
    "scores", [{"accuracy": 0.9, "f1_macro": 0.8}, {"f1_micro": 0.9, "f1_macro": 0.8}, {"mse": 0.8, "pearson": 0.9}]
)
def test_each_task_has_a_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], scores: dict[str, float]
) -> None:
    monkeypatch.chdir(tmp_path)
    flat = {f"{name}{end}": value for name, value in scores.items() for end in ("", "_low", "_high")}
    write_json(Path("data/reports/metrics.json"), {"test": flat})
    next_steps.main()
    out = capsys.readouterr().out
    assert "0.9000 (between 0.9000 and 0.9000)" in out
    assert "data/reports/metrics.json" in out
    assert "errors.jsonl" not in out
