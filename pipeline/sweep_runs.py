"""A sweep in MLflow: a parent run, and its trials' runs under it.

Promises: a run that the sweep made becomes a child of its parent run; one that was there before (made by hand, or by
another sweep) stays where it is, and is named in the table of trials; a trial that was stopped early is marked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.tracking import TrackedRun, find_run, tracked_run

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT_TAG = "mlflow.parentRunId"
SWEEP_TAG = "seqtrack.sweep"
TRIAL_TAG = "seqtrack.trial"
PRUNED_TAG = "seqtrack.pruned"


class SweepRuns:
    """The parent run, open, and what is asked of its children.

    Args:
        client: of the store.
        parent: the open run.
        study: the sweep's name.
    """

    def __init__(self, client: MlflowClient, parent: TrackedRun, study: str) -> None:
        self._client = client
        self._study = study
        self._adopted: set[str] = set()
        self.parent = parent

    def find(self, run_key: str) -> str | None:
        """Return the run of a run_key, if there is one."""
        run = find_run(self._client, run_key)
        return None if run is None else run.info.run_id

    def adopt(self, run_id: str, name: str, number: int) -> None:
        """Make a trial's run a child of the parent, if this trial made it and it is nobody's yet."""
        if run_id in self._adopted:
            return
        self._adopted.add(run_id)
        tags = self._client.get_run(run_id).data.tags
        if tags.get("dvc.exp_name") == name and PARENT_TAG not in tags:
            for tag, value in ((PARENT_TAG, self.parent.run_id), (SWEEP_TAG, self._study), (TRIAL_TAG, str(number))):
                self._client.set_tag(run_id, tag, value)

    def points(self, run_id: str, curve: str) -> list[float]:
        """Return the values of a curve so far, in order; none where the store is out of reach just now."""
        from mlflow.exceptions import MlflowException

        try:
            return [point.value for point in sorted(self._client.get_metric_history(run_id, curve), key=_step)]
        except MlflowException:  # a locked database, a server that starts again: the next look has it
            return []

    def mark_pruned(self, run_id: str, why: str) -> None:
        """Say of a run that it was stopped early, and end it."""
        self._client.set_tag(run_id, PRUNED_TAG, why)
        self._client.set_terminated(run_id, "KILLED")

    def unmark(self, run_id: str) -> None:
        """Take a mark back: the training was run to its end after all."""
        if PRUNED_TAG in self._client.get_run(run_id).data.tags:
            self._client.delete_tag(run_id, PRUNED_TAG)


@contextmanager
def sweep_runs(study: str, experiment_name: str, params: Mapping[str, str]) -> Iterator[SweepRuns]:
    """Open the parent run of a sweep, the one of the starts before where there is one.

    Args:
        study: the sweep's name.
        experiment_name: the MLflow experiment.
        params: to log with the run.

    Raises:
        SeqtrackError: the MLflow store cannot be used.
    """
    from mlflow import MlflowClient

    with tracked_run(f"sweep {study}", experiment_name) as parent:
        client = MlflowClient()
        client.update_run(parent.run_id, name=study)
        parent.set_tags({SWEEP_TAG: study, "mlflow.source.name": "stages.sweep"})
        parent.log_params(params)
        yield SweepRuns(client, parent, study)


def _step(point: object) -> int:
    return int(getattr(point, "step", 0))
