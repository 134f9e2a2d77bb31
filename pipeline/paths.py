"""Where things lie: the only module besides `params` that reads the environment.

Promises: paths inside `data/` are relative to the working folder (DVC runs stages in the repository or in a throwaway
copy of it), while everything that must outlive such a copy (MLflow store, checkpoints, timings) is absolute and hangs
off the repository that the user works in.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

DATA = Path("data")
FETCHED = DATA / "fetched"
VALIDATED = DATA / "validated"
ROWS = VALIDATED / "rows.parquet"
LABELS = VALIDATED / "labels.json"
COLUMNS = VALIDATED / "columns.json"
REJECTED = VALIDATED / "rejected.jsonl"
SPLITS = DATA / "splits"
VOCABULARY = DATA / "vocabulary"
TOKENIZED = DATA / "tokenized"
MODEL = DATA / "model"
REPORTS = DATA / "reports"
PREDICTIONS = DATA / "predictions"
ONNX = DATA / "onnx"
PARAMS_FILE = Path("params.yaml")
PRESETS = Path("presets")

SPLIT_NAMES = ("train", "validation", "test")


def root() -> Path:
    """Return the user's repository, absolute.

    Inside `dvc exp run --temp` and `--queue` the working folder is a copy that DVC deletes afterwards; DVC names the
    parent repository in `DVC_ROOT`. Elsewhere it is the nearest folder at or above the working folder with a dvc.yaml,
    or the working folder itself when there is none.
    """
    if parent := os.environ.get("DVC_ROOT"):
        return Path(parent).resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    return here


def state() -> Path:
    """Return the folder for what is neither data nor code: checkpoints, timings, caches; outside DVC's outputs."""
    return root() / ".seqtrack"


def compile_choice(run_key: str) -> Path:
    """Return the file that says whether a training is compiled, see `pipeline.compile_choice`."""
    return state() / "compile" / f"{run_key}.json"


def checkpoints(run_key: str) -> Path:
    """Return the folder that holds the checkpoints of one run_key."""
    return state() / "checkpoints" / run_key


@dataclass(frozen=True, kw_only=True)
class MlflowStore:
    """Where MLflow keeps runs and artifacts.

    Attributes:
        tracking_uri: an MLflow tracking URI.
        artifact_location: the artifact root for a new experiment, or None when the server behind the URI decides.
    """

    tracking_uri: str
    artifact_location: str | None

    @property
    def is_local_database(self) -> bool:
        """Whether the store is a SQLite file of ours, whose first use must be serialised between processes."""
        return self.tracking_uri.startswith("sqlite:")


def mlflow_store() -> MlflowStore:
    """Return the MLflow store: `MLFLOW_TRACKING_URI` where set, else SQLite and a folder in the user's repository."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return MlflowStore(tracking_uri=uri, artifact_location=None)
    home = root()
    return MlflowStore(
        tracking_uri=f"sqlite:///{home / 'mlflow.db'}", artifact_location=(home / "mlartifacts").as_uri()
    )


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What DVC says about the experiment that a stage runs in; None for a plain `dvc repro`."""

    name: str | None
    baseline_revision: str | None


def dvc_experiment() -> Experiment:
    """Return the DVC experiment this process belongs to."""
    return Experiment(
        name=os.environ.get("DVC_EXP_NAME") or None,
        baseline_revision=os.environ.get("DVC_EXP_BASELINE_REV") or None,
    )


def hub_offline() -> bool:
    """Return whether the user forbade network access to the Hugging Face hub (`HF_HUB_OFFLINE`)."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "ON", "YES", "TRUE"}


def hub_endpoint() -> str:
    """Return the hub in use: `HF_ENDPOINT`, or the public one."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def become_launcher(folder: Path, *, use_cpu: bool) -> None:
    """Tell the processes that this one will start where to leave the reason when they fail, and what to train on."""
    os.environ["SEQTRACK_FAILURES"] = str(folder)
    # Seconds that torch's agent gives the others to stop when one has failed, before it kills them.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "20")
    if use_cpu:  # which accelerate itself passes on to a single process alone
        os.environ["ACCELERATE_USE_CPU"] = "true"


def ask_for_large_pages() -> None:
    """Have PyTorch lay large tensors in large pages, in this process and those it starts, unless the user decided.

    PyTorch looks at this when it makes its first tensor.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def failures() -> Path | None:
    """Return the folder in which the launcher of this process looks for failures, None without our launcher."""
    folder = os.environ.get("SEQTRACK_FAILURES")
    return Path(folder) if folder else None


def rank() -> int:
    """Return this process's number among those of a training; 0 where it is alone."""
    return int(os.environ.get("RANK", "0"))
