"""docs/custom_parts.md does what it says: its files and its configuration, from training to evaluation."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from sklearn.metrics import cohen_kappa_score
from transformers import AutoModelForSequenceClassification
from transformers.models.auto import modeling_auto

from pipeline import fine_tuning
from pipeline.callbacks import own_callbacks
from pipeline.errors import SeqtrackError
from pipeline.evaluation import evaluate_splits
from pipeline.inference import Classifier
from pipeline.metrics import own_metrics
from pipeline.modeling import own_model_class
from pipeline.outputs import read_manifest
from pipeline.paths import LABELS, MODEL, ROWS, SPLITS, TOKENIZED, state
from pipeline.tokens import TokenStore
from tests.test_fine_tuning import base, complaint, encoder, latest_run, no_model, train, work
from tests.toy import LABELS as THREE
from tests.toy import REPOSITORY, recipe
from tests.world import SETTINGS

__all__ = ["encoder", "no_model", "work"]  # fixtures
TEXT = (REPOSITORY / "docs" / "custom_parts.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# (custom/\w+\.py)\n(.*?)```", TEXT, re.DOTALL))
CONFIGURATION = YAML(typ="safe").load(re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[1])["train"]  # type: ignore[index]


@pytest.fixture
def documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The document's files, as the user's folder."""
    home = tmp_path / "user"
    for name, text in FILES.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    (home / "custom" / "__init__.py").write_text("")
    (home / "custom" / "wrong.py").write_text(
        "from transformers import BertForSequenceClassification\n"
        "from .models import MeanPooled\n"
        "class Plain: pass\n"
        "class Ids(MeanPooled):\n"
        "    def forward(self, ids): pass\n"
        "class Vectors(MeanPooled):\n"
        "    def forward(self, input_ids, attention_mask, token_type_ids=None):\n"
        "        return self.bert(input_ids, attention_mask=attention_mask)\n"
        "def accuracy(logits, labels): return 1.0\n"
        "def undefined(logits, labels): return float('nan')\n"
        "def pair(logits): return 1.0\n"
    )
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    forget()
    registered = dict(modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING._extra_content)
    yield home
    forget()
    modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING._extra_content = registered


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "custom"]:
        del sys.modules[name]


def custom(**parts: Any) -> dict[str, Any]:
    return recipe().custom.model_dump() | parts


def test_the_document_has_all_parts() -> None:
    assert {name.removeprefix("custom/").removesuffix(".py") for name in FILES} == {
        "losses",
        "metrics",
        "optimizers",
        "callbacks",
        "models",
    }


