"""What MLflow runs when it serves a multi-label model: all classes of a text instead of the most probable one.

Promises: the same classes as predict, for the same outputs. This file travels inside the logged model and runs where
the rest of this package is not installed, so it imports nothing of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow.transformers
import numpy as np
import pandas as pd

THRESHOLDS = Path("seqtrack") / "thresholds.json"  # class name to number; where it is absent, 0.5 holds for all


class _Classifier:
    """A text-classification pipeline with thresholds."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._pipeline: Any = mlflow.transformers.load_model(str(folder))
        file = folder / THRESHOLDS
        self._thresholds: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        id2label = self._pipeline.model.config.id2label
        self._names: list[str] = [id2label[place] for place in range(len(id2label))]

    def predict(self, model_input: Any) -> pd.DataFrame:
        """Return `labels` (names of the classes, perhaps none) and `probabilities` (by class name) for each row.

        Args:
            model_input: a text or a list of texts; for pairs a table with the columns `text` and `text_pair`.
        """
        found = self._pipeline(_texts(model_input), top_k=None, function_to_apply="none", **self._settings)
        rows = []
        for scores in found:
            logits = {score["label"]: score["score"] for score in scores}
            chances = {name: float(_sigmoid(logits[name])) for name in self._names}
            chosen = [name for name, chance in chances.items() if chance >= self._thresholds.get(name, 0.5)]
            rows.append({"labels": chosen, "probabilities": chances})
        return pd.DataFrame(rows, columns=["labels", "probabilities"])


def _texts(model_input: Any) -> list[Any]:
    if isinstance(model_input, pd.DataFrame):
        return list(model_input.to_dict("records") if "text" in model_input else model_input.iloc[:, 0])
    return [model_input] if isinstance(model_input, str | dict) else list(model_input)


def _sigmoid(logit: float) -> np.float64:
    small = np.exp(-np.abs(np.float64(logit)))
    result: np.float64 = 1 / (1 + small) if logit >= 0 else small / (1 + small)
    return result


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> _Classifier:
    """Load a model that MLflow has put into a folder; MLflow finds this function by its name.

    Args:
        path: the folder.
        model_config: settings of the pipeline, as they were logged with the model.
    """
    return _Classifier(Path(path), model_config or {})
