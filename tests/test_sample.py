"""What a newcomer gets: the bundled sample in a fresh clone, offline; one epoch here, all of them in tests/slow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.outputs import read_json
from tests.clone import Clone, clean_environment

CLASSES = {"business", "entertainment", "politics", "sports", "tech"}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which the sample ran from fetch to predict."""
    clone = Clone.make(tmp_path_factory.mktemp("sample"))
    clone.set_params(train__num_train_epochs=1, train__logging_steps=4, launch__num_cpu_threads_per_process=1)
    clone.commit("one epoch")
    clone.run("dvc", "repro")
    return clone


def test_accuracy_is_what_the_field_expects(sample: Clone) -> None:
    metrics = json.loads((sample.folder / "data/reports/metrics.json").read_text(encoding="utf-8"))
    assert metrics["test"]["accuracy"] >= 0.965
    assert metrics["test"]["accuracy_low"] <= metrics["test"]["accuracy"] <= metrics["test"]["accuracy_high"]
    assert metrics["validation"]["f1_macro"] >= 0.95


def test_where_to_look_next_is_printed(sample: Clone) -> None:
    shown = sample.run(sys.executable, "-m", "pipeline.next_steps").stdout
    for word in ("test accuracy", "data/reports/metrics.json", "make ui", "dvc exp run"):
        assert word in shown


def test_repeated_articles_never_stand_in_two_splits(sample: Clone) -> None:
    rows = pq.read_table(sample.folder / "data/validated/rows.parquet").to_pandas().set_index("row_id")
    split_of = {
        row_id: name
        for name in ("train", "validation", "test")
        for row_id in pq.read_table(sample.folder / f"data/splits/{name}.parquet")["row_id"].to_pylist()
    }
    assert len(rows) == 2225
    kept = rows.loc[list(split_of)].assign(split=split_of)
    assert kept.groupby(kept["text"].str.lower().str.split().str.join(" "))["split"].nunique().max() == 1
    pairs = [
        json.loads(line) for line in (sample.folder / "data/reports/duplicates.jsonl").read_text("utf-8").splitlines()
    ]
    assert len([pair for pair in pairs if pair["kind"] == "exact"]) == 98
    near = [pair for pair in pairs if pair["kind"] == "near"]
    assert near
    for pair in near:
        assert 0.8 <= pair["score"] < 1.0


def test_transformers_pipeline_takes_the_model_folder(sample: Clone) -> None:
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(sample.folder / "data/model"))
    (first,) = classify("The striker scored twice in the cup final and the manager praised his team.")
    assert first["label"] == "sports"
    (second,) = classify("Shares fell sharply as the bank reported lower profits. " * 100, truncation=True)
    assert second["label"] == "business"


def test_one_mlflow_run_holds_everything(sample: Clone) -> None:
    (run,) = sample.mlflow_runs()
    client = sample.mlflow_client()
    assert run.info.status == "FINISHED"
    assert run.data.params["train.learning_rate"] == "0.0001"
    assert run.data.params["evaluate.bootstrap_samples"] == "1000"
    assert run.data.params["predict.batch_size"] == "1024"
    metrics = run.data.metrics
    for name in ("loss", "learning_rate", "grad_norm", "samples_per_second"):
        steps = [point.step for point in client.get_metric_history(run.info.run_id, f"train/{name}")]
        assert len(steps) > 25, name
        assert steps == sorted(set(steps)), name
    assert len(client.get_metric_history(run.info.run_id, "validation/f1_macro")) == 1
    assert metrics["test/accuracy"] >= 0.965
    for stage in ("fetch", "validate", "split", "vocabulary", "tokenize", "train", "evaluate", "predict"):
        assert metrics[f"stage_seconds/{stage}"] > 0
    assert {(i.dataset.name, i.tags[0].value) for i in run.inputs.dataset_inputs} == {
        ("train", "train"),
        ("validation", "validation"),
        ("test", "test"),
    }
    tags = run.data.tags
    assert tags["mlflow.source.git.commit"] == sample.run("git", "rev-parse", "HEAD").stdout.strip()
    last = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "checkpoints/last")}
    assert last == {"manifest.json", "model.safetensors", "optimizer.safetensors", "state.json", "training.json"}
    figures = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "figures")}
    drawn = {"confusion.png", "curves.png", "f1_by_class.png", "lengths.png", "reliability.png", "slices.png"}
    assert figures == {"learning_curves.png", *drawn}
    reports = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "reports")}
    assert reports >= {"metrics.json", "all_results.json", "errors.jsonl", "slices.csv", "index.html"}
    timed = read_json(sample.folder / ".seqtrack" / "results" / tags["seqtrack.run_key"] / "all_results.json")
    assert timed["seconds"]["train"] == metrics["stage_seconds/train"]
    assert timed["samples_per_second"].keys() == {"train", "evaluate"}


def test_the_logged_model_loads_in_both_flavours(sample: Clone) -> None:
    (run,) = sample.mlflow_runs()
    code = (
        "import mlflow, sys, json\n"
        "texts = ['The striker scored twice.', 'Shares fell as the bank cut its forecast. ' * 100]\n"
        "served = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "assert served.metadata.signature.inputs and served.input_example is not None\n"
        "print(json.dumps(served.predict([{'text': text} for text in texts])['label'].tolist()))\n"
        "print(json.dumps([mlflow.transformers.load_model(sys.argv[1])(texts[0])[0]['label']]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, run.data.tags["seqtrack.model_uri"]],
        cwd=sample.folder,
        env=clean_environment() | {"MLFLOW_TRACKING_URI": f"sqlite:///{sample.folder / 'mlflow.db'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [["sports", "business"], ["sports"]]


def test_predictions_are_the_test_rows_in_order(sample: Clone) -> None:
    wanted = pq.read_table(sample.folder / "data/splits/test.parquet")["row_id"].to_pylist()
    lines = (sample.folder / "data/predictions/test.jsonl").read_text(encoding="utf-8").splitlines()
    predictions = [json.loads(line) for line in lines]
    assert [prediction["id"] for prediction in predictions] == wanted
    assert {frozenset(prediction["probabilities"]) for prediction in predictions} == {frozenset(CLASSES)}
    assert len({prediction["model"] for prediction in predictions}) == 1
    rows = pq.read_table(sample.folder / "data/validated/rows.parquet").to_pandas().set_index("row_id")
    right = sum(prediction["label"] == rows.loc[prediction["id"], "label"] for prediction in predictions)
    metrics = json.loads((sample.folder / "data/reports/metrics.json").read_text(encoding="utf-8"))
    assert right / len(predictions) == pytest.approx(metrics["test"]["accuracy"])


@pytest.mark.parametrize(
    "command",
    [("dvc", "metrics", "show"), ("dvc", "params", "diff"), ("dvc", "plots", "show")],
)
def test_dvc_shows_metrics_params_and_plots(sample: Clone, command: tuple[str, ...]) -> None:
    shown = sample.run(*command).stdout
    if command[1] == "metrics":
        assert "test.accuracy" in shown
    if command[1] == "plots":
        page = (sample.folder / "dvc_plots" / "index.html").read_text(encoding="utf-8")
        for title in ("learning curves", "confusion matrix", "labels by split", "lengths in tokens"):
            assert title in page
