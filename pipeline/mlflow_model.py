"""The trained model in MLflow's own format.

Promises: what is logged loads with `mlflow.transformers.load_model` and `mlflow.pyfunc.load_model`; pyfunc, and so
`mlflow models serve`, takes the columns `text` and, for pairs, `text_pair`, and returns what predict says: label and
every probability, all labels that reach their thresholds, or a number.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import mlflow
import transformers
from huggingface_hub import ModelCard
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Map, Schema, TensorSpec

from pipeline import served_sets
from pipeline.decisions import THRESHOLDS
from pipeline.labels import ProblemType
from pipeline.modeling import quiet_transformers, trusts_code
from pipeline.outputs import read_manifest

# What the transformers flavour leaves out of a model folder, beside the model, so that the folder can be made again.
OWN_FOLDER = "seqtrack"
OWN_FILES = ("manifest.json", "labels.json", "columns.json", "thresholds.json")
SINGLE: Final = "single_label_classification"  # what a model is whose configuration does not say
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
        given = {"text": example} if isinstance(example, str) else example
        logged = Model.log(
            artifact_path=None,
            flavor=_Flavor(folder),
            transformers_model=classifier,
            name="model",
            task="text-classification",
            model_card=ModelCard(_card(metadata)),
            signature=_signature(given, classifier.model.config.problem_type or SINGLE),
            input_example=given,
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


class _Flavor:
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


def _signature(example: Mapping[str, str], task: ProblemType) -> ModelSignature:
    """Return what goes in, a string per column of the example, and what comes out, by task."""
    probabilities = ColSpec(Map(DataType.double), "probabilities")
    outputs: dict[ProblemType, list[ColSpec | TensorSpec]] = {
        SINGLE: [ColSpec("string", "label"), probabilities],
        "multi_label_classification": [ColSpec(Array(DataType.string), "labels"), probabilities],
        "regression": [ColSpec("double", "score")],
    }
    inputs = Schema([ColSpec("string", name) for name in example])
    return ModelSignature(inputs=inputs, outputs=Schema(outputs[task]))


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