def test_from_training_to_evaluation(
    work: Path, encoder: Path, documented: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = CONFIGURATION | {"custom": custom(**CONFIGURATION["custom"])}
    train(base(encoder), num_train_epochs=10, learning_rate=1e-2, layerwise_lr_decay=0.9, **changes)
    assert "not supported" not in capsys.readouterr().err  # what transformers has to say of a class it does not know
    manifest = read_manifest(MODEL)
    assert manifest["own_code"] == "custom.models:MeanPooled"
    assert manifest["params"]["train"]["custom"]["loss"] == "custom.losses:FocalLoss"
    assert "models.py" in manifest["files"]
    scores = latest_run().data.metrics
    assert Path("latest_score.txt").read_text() == f"step 50: {scores['validation/accuracy']:.4f}\n"
    assert "validation/cohen_kappa" in scores
    assert scores["train/loss"] < 0.2
    logged = mlflow.pyfunc.load_model(latest_run().data.tags["seqtrack.model_uri"])
    assert set(logged.predict([{"text": "great film"}])["label"]) <= {"bad", "good", "other"}

    # The model loads without the user's folder; only the metric needs it.
    (documented / "custom" / "models.py").unlink()
    forget()
    classifier = Classifier.load(MODEL)
    assert type(classifier.model).__name__ == "MeanPooled"
    anywhere = AutoModelForSequenceClassification.from_pretrained(MODEL, trust_remote_code=True, dtype=torch.float32)
    ids = torch.arange(5, 9)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(anywhere.eval()(**inputs).logits, classifier.model(**inputs).logits)
    found = evaluate_splits(
        classifier,
        TokenStore.open(TOKENIZED),
        splits=SPLITS,
        rows=ROWS,
        labels=LABELS,
        evaluate=SETTINGS,
    )
    for split in found.splits:
        expected = cohen_kappa_score(split.targets, split.logits.argmax(axis=1), weights="quadratic")
        scores = found.metrics()[split.split]
        assert scores["cohen_kappa"] == pytest.approx(expected)
        assert scores["cohen_kappa_low"] <= scores["cohen_kappa"] <= scores["cohen_kappa_high"]


def test_other_sources_are_another_training(work: Path, encoder: Path, documented: Path) -> None:
    changes = {"custom": custom(loss="custom.losses:FocalLoss"), "num_train_epochs": 1}
    train(base(encoder), **changes)
    before = read_manifest(MODEL)["run_key"]
    shutil.rmtree(MODEL)
    train(base(encoder), **changes)
    assert read_manifest(MODEL)["run_key"] == before
    (documented / "custom" / "losses.py").write_text(FILES["custom/losses.py"].replace("gamma = 2.0", "gamma = 5.0"))
    forget()
    shutil.rmtree(MODEL)
    train(base(encoder), **changes)
    assert read_manifest(MODEL)["run_key"] != before
    assert len(list((state() / "checkpoints").iterdir())) == 2


@pytest.mark.usefixtures("work", "no_model", "documented")
@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        (
            {"model": "custom.wrong:Plain"},
            "custom.model: custom.wrong:Plain is no model class of your own; expected a cl",
        ),
        (
            {"model": "custom.wrong:BertForSequenceClassification"},
            "custom.model: custom.wrong:BertForSequenceClassificat",
        ),
        (
            {"model": "custom.wrong:Ids"},
            "custom.model: custom.wrong:Ids has the wrong parameters (missing a required arg",
        ),
        ({"loss": "custom.losses:Focal"}, "custom.loss: custom.losses has no Focal (did you mean FocalLoss?); found"),
        ({"optimizer": "custom.losses:FocalLoss"}, "custom.optimizer: custom.losses:FocalLoss"),
        ({"metrics": ["custom.wrong:accuracy"]}, "custom.metrics: accuracy is a built-in metric; give it another name"),
        (
            {"metrics": ["custom.wrong:pair"]},
            "custom.metrics: custom.wrong:pair has the wrong parameters (too many posit",
        ),
        (
            {"callbacks": ["custom.wrong:Plain"]},
            "custom.callbacks: custom.wrong:Plain is no callback; expected a class d",
        ),
        (
            {"callbacks": ["custom.nowhere:Plain"]},
            "custom.callbacks: cannot import custom.nowhere (ModuleNotFoundError",
        ),
    ],
)
def test_mistakes_before_the_model_is_loaded(encoder: Path, parts: dict[str, Any], problem: str) -> None:
    assert complaint(base(encoder), custom=custom(**parts)).startswith(f"params.yaml: train.{problem}")


@pytest.mark.usefixtures("work", "documented")
def test_a_model_without_logits(encoder: Path) -> None:
    message = complaint(base(encoder), custom=custom(model="custom.wrong:Vectors"))
    assert message.startswith(
        "params.yaml: train.custom.model: Vectors gives no score per class; expected an output with"
    )


@pytest.mark.usefixtures("work", "no_model", "documented")
def test_the_direction_of_ones_own_metric_must_be_said(encoder: Path) -> None:
    message = complaint(
        base(encoder), custom=custom(metrics=["custom.metrics:cohen_kappa"]), metric_for_best_model="cohen_kappa"
    )
    assert message.startswith(
        "params.yaml: train.greater_is_better: is cohen_kappa better when higher?; expected true or"
    )


@pytest.mark.usefixtures("documented")
def test_a_metric_must_be_finite() -> None:
    (metric,) = own_metrics(["custom.wrong:undefined"], THREE)
    with pytest.raises(SeqtrackError, match=r"the metric undefined gives no finite number; found nan for 2 rows"):
        metric(np.zeros((2, 3), np.float32), np.zeros(2, np.int64))


@pytest.mark.usefixtures("documented")
def test_nothing_of_ones_own_and_objects_are_made_late() -> None:
    assert own_model_class(None) is None
    assert own_callbacks([]) == ()
    (make,) = own_callbacks(["custom.callbacks:LatestScore"])
    assert make() is not make()
    assert fine_tuning.own_callbacks is own_callbacks
