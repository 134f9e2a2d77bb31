"""The trained model in MLflow's own format.

Promises: what is logged loads with `mlflow.transformers.load_model` and `mlflow.pyfunc.load_model`, takes texts or text
pairs, and returns label and score.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import mlflow
import transformers
from huggingface_hub import ModelCard
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, Schema

from pipeline.modeling import quiet_transformers, trusts_code
from pipeline.outputs import read_manifest

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
        logged = mlflow.transformers.log_model(
            classifier,
            name="model",
            task="text-classification",
            model_card=ModelCard(_card(metadata)),
            signature=_signature(example),
            input_example=example,
            # The pyfunc flavour cuts long texts where training did, instead of failing on them.
            model_config={"truncation": True},
            # Named here: left to itself MLflow finds them by loading the model in another process, which takes longer
            # than training a small one.
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
            metadata={"run_id": run_id, **metadata},
        )
    return str(logged.model_uri)


def _signature(example: str | dict[str, str]) -> ModelSignature:
    """Return the signature of a text-classification pipeline: strings in, label and score out."""
    names = [None] if isinstance(example, str) else list(example)
    return ModelSignature(
        inputs=Schema([ColSpec("string", name) for name in names]),
        outputs=Schema([ColSpec("string", "label"), ColSpec("double", "score")]),
    )


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
