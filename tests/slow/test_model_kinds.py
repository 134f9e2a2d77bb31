"""Export and model card for each kind of task, and for architectures without token types."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from pipeline.encoding import Encoder
from pipeline.exporting import export_model
from pipeline.inference import Classifier
from pipeline.labels import LabelSet, ProblemType
from pipeline.model_card import card
from pipeline.onnx_export import onnx_model
from pipeline.outputs import read_json
from pipeline.params import Export
from pipeline.paths import MODEL, ONNX, REPORTS, ROWS, SPLITS, TOKENIZED
from pipeline.trained import read_trained
from tests.tiny import save_tiny_encoder
from tests.whole_run import NAMES, whole_run

pytestmark = pytest.mark.slow
SMALL: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "pad_token_id": 0,
}
DISTIL: dict[str, Any] = {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "pad_token_id": 0}
IDS: dict[str, Any] = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}


@pytest.mark.parametrize(
    ("task", "pairs"),
    [("single_label_classification", True), ("multi_label_classification", False), ("regression", True)],
)
def test_every_task(task: ProblemType, pairs: bool, mlflow_root: Path, tmp_path: Path) -> None:
    with whole_run(tmp_path / "work", mlflow_root, task, pairs=pairs) as params:
        settings = Export(format="onnx", int8=True, tolerance=1e-3)
        export_model(
            MODEL, ONNX, REPORTS / "export.json", tokenized=TOKENIZED, splits=SPLITS, rows=ROWS, export=settings
        )
        formats = read_json(REPORTS / "export.json")["formats"]
        assert formats["onnx"]["largest_logit_difference"] < 1e-4
        assert formats["onnx"]["label_agreement"] == (None if task == "regression" else 1.0)
        assert formats["onnx"]["metrics"] == pytest.approx(formats["pytorch"]["metrics"], abs=1e-4)
        assert (ONNX / "thresholds.json").exists() == (task == "multi_label_classification")

        content = card(read_trained(MODEL, REPORTS), params.register_)
        (example,) = re.findall(r"```python\n(.*?)```", content, re.DOTALL)
        assert ("text_pair" in example) == pairs
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(example, {})
        if task == "regression":
            assert abs(float(said.getvalue())) < 100
            assert "gives a pair of texts a number" in content
        elif task == "multi_label_classification":
            assert set(eval(said.getvalue())) <= {*NAMES, "none"}
            assert "| threshold |" in content
        else:
            assert eval(said.getvalue())["label"] in NAMES


@pytest.mark.parametrize(
    ("make", "config"),
    [
        (DistilBertForSequenceClassification, DistilBertConfig(**DISTIL)),
        (RobertaForSequenceClassification, RobertaConfig(**SMALL | {"pad_token_id": 0})),
        (ModernBertForSequenceClassification, ModernBertConfig(**SMALL, **IDS)),
    ],
)
def test_architectures_without_token_types(make: Any, config: Any, tmp_path: Path) -> None:
    save_tiny_encoder(tmp_path / "encoder", ["great awful film"])
    encoder = Encoder.load(tmp_path / "encoder", 32)
    encoder.has_token_types = False
    torch.manual_seed(0)
    model = make(config).eval()
    labels = LabelSet(problem_type="single_label_classification", names=("bad", "good"))
    onnx_model(Classifier(model=model, encoder=encoder, labels=labels, digest="", run_key=""), tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["input_ids", "attention_mask"]
    for lengths in ([1], [7, 3], [20, 20, 1]):
        batch = encoder.padding.batch([[5] * length for length in lengths], None, multiple_of=1)
        with torch.no_grad():
            theirs = model(**batch).logits.numpy()
        (ours,) = session.run(None, {name: np.asarray(tensor) for name, tensor in batch.items()})
        assert ours == pytest.approx(theirs, abs=1e-5)
