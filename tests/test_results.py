"""Times lie beside the repository, never in the reports that DVC hashes."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.outputs import read_json, write_json
from pipeline.results import write_timed_results


def test_times_are_added_to_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    reports = tmp_path / "reports"
    write_json(reports / "all_results.json", {"run_key": "abc", "splits": {}})
    before = (reports / "all_results.json").read_bytes()
    metrics = {
        "stage_seconds/train": 60.5,
        "stage_seconds/evaluate": 2.0,
        "train/samples_per_second": 120.0,
        "test/accuracy": 0.9,
    }
    file = write_timed_results(reports, metrics)
    assert file == tmp_path / ".seqtrack" / "results" / "abc" / "all_results.json"
    assert read_json(file) == {
        "run_key": "abc",
        "splits": {},
        "seconds": {"train": 60.5, "evaluate": 2.0},
        "samples_per_second": {"train": 120.0},
    }
    assert (reports / "all_results.json").read_bytes() == before
