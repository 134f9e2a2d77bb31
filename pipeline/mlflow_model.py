"""The trained model in MLflow's own format.

Promises: what is logged loads with `mlflow.transformers.load_model` and `mlflow.pyfunc.load_model`, takes texts or text
pairs, and returns label and score; with several labels, pyfunc returns all of them that reach their thresholds, and
every probability.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import transformers
from huggingface_hub import ModelCard
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Map, Schema

from pipeline import served_sets
from pipeline.decisions import THRESHOLDS
from pipeline.modeling import quiet_transformers, trusts_code
from pipeline.outputs import read_manifest

# What the transformers flavour leaves out of a model folder, beside the model, so that the folder can be made again.
OWN_FOLDER = "seqtrack"
OWN_FILES = ("manifest.json", "labels.json", "columns.json", "thresholds.json")
REQUIREMENTS = ("torch", "transformers", "tokenizers", "safetensors", "numpy")


def log_transformers_model(
    run_id: str, folder: Path, example: str | dict[str, str], metadata: Mapping[str, str]
) -> str:
    """Log a model folder to a run.

    Args:
        run_id: the active run.
        folder: what train wrote, with its manifest.
        example: a text, or `{"text": ..., "text_pair": ...}` where the model reads pairs.
        metadata: facts to store with the model.

    Returns:
        The model's URI.
    """
    with quiet_transformers(), _quiet_remarks():
        # Absolute, or MLflow would take a relative path like data/model for somebody's repository on the hub.
        classifier = transformers.pipeline(
            "text-classification",
            model=str(folder.resolve()),
            device="cpu",
            trust_remote_code=trusts_code(read_manifest(folder)),
        )
        sets = classifier.model.config.problem_type == "multi_label_classification"
        logged = Model.log(
            artifact_path=None,
            flavor=_SetsFlavor(folder) if sets else mlflow.transformers,
            transformers_model=classifier,
            name="model",
            task="text-classification",
            model_card=ModelCard(_card(metadata)),
            signature=_signature(example, sets=sets),
            input_example=example,
            # The pyfunc flavour cuts long texts where training did, instead of failing on them.
            model_config={"truncation": True},
            # Named here: left to itself MLflow finds them by loading the model in another process, which takes longer
            # than training a small one.
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
            metadata={"run_id": run_id, **metadata},
        )
    for name in OWN_FILES:
        if (folder / name).is_file():
            mlflow.MlflowClient().log_model_artifact(logged.model_id, str(folder / name), OWN_FOLDER)
    return str(logged.model_uri)


class _SetsFlavor:
    """MLflow's transformers flavour, but that pyfunc runs `pipeline.served_sets`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save_model(self, path: str, mlflow_model: Model, **settings: Any) -> None:
        """Write a model as MLflow asks its flavours to."""
        code = [str(Path(served_sets.__file__))]
        mlflow.transformers.save_model(path=path, mlflow_model=mlflow_model, code_paths=code, **settings)
        if (self._folder / THRESHOLDS).is_file():
            (Path(path) / OWN_FOLDER).mkdir()
            shutil.copyfile(self._folder / THRESHOLDS, Path(path) / OWN_FOLDER / THRESHOLDS)
        mlflow_model.flavors["python_function"]["loader_module"] = Path(served_sets.__file__).stem
        mlflow_model.save(str(Path(path) / "MLmodel"))


def _signature(example: str | dict[str, str], *, sets: bool) -> ModelSignature:
    """Return what goes in, strings, and what comes out: label and score, or sets of labels and all probabilities."""
    names = [None] if isinstance(example, str) else list(example)
    outputs = Schema([ColSpec("string", "label"), ColSpec("double", "score")])
    if sets:
        outputs = Schema([ColSpec(Array(DataType.string), "labels"), ColSpec(Map(DataType.double), "probabilities")])
    return ModelSignature(inputs=Schema([ColSpec("string", name) for name in names]), outputs=outputs)


def _card(metadata: Mapping[str, str]) -> str:
    """Return a minimal model card: MLflow fetches one from the hub when given none."""
    facts = "".join(f"- {name}: {value}\n" for name, value in sorted(metadata.items()))
    return f"---\nlibrary_name: transformers\npipeline_tag: text-classification\n---\n# Text classifier\n\n{facts}"


@contextmanager
def _quiet_remarks() -> Iterator[None]:
    """Silence MLflow's warning that it found no licence on the hub for a model that never was there.

    And transformers', an error by name, that it does not know the user's own class; the pipeline works all the same.
    """
    silenced = {"mlflow.transformers": logging.ERROR, "transformers.pipelines.base": logging.CRITICAL}
    loggers = {logging.getLogger(name): level for name, level in silenced.items()}
    before = {logger: logger.level for logger in loggers}
    for logger, level in loggers.items():
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
