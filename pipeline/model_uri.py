"""From the name of a trained model (a folder, `runs:/...`, `models:/...`) to a model that is ready to classify.

Promises: what comes from MLflow classifies like the folder it was logged from, with the same digest.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.columns import Columns, read_columns
from pipeline.errors import SeqtrackError
from pipeline.inference import Classifier
from pipeline.mlflow_model import OWN_FOLDER
from pipeline.outputs import MANIFEST
from pipeline.paths import COLUMNS, mlflow_store
from pipeline.tracking import MODEL_TAG

_URI: Final = re.compile(r"(runs|models):/+.+")
# Where MLflow's transformers flavour puts weights and tokenizer.
_PARTS: Final = ("model", "components/tokenizer", OWN_FOLDER)


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A model and what it was trained on.

    Attributes:
        classifier: ready to classify.
        columns: the columns of its training data; None where that is not known.
    """

    classifier: Classifier
    columns: Columns | None


def load_model(name: str) -> TrainedModel:
    """Load a trained model.

    Args:
        name: a folder that train wrote; `runs:/<run_id>`, a training's model in MLflow; `models:/<name>/<version>`,
            `models:/<name>@<alias>` or `models:/<model_id>`.

    Raises:
        SeqtrackError: there is no such folder, run or model, or the model was not logged by this project.
    """
    if not _URI.fullmatch(name):
        return _loaded(Path(name))
    with tempfile.TemporaryDirectory() as place:
        downloaded = _download(name, Path(place))
        folder = Path(place) / "whole"
        for part in _PARTS:
            if (downloaded / part).is_dir():
                shutil.copytree(downloaded / part, folder, dirs_exist_ok=True)
        if not (folder / MANIFEST).is_file():
            raise SeqtrackError(
                "this model was not logged by this project, or by an earlier version", where=name, fix="train it again"
            )
        return _loaded(folder)


def _loaded(folder: Path) -> TrainedModel:
    return TrainedModel(classifier=Classifier.load(folder), columns=read_columns(folder / COLUMNS.name))


def _download(name: str, place: Path) -> Path:
    import mlflow
    from mlflow.exceptions import MlflowException

    store = mlflow_store()
    mlflow.set_tracking_uri(store.tracking_uri)
    try:
        uri = name
        if name.startswith("runs:"):
            run_id = name.removeprefix("runs:").strip("/").split("/")[0]
            uri = mlflow.MlflowClient().get_run(run_id).data.tags.get(MODEL_TAG, "")
            if not uri:
                raise SeqtrackError("this run has no model: its training has not ended", where=name)
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(place / "downloaded")))
    except (MlflowException, OSError) as error:
        raise SeqtrackError(
            f"MLflow does not give this model ({error})",
            where=f"{name} in {store.tracking_uri}",
            fix="check the id, and MLFLOW_TRACKING_URI",
        ) from error
