"""Everything that is known of a trained model in one file, times included.

Promises: what takes time differs from run to run, so this file is no DVC output: it lies beside the repository, named
by the run_key, and among the run's artifacts in MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.outputs import read_json, write_json
from pipeline.paths import state

SECONDS = "stage_seconds/"
TRAINING_SPEED = "train/samples_per_second"
EVALUATION_SPEED = "evaluate/samples_per_second"


def write_timed_results(reports: Path, metrics: Mapping[str, float]) -> Path:
    """Write `.seqtrack/results/<run_key>/all_results.json`: the report of that name, and what took how long.

    Args:
        reports: where all_results.json is.
        metrics: the run's, as MLflow has them; those of speed and of seconds by stage are taken.

    Returns:
        The file.
    """
    results = read_json(reports / "all_results.json")
    run_key: str = results["run_key"]
    file = state() / "results" / run_key / "all_results.json"
    seconds = {name.removeprefix(SECONDS): value for name, value in metrics.items() if name.startswith(SECONDS)}
    speeds = {"train": metrics.get(TRAINING_SPEED), "evaluate": metrics.get(EVALUATION_SPEED)}
    known = {stage: value for stage, value in speeds.items() if value is not None}
    write_json(file, {**results, "seconds": seconds, "samples_per_second": known})
    return file
