"""MLflow: one run per run_key, shared by train, evaluate and predict.

Promises: a stage finds its run by the run_key, however often and from whichever working copy it is started; a point of
a curve is logged once, also after a resume.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pipeline.errors import SeqtrackError
from pipeline.outputs import folder_digest, read_manifest
from pipeline.paths import FETCHED, SPLITS, TOKENIZED, VALIDATED, VOCABULARY, dvc_experiment, mlflow_store, root, state
from pipeline.timings import recall

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN_KEY_TAG = "seqtrack.run_key"
MODEL_TAG = "seqtrack.model_uri"
MAX_PARAM_CHARS = 6000  # MLflow refuses longer ones
UPSTREAM = {
    "fetch": FETCHED,
    "validate": VALIDATED,
    "split": SPLITS,
    "vocabulary": VOCABULARY,
    "tokenize": TOKENIZED,
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One value of one metric at one step."""

    name: str
    value: float
    step: int


class TrackedRun:
    """A run that is open for logging."""

    def __init__(self, client: MlflowClient, run: Run) -> None:
        self._client = client
        self._params = dict(run.data.params)
        self._tags = dict(run.data.tags)
        self._last_steps: dict[str, int] = {}
        self.run_id: str = run.info.run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters.

        MLflow never changes a param. One that differs from what an earlier stage of this run logged did not change the
        model (or it would be another run), so the newer value goes into a tag beside it.
        """
        from mlflow.entities import Param

        fresh = []
        for key, value in params.items():
            text = str(value)
            if len(text) > MAX_PARAM_CHARS:
                text = text[: MAX_PARAM_CHARS - 1] + "…"
            if key not in self._params:
                fresh.append(Param(key, text))
                self._params[key] = text
            elif self._params[key] != text:
                self.set_tags({f"changed.{key}": text})
        for start in range(0, len(fresh), 100):  # MLflow's limit per call
            self._client.log_batch(self.run_id, params=fresh[start : start + 100])

    def log_points(self, points: Iterable[Point]) -> None:
        """Log points of curves; those at or before a metric's last logged step are there already."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        fresh = [
            Metric(point.name, point.value, now, point.step)
            for point in points
            if point.step > self._last_step(point.name)
        ]
        for metric in fresh:
            self._last_steps[metric.key] = max(self._last_steps[metric.key], metric.step)
        for start in range(0, len(fresh), 1000):  # MLflow's limit per call
            self._client.log_batch(self.run_id, metrics=fresh[start : start + 1000])

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log final values, replacing those of an earlier run of the same stage."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.run_id, metrics=[Metric(name, value, now, 0) for name, value in metrics.items()])

    def log_scores(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Log the final model's scores as `test/<name>` and `best_validation/<name>`.

        `validation/<name>` is the curve over training steps; the prefix keeps the final model's value out of it.
        """
        prefixes = {"validation": "best_validation"}
        self.log_metrics(
            {
                f"{prefixes.get(split, split)}/{name}": value
                for split, metrics in scores.items()
                for name, value in metrics.items()
            }
        )

    def metrics(self) -> dict[str, float]:
        """Return the latest value of each metric of the run, whichever stage logged it."""
        return dict(self._client.get_run(self.run_id).data.metrics)

    @property
    def tags(self) -> Mapping[str, str]:
        """Tags of the run as far as this process knows them."""
        return self._tags

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, replacing older values."""
        from mlflow.entities import RunTag

        self._tags.update(tags)
        self._client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def log_files(self, files: Iterable[Path], artifact_path: str) -> None:
        """Copy files into one folder of the run's artifacts."""
        for file in files:
            self._client.log_artifact(self.run_id, str(file), artifact_path)

    def log_splits(self, splits: Path) -> None:
        """Log each split as an MLflow data set input, with its digest and row count."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        manifest = read_manifest(splits)
        inputs = []
        for name, rows in manifest["rows"].items():
            file = f"{name}.parquet"
            if not rows or file not in manifest["files"]:
                continue
            source = f'{{"uri": "{splits.as_posix()}/{file}"}}'
            dataset = Dataset(
                name=name,
                digest=manifest["files"][file][:36],  # MLflow's limit
                source_type="local",
                source=source,
                profile=f'{{"num_rows": {rows}}}',
            )
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", name)]))
        self._client.log_inputs(self.run_id, datasets=inputs)

    def log_stage_seconds(self, stage: str, seconds: float) -> None:
        """Log how long a stage took, and what is known of the stages before it."""
        known = {name: recall(name, folder) for name, folder in UPSTREAM.items()}
        seconds_by_stage = {name: value for name, value in known.items() if value is not None} | {stage: seconds}
        self.log_metrics({f"stage_seconds/{name}": value for name, value in seconds_by_stage.items()})

    def log_model(self, folder: Path, example: str | dict[str, str], metadata: Mapping[str, str]) -> None:
        """Log a model folder as an MLflow transformers model, once per content.

        Args:
            folder: what `modeling.export` wrote, with its manifest.
            example: an input example: a text, or `{"text": ..., "text_pair": ...}`.
            metadata: facts to store with the model.
        """
        digest = folder_digest(folder)
        if self._tags.get("seqtrack.model_digest") == digest:
            return
        from pipeline.mlflow_model import log_transformers_model

        uri = log_transformers_model(self.run_id, folder, example, {**metadata, "model_digest": digest})
        self.set_tags({MODEL_TAG: uri, "seqtrack.model_digest": digest})

    def _last_step(self, name: str) -> int:
        if name not in self._last_steps:
            history = self._client.get_metric_history(self.run_id, name)
            self._last_steps[name] = max((metric.step for metric in history), default=-1)
        return self._last_steps[name]


def unusable_store(uri: str, error: Exception) -> SeqtrackError:
    """Return what is said where MLflow's store at `uri` cannot be reached, read or written."""
    return SeqtrackError(
        f"the MLflow store cannot be used ({error})",
        where=uri,
        fix="check MLFLOW_TRACKING_URI, or unset it to use mlflow.db beside dvc.yaml",
    )


def quiet_store() -> None:
    """Keep MLflow from reporting each step of making its database: that it exists is all there is to say."""
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def tracked_run(run_key: str, experiment_name: str) -> Iterator[TrackedRun]:
    """Open the run of a run_key, creating it on first use; its status follows how the block ends.

    Args:
        run_key: see `identity.run_key`.
        experiment_name: the MLflow experiment for a new run.

    Raises:
        SeqtrackError: the MLflow store cannot be used.
    """
    quiet_store()
    import mlflow
    from mlflow.exceptions import MlflowException

    store = mlflow_store()
    mlflow.set_tracking_uri(store.tracking_uri)
    try:
        # Two first users at once would both migrate an empty database, or both create the experiment or the run.
        lock = state() / "mlflow.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            client = mlflow.MlflowClient()
            run = find_run(client, run_key) or _create(client, run_key, experiment_name, store.artifact_location)
        active = mlflow.start_run(run_id=run.info.run_id)
    except (MlflowException, OSError) as error:  # OSError: the folder of a database or of the lock
        raise unusable_store(store.tracking_uri, error) from error
    status = "FAILED"
    try:
        if (changes := _git("status", "--porcelain")) is not None:
            client.set_tag(run.info.run_id, "seqtrack.git_dirty", str(changes != "").lower())
        yield TrackedRun(client, active)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        mlflow.end_run(status)


def list_artifacts(run_id: str, folder: str) -> list[str]:
    """Return the names of what lies in a folder of a run's artifacts, sorted.

    Raises:
        SeqtrackError: the store cannot be used, or has no such run.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    store = mlflow_store()
    mlflow.set_tracking_uri(store.tracking_uri)
    try:
        return sorted(Path(file.path).name for file in mlflow.MlflowClient().list_artifacts(run_id, folder))
    except (MlflowException, OSError) as error:
        raise SeqtrackError(
            f"MLflow cannot list {folder} of run {run_id} ({error})",
            where=store.tracking_uri,
            fix="check the run id, and MLFLOW_TRACKING_URI",
        ) from error


def download_artifacts(run_id: str, folder: str, files: Iterable[str], target: Path) -> None:
    """Copy files from a folder of a run's artifacts into an existing folder.

    Raises:
        SeqtrackError: the store cannot be used, or a file is not there.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    store = mlflow_store()
    mlflow.set_tracking_uri(store.tracking_uri)
    for file in files:
        try:
            mlflow.artifacts.download_artifacts(
                run_id=run_id, artifact_path=f"{folder}/{file}", dst_path=str(target / ".download")
            )
            next((target / ".download").rglob(file)).replace(target / file)
        except (MlflowException, OSError, StopIteration) as error:
            raise SeqtrackError(
                f"cannot get {folder}/{file} of run {run_id} from MLflow ({error})", where=store.tracking_uri
            ) from error
        finally:
            shutil.rmtree(target / ".download", ignore_errors=True)


def find_run(client: MlflowClient, run_key: str) -> Run | None:
    """Return the run of a run_key in any experiment, None where there is none."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.`{RUN_KEY_TAG}` = '{run_key}'", max_results=1)
    return runs[0] if runs else None


def _create(client: MlflowClient, run_key: str, experiment_name: str, artifact_location: str | None) -> Run:
    experiment = client.get_experiment_by_name(experiment_name)
    if experiment is not None:
        experiment_id = experiment.experiment_id
    else:
        experiment_id = client.create_experiment(experiment_name, artifact_location)
    of = dvc_experiment()
    tags = {
        RUN_KEY_TAG: run_key,
        "mlflow.source.name": "stages.train",
        "mlflow.source.git.commit": _git("rev-parse", "HEAD"),
        "dvc.exp_name": of.name,
        "dvc.exp_baseline_rev": of.baseline_revision,
    }
    return client.create_run(
        experiment_id, tags={key: value for key, value in tags.items() if value}, run_name=of.name or run_key[:10]
    )


def _git(*arguments: str) -> str | None:
    """Return what git says of the user's repository, None where there is no git or no commit."""
    try:
        done = subprocess.run(["git", "-C", str(root()), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
