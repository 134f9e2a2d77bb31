"""The train stage: mistakes before the model is loaded, outputs that are whole and the same every time."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate import DistributedType
from transformers import pipeline

from pipeline import fine_tuning
from pipeline.columns import Columns, write_columns
from pipeline.errors import SeqtrackError
from pipeline.fine_tuning import fine_tune
from pipeline.identity import Training
from pipeline.inference import Classifier
from pipeline.labels import LabelSet
from pipeline.outputs import folder_digest, read_manifest, write_manifest
from pipeline.params import Model, Tokenize, Tracking
from pipeline.paths import COLUMNS, LABELS, MODEL, REPORTS, ROWS, SPLITS, TOKENIZED, VALIDATED, state
from pipeline.rows import write_parquet
from pipeline.tokenization import tokenize_rows
from tests.canonical import Row, table
from tests.tiny import save_tiny_encoder
from tests.toy import FILLER, WORDS, accelerator, recipe

NAMES = ("bad", "good", "other")
SINGLE = LabelSet(problem_type="single_label_classification", names=NAMES)
# What train says of processes with divided weights: their kind, FSDP's version, precision, changes to the recipe.
DIVIDED: dict[str, tuple[DistributedType, int, str, dict[str, Any]]] = {
    "launch.config_file: train cannot save or resume what DEEPSPEED": (DistributedType.DEEPSPEED, 0, "no", {}),
    "launch.config_file: train does not do the first FSDP": (DistributedType.FSDP, 1, "no", {}),
    "launch.mixed_precision: fp16 does not go with FSDP2": (DistributedType.FSDP, 2, "fp16", {}),
    "train.auto_find_batch_size: does not go with FSDP2": (
        DistributedType.FSDP,
        2,
        "no",
        {"auto_find_batch_size": True},
    ),
}
TRACKING = Tracking(experiment_name="fine-tuning")


def rows(count: int = 36) -> list[Row]:
    generator = np.random.default_rng(2)
    return [
        Row(
            " ".join([generator.choice(WORDS[index % 3]), *generator.choice(FILLER, size=3), str(index)]),
            label=None if index % 12 == 11 else NAMES[index % 3],
        )
        for index in range(count)
    ]


def write_split(name: str, ids: list[str]) -> None:
    write_parquet(pa.table({"row_id": pa.array(ids, pa.string())}), SPLITS / f"{name}.parquet")


def prepare(model: Path, labels: LabelSet = SINGLE, content: pa.Table | None = None) -> None:
    """Write what the stages before train write, into the working folder."""
    for folder in (VALIDATED, SPLITS):
        folder.mkdir(parents=True, exist_ok=True)
    content = table(rows()) if content is None else content
    write_parquet(content, ROWS)
    labels.write(LABELS)
    write_columns(COLUMNS, Columns(text="text", text_pair=None, label="label", split=None))
    ids = content["row_id"].to_pylist()
    for name, chosen in (("train", ids[:20]), ("validation", ids[20:29]), ("test", ids[29:])):
        write_split(name, chosen)
    write_manifest(SPLITS, inputs={}, params={}, rows={"train": 20, "validation": 9, "test": 7})
    tokenize_rows(ROWS, TOKENIZED, REPORTS, Tokenize(max_length=16), base(model))


def base(folder: Path, *, trusted: bool = False) -> Model:
    return Model(name_or_path=str(folder), revision=None, trust_remote_code=trusted)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    save_tiny_encoder(folder, [word for group in (*WORDS, FILLER) for word in group])
    return folder


@pytest.fixture
def work(mlflow_root: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with everything train reads; no checkpoints of other tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(mlflow_root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    accelerator()
    prepare(encoder)
    yield tmp_path
    shutil.rmtree(state() / "checkpoints", ignore_errors=True)


def train(model: Model, **changes: Any) -> None:
    accelerator()  # forgets the settings of the training before
    fine_tune(recipe(**changes), model, TRACKING, {"train.seed": 1})


def latest_run() -> Any:
    client = mlflow.MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'fine-tuning'")
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])[0]


def files(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a model would be loaded: mistakes must come to light before."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("loaded the model")

    monkeypatch.setattr(fine_tuning, "load_classifier", refuse)


def complaint(model: Model, **changes: Any) -> str:
    with pytest.raises(SeqtrackError) as caught:
        train(model, **changes)
    assert "\n" not in str(caught.value)
    assert not MODEL.exists()
    return str(caught.value)


@pytest.mark.usefixtures("work", "no_model")
class TestMistakesBeforeTheModelIsLoaded:
    def test_a_misspelt_metric(self, encoder: Path) -> None:
        assert complaint(base(encoder), metric_for_best_model="f1_makro").startswith(
            "params.yaml: train.metric_for_best_model: unknown metric (did you mean f1_macro?); "
            "expected one of accuracy, precision_macro,"
        )

    def test_a_metric_of_two_classes_with_three(self, encoder: Path) -> None:
        assert "unknown metric" in complaint(base(encoder), metric_for_best_model="f1")

    @pytest.mark.parametrize("split", ["train", "validation"])
    def test_an_empty_split(self, encoder: Path, split: str) -> None:
        write_split(split, [])
        message = complaint(base(encoder))
        assert message.startswith(f"data/splits/{split}.parquet: the {split} split has no labelled rows")
        assert f"raise split.ratios.{split}" in message

    def test_a_split_without_labels(self, encoder: Path) -> None:
        write_split("validation", [table(rows())["row_id"].to_pylist()[11]])
        assert "the validation split has no labelled rows" in complaint(base(encoder))

    def test_splits_of_other_rows(self, encoder: Path) -> None:
        write_split("train", ["f" * 32])
        assert "data/splits: splits and validated rows do not belong together" in complaint(base(encoder))

    def test_tokens_of_other_rows(self, work: Path, encoder: Path) -> None:
        write_parquet(table(rows()[:5]), work / "few.parquet")
        tokenize_rows(work / "few.parquet", TOKENIZED, REPORTS, Tokenize(max_length=16), base(encoder))
        assert "has no tokens" in complaint(base(encoder))

    @pytest.mark.parametrize("gone", [LABELS, ROWS, SPLITS / "train.parquet", TOKENIZED / "manifest.json"])
    def test_missing_inputs(self, encoder: Path, gone: Path) -> None:
        gone.unlink()
        assert f"{gone}: file not found; run `dvc repro`" in complaint(base(encoder))

    def test_a_model_that_is_not_there(self) -> None:
        assert "no folder ./nowhere" in complaint(
            Model(name_or_path="./nowhere", revision=None, trust_remote_code=False)
        )

    def test_fp16_without_a_gpu(self, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
        monkeypatch.setattr(fine_tuning.torch.accelerator, "is_available", lambda: False)
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
        with pytest.raises(SeqtrackError, match=r"launch.mixed_precision: fp16 needs a GPU; set it to bf16 or no"):
            fine_tune(recipe(), base(encoder), TRACKING, {})

    @pytest.mark.parametrize("mistake", DIVIDED)
    def test_divided_weights(self, encoder: Path, monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
        kind, version, precision, changes = DIVIDED[mistake]
        processes = SimpleNamespace(
            distributed_type=kind,
            mixed_precision=precision,
            device=torch.device("cuda"),
            is_fsdp2=(kind, version) == (DistributedType.FSDP, 2),
        )
        monkeypatch.setattr(fine_tuning, "Accelerator", lambda **_: processes)
        assert mistake in complaint(base(encoder), **changes)


def test_outputs_and_the_run(work: Path, encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(base(encoder), num_train_epochs=15, learning_rate=1e-2)
    manifest = read_manifest(MODEL)
    assert manifest["inputs"] == {"tokenized": folder_digest(TOKENIZED), "splits": folder_digest(SPLITS)}
    # Rows 11 and 23 of the train and validation splits have no label.
    assert manifest["rows"] == {"train": 19, "validation": 8}
    assert manifest["params"]["train"]["learning_rate"] == 1e-2
    assert manifest["params"]["model"]["trust_remote_code"] is False
    assert manifest["max_length"] == 16
    training = Training.from_json({name: manifest[name] for name in ("run_key", "identity")}, str(MODEL))
    assert training.identity.run_key() == training.run_key  # what it was made from, for `make lineage`
    assert {"model.safetensors", "config.json", "tokenizer.json", "labels.json"} <= manifest["files"].keys()

    classifier = Classifier.load(MODEL)
    assert classifier.labels.names == NAMES
    assert classifier.run_key == manifest["run_key"]
    with (REPORTS / "history.csv").open() as stream:
        history = list(csv.DictReader(stream))
    classify = pipeline("text-classification", str(MODEL), device="cpu")
    validation = [row for row in rows()[20:29] if row.label is not None]
    said = [found["label"] for found in classify([row.text for row in validation])]
    hits = sum(label == row.label for label, row in zip(said, validation, strict=True))
    best = max(history, key=lambda line: float(line["eval_f1_macro"]))  # the first of equals
    assert hits / len(validation) == float(best["eval_accuracy"]) > 1 / 3

    with (REPORTS / "training_curve.csv").open() as stream:
        curve = list(csv.DictReader(stream))
    assert [line["epoch"] for line in history] == [str(epoch) for epoch in range(1, 16)]
    assert len(curve) == 15 * 5
    assert (REPORTS / "figures" / "learning_curves.png").is_file()

    run = latest_run()
    assert run.info.status == "FINISHED"
    assert run.data.tags["seqtrack.run_key"] == manifest["run_key"]
    assert run.data.params["train.seed"] == "1"
    assert run.data.metrics["validation/accuracy"] == float(history[-1]["eval_accuracy"])
    assert run.data.metrics["train/loss"] == pytest.approx(float(curve[-1]["loss"]), rel=1e-8)
    assert {each.dataset.name for each in run.inputs.dataset_inputs} == {"train", "validation", "test"}
    client = mlflow.MlflowClient()
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"checkpoints", "figures", "reports"}
    model = mlflow.pyfunc.load_model(run.data.tags["seqtrack.model_uri"])
    assert model.predict([{"text": row.text} for row in validation])["label"].tolist() == said
    out = capsys.readouterr().out
    assert f"MLflow run {run.info.run_id}" in out
    assert "best checkpoint by f1_macro is step" in out


def test_the_same_seed_gives_the_same_bytes(work: Path, encoder: Path) -> None:
    train(base(encoder))
    before = files(MODEL) | files(REPORTS)
    shutil.rmtree(MODEL)
    train(base(encoder))  # from the finished checkpoint: nothing is trained
    assert files(MODEL) | files(REPORTS) == before
    shutil.rmtree(MODEL)
    shutil.rmtree(state() / "checkpoints")
    train(base(encoder))  # from scratch
    assert files(MODEL) | files(REPORTS) == before
    run = latest_run()
    steps = [m.step for m in mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")]
    assert steps == list(range(1, 11))  # the three trainings are one run, and each step is in it once
    train(base(encoder), seed=99)
    assert (MODEL / "model.safetensors").read_bytes() != before["model.safetensors"]


def test_diverging_is_an_error_and_no_model(work: Path, encoder: Path) -> None:
    message = complaint(base(encoder), learning_rate=1e38, max_grad_norm=0.0)
    assert message.startswith("params.yaml: train: training diverged: ")
    assert "lower train.learning_rate" in message
    assert latest_run().info.status == "FAILED"
    assert not (REPORTS / "history.csv").exists()


@pytest.mark.parametrize(
    ("policy", "folders"),
    [("none", []), ("best", ["best"]), ("last", ["best", "last"]), ("all", ["step-000000005", "step-000000010"])],
)
def test_checkpoints_go_to_mlflow_as_asked(
    work: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch, policy: str, folders: list[str]
) -> None:
    monkeypatch.setattr("pipeline.mlflow_model.log_transformers_model", lambda *_: "models:/none")
    seed = 100 + ["none", "best", "last", "all"].index(policy)  # another run each
    train(base(encoder), seed=seed, checkpoint={"log_to_mlflow": policy})
    found = mlflow.MlflowClient().list_artifacts(latest_run().info.run_id, "checkpoints")
    assert [Path(file.path).name for file in found] == folders


CODE = """
from transformers import BertConfig, BertForSequenceClassification, BertModel

class OwnConfig(BertConfig):
    model_type = "own"

class OwnModel(BertModel):
    config_class = OwnConfig

class OwnClassifier(BertForSequenceClassification):
    config_class = OwnConfig
"""


def test_a_model_with_code_of_its_own(
    work: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    own = tmp_path / "own"
    shutil.copytree(encoder, own)
    (own / "own_code.py").write_text(CODE)
    config = json.loads((own / "config.json").read_text())
    config["model_type"] = "own"
    classes = {
        "AutoConfig": "OwnConfig",
        "AutoModel": "OwnModel",
        "AutoModelForSequenceClassification": "OwnClassifier",
    }
    config["auto_map"] = {auto: f"own_code.{name}" for auto, name in classes.items()}
    (own / "config.json").write_text(json.dumps(config))

    assert "trust_remote_code" in complaint(base(own))
    train(base(own, trusted=True))
    assert read_manifest(MODEL)["params"]["model"]["trust_remote_code"] is True
    classifier = Classifier.load(MODEL)
    assert type(classifier.model).__name__ == "OwnClassifier"
    logged = mlflow.pyfunc.load_model(latest_run().data.tags["seqtrack.model_uri"])
    assert set(logged.predict([{"text": "great film"}])["label"]) <= set(NAMES)
