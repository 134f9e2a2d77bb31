"""Reading MLflow runs, for those who only look: a store that is not there is not made.

Promises: nothing is written; a store that is absent, out of reach or of another version is told apart from one that
answers and has no such run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import SeqtrackError
from pipeline.paths import mlflow_store
from pipeline.tracking import RUN_KEY_TAG, quiet_store

if TYPE_CHECKING:
    from mlflow.entities import Run

CHANGED = "changed."  # prefix of the tags with newer values of params
RETRIES, SECONDS = 1, 20  # of a request to a server


class NoStoreError(SeqtrackError):
    """The MLflow store cannot be asked."""


@dataclass(frozen=True, kw_only=True)
class SplitInput:
    """A split as a run's page names it.

    Attributes:
        rows: how many.
        digest: the first 36 hex digits of its file's sha256.
    """

    rows: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class FoundRun:
    """What a run says of itself.

    Attributes:
        run_id, name, experiment, status: MLflow's.
        params: as the latest stage logged them.
        tags: all of them.
        metrics: latest values.
        splits: by name.
    """

    run_id: str
    name: str
    experiment: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    splits: dict[str, SplitInput]


def run_of_key(run_key: str) -> FoundRun | None:
    """Return the run of a run_key, None where the store has none.

    Raises:
        NoStoreError: there is no answer.
    """
    return next(iter(_search(f"tags.`{RUN_KEY_TAG}` = '{run_key}'")), None)


def runs_named(name: str) -> list[FoundRun]:
    """Return the run with this id, or all runs with this name, newest first; quotes are in no name of ours.

    Raises:
        NoStoreError: there is no answer.
    """
    if "'" in name or '"' in name:
        return []
    return _search(f"attributes.run_id = '{name}'") or _search(f"attributes.run_name = '{name}'")


def _search(query: str) -> list[FoundRun]:
    quiet_store()
    uri = mlflow_store().tracking_uri
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise NoStoreError("there is no MLflow store", where=uri, fix="set MLFLOW_TRACKING_URI if it is elsewhere")
    import mlflow
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT
    from mlflow.exceptions import MlflowException

    # Whoever only looks does not wait for minutes, as MLflow does, until a server is given up.
    for setting, value in ((MLFLOW_HTTP_REQUEST_MAX_RETRIES, RETRIES), (MLFLOW_HTTP_REQUEST_TIMEOUT, SECONDS)):
        if not setting.is_set():  # type: ignore[no-untyped-call]
            setting.set(value)  # type: ignore[no-untyped-call]
    try:
        client = mlflow.MlflowClient(uri)
        experiments = {each.experiment_id: each.name for each in client.search_experiments()}
        runs = client.search_runs(list(experiments), query, order_by=["attributes.start_time DESC"])
        return [_found(run, experiments) for run in runs]
    except (MlflowException, OSError) as error:
        raise NoStoreError(
            f"the MLflow store does not answer ({error})", where=uri, fix="check MLFLOW_TRACKING_URI"
        ) from error


def _found(run: Run, experiments: dict[str, str]) -> FoundRun:
    tags = dict(run.data.tags)
    newer = {name.removeprefix(CHANGED): value for name, value in tags.items() if name.startswith(CHANGED)}
    splits = {
        each.dataset.name: SplitInput(
            rows=int(json.loads(each.dataset.profile or "{}").get("num_rows", 0)), digest=each.dataset.digest
        )
        for each in (run.inputs.dataset_inputs if run.inputs else [])
    }
    return FoundRun(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        experiment=experiments[run.info.experiment_id],
        status=run.info.status,
        params=dict(run.data.params) | newer,
        tags=tags,
        metrics=dict(run.data.metrics),
        splits=splits,
    )
