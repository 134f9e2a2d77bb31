"""What MLflow runs when it serves a model: every probability of a text, not the score of one class alone.

Promises: the same answers as predict, for the same outputs; input that cannot be answered is refused with a reason,
which MLflow's server returns as a 400. This file travels inside the logged model and runs where the rest of this
package is not installed, so it imports nothing of it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from itertools import compress
from pathlib import Path
from typing import Any, NoReturn

import mlflow.transformers
import numpy as np
import numpy.typing as npt
import pandas as pd
from mlflow.exceptions import MlflowException

THRESHOLDS = Path("seqtrack") / "thresholds.json"  # class name to number; where it is absent, 0.5 holds for all
COLUMNS = ("text", "text_pair")


class _Model:
    """A text-classification pipeline that answers with all it knows."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._pipeline: Any = mlflow.transformers.load_model(str(folder))
        file = folder / THRESHOLDS
        self._thresholds: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        config = self._pipeline.model.config
        self._task: str = config.problem_type
        self._names: list[str] = [config.id2label[place] for place in range(len(config.id2label))]

    def predict(self, model_input: Any) -> pd.DataFrame:
        """Return an answer per row.

        Args:
            model_input: a text or a list of texts; for pairs a table, a list of objects or an object with `text` and
                `text_pair`.

        Returns:
            `label` (the class) and `probabilities` (by class name); in multi-label classification `labels` (names of
            the classes, perhaps none) and `probabilities`; in regression `score` (the number).

        Raises:
            MlflowException: the columns are others, or a text is no string or blank.
        """
        texts = _texts(model_input)
        found = self._pipeline(texts, top_k=None, function_to_apply="none", **self._settings) if texts else []
        logits = np.array([[scores[name] for name in self._names] for scores in map(_by_label, found)], np.float64)
        logits = logits.reshape(len(texts), len(self._names))
        if self._task == "regression":
            return pd.DataFrame({"score": logits[:, 0]})
        if self._task == "multi_label_classification":
            chances = _sigmoid(logits)
            limits = [self._thresholds.get(name, 0.5) for name in self._names]
            said = [list(compress(self._names, row)) for row in chances >= limits]
            return pd.DataFrame({"labels": said, "probabilities": self._named(chances)})
        winners = logits.argmax(axis=1) if texts else []
        label = [self._names[place] for place in winners]
        return pd.DataFrame({"label": label, "probabilities": self._named(_softmax(logits))})

    def _named(self, chances: npt.NDArray[np.float64]) -> list[dict[str, float]]:
        return [dict(zip(self._names, row, strict=True)) for row in chances.tolist()]


def _texts(model_input: Any) -> list[Any]:
    """Return rows as the pipeline takes them: texts, or objects with `text` and `text_pair`."""
    if isinstance(model_input, pd.DataFrame):
        if len(model_input.columns) == 1 and not isinstance(model_input.columns[0], str):  # a list of texts, in a table
            rows = list(model_input.iloc[:, 0])
        else:
            _check(model_input.columns)
            rows = model_input.to_dict("records")
    else:
        rows = [model_input] if isinstance(model_input, str | dict) else list(model_input)
    for place, row in enumerate(rows):
        parts = row if isinstance(row, dict) else {"text": row}
        _check(parts)
        for name, value in parts.items():
            if not isinstance(value, str):
                _refuse(f"row {place}: {name} is not a string: {str(value)[:40]}")
        if not any(value.strip() for value in parts.values()):
            _refuse(f"row {place}: no text")
    return rows


def _check(names: Iterable[Any]) -> None:
    known = list(names)
    for name in known:
        if name not in COLUMNS:
            near = difflib.get_close_matches(str(name), COLUMNS, n=1)
            _refuse(
                f"unknown column {name!r}{f' (did you mean {near[0]}?)' if near else ''}; known are text, text_pair"
            )
    if "text" not in known:
        _refuse("no column text")


def _refuse(reason: str) -> NoReturn:
    raise MlflowException.invalid_parameter_value(reason)


def _by_label(scores: list[dict[str, Any]]) -> dict[str, float]:
    return {score["label"]: score["score"] for score in scores}


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result


def _sigmoid(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    small = np.exp(-np.abs(logits))
    result: npt.NDArray[np.float64] = np.where(logits >= 0, 1, small) / (1 + small)
    return result


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> _Model:
    """Load a model that MLflow has put into a folder; MLflow finds this function by its name.

    Args:
        path: the folder.
        model_config: settings of the pipeline, as they were logged with the model.
    """
    return _Model(Path(path), model_config or {})
