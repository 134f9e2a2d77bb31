"""Regression and multi-label classification through train, evaluate, predict and the exported model."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from transformers import pipeline

from pipeline import fine_tuning
from pipeline.decisions import THRESHOLDS, read_thresholds
from pipeline.evaluation import evaluate_splits
from pipeline.inference import Classifier
from pipeline.labels import LabelSet, joined
from pipeline.metrics import metric_names
from pipeline.outputs import read_manifest
from pipeline.params import load_params
from pipeline.paths import LABELS, MODEL, REPORTS, ROWS, SPLITS, TOKENIZED
from pipeline.prediction import predict_sources
from pipeline.prediction_input import open_sources
from pipeline.tokens import TokenStore
from tests.canonical import Row, table
from tests.test_fine_tuning import TRACKING, base, complaint, encoder, files, latest_run, no_model, prepare, train, work
from tests.toy import FILLER, REPOSITORY, WORDS, accelerator, recipe

__all__ = ["encoder", "no_model", "work"]  # fixtures

NUMBERS = LabelSet(problem_type="regression", names=())
SETS = LabelSet(problem_type="multi_label_classification", names=("bad", "good", "other"))


def rows(labels: LabelSet, count: int = 36) -> list[Row]:
    generator = np.random.default_rng(2)
    found = []
    for index in range(count):
        groups = [place for place in range(3) if index >> place & 1]
        text = " ".join([*(WORDS[place][0] for place in groups), *generator.choice(FILLER, size=2), str(index)])
        value = str(9000 - 4000.5 * (0 in groups) + 2500.25 * (1 in groups) + 500 * (2 in groups))
        label = joined(SETS.names[place] for place in groups) if labels is SETS else value
        found.append(Row(text, label=None if index % 12 == 11 else label))
    return found


@pytest.fixture(params=[NUMBERS, SETS], ids=lambda labels: labels.problem_type)
def labels(request: pytest.FixtureRequest, work: Path, encoder: Path) -> Iterator[LabelSet]:
    """A working folder in which the labels are of this task."""
    prepare(encoder, request.param, table(rows(request.param)))
    return request.param


def evaluated() -> dict[str, Any]:
    settings = load_params(REPOSITORY / "params.yaml").evaluate
    evaluation = evaluate_splits(
        Classifier.load(MODEL), TokenStore.open(TOKENIZED), splits=SPLITS, rows=ROWS, labels=LABELS, evaluate=settings
    )
    return evaluation.metrics()


def predicted(path: Path) -> list[dict[str, Any]]:
    params = load_params(REPOSITORY / "params.yaml")
    classifier = Classifier.load(MODEL)
    done = predict_sources(classifier, open_sources(path, params.data, rows=ROWS), Path("predictions"), params.predict)
    (file,) = done.files
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_from_train_to_predictions(labels: LabelSet, encoder: Path, tmp_path: Path) -> None:
    train(base(encoder), num_train_epochs=6, learning_rate=2e-3)
    config = json.loads((MODEL / "config.json").read_text())
    assert config["problem_type"] == labels.problem_type
    assert read_manifest(MODEL)["params"]["train"]["metric_for_best_model"] == (
        "pearson" if labels is NUMBERS else "f1_macro"
    )
    classifier = Classifier.load(MODEL)
    assert classifier.labels == labels
    assert (MODEL / THRESHOLDS).exists() == (labels is SETS)

    metrics = evaluated()
    assert set(metric_names(labels)) <= metrics["test"].keys()
    # What chose the checkpoint is what evaluate finds, with the thresholds where there are some.
    name = "pearson" if labels is NUMBERS else "f1_macro"
    with (REPORTS / "history.csv").open() as stream:
        best = max(float(line[f"eval_{name}"]) for line in csv.DictReader(stream))
    assert metrics["validation"][name] == pytest.approx(best, rel=1e-4)

    texts = [row.text for row in rows(labels)]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    lines = predicted(tmp_path / "new.jsonl")
    assert len(lines) == len(texts)
    classify = pipeline("text-classification", str(MODEL), device="cpu", top_k=None)
    for text, line in zip(texts, lines, strict=True):
        theirs = {found["label"]: found["score"] for found in classify([text])[0]}
        if labels is NUMBERS:
            # On the scale of the labels, with no file but transformers' own.
            assert line["score"] == pytest.approx(theirs["LABEL_0"], rel=1e-5)
            assert 2000 < line["score"] < 16000
        else:
            assert line["probabilities"] == pytest.approx(theirs, abs=1e-5)
            limits = dict(zip(labels.names, read_thresholds(MODEL, labels), strict=True))
            assert line["labels"] == [name for name in labels.names if line["probabilities"][name] >= limits[name]]


def test_the_same_seed_gives_the_same_bytes(labels: LabelSet, encoder: Path) -> None:
    train(base(encoder))
    before = files(MODEL)
    for file in MODEL.iterdir():
        file.unlink()
    train(base(encoder))  # from the finished checkpoint
    assert files(MODEL) == before


def test_a_model_of_the_same_task_goes_on_from_where_it_is(labels: LabelSet, encoder: Path, tmp_path: Path) -> None:
    """A regression head that comes with the base model gives numbers on the labels' scale."""
    train(base(encoder), num_train_epochs=4, learning_rate=2e-3)
    first = evaluated()["validation"]["loss"]
    MODEL.rename(tmp_path / "first")
    train(base(tmp_path / "first"), num_train_epochs=0.01, learning_rate=1e-30)
    assert evaluated()["validation"]["loss"] == pytest.approx(first, rel=1e-4)


def test_mlflow_returns_what_predict_says(labels: LabelSet, encoder: Path) -> None:
    train(base(encoder), num_train_epochs=2, learning_rate=2e-3)
    texts = ["awful film it", "great film blue was"]
    classifier = Classifier.load(MODEL)
    encoded = classifier.encoder.encode(texts, None)
    logits = classifier.logits(
        np.array([len(ids) for ids in encoded.input_ids]),
        lambda chosen, step: classifier.encoder.padding.batch(
            [encoded.input_ids[row] for row in chosen],
            [encoded.token_type_ids[row] for row in chosen],
            multiple_of=step,
        ),
        batch_size=1,
        on_batch=lambda _: None,
    )
    said = classifier.decide(logits)
    model = mlflow.pyfunc.load_model(latest_run().data.tags["seqtrack.model_uri"])
    found = model.predict([{"text": text} for text in texts])
    if labels is NUMBERS:
        assert found["score"].tolist() == pytest.approx(said.labels, rel=1e-5)
    else:
        assert found["labels"].tolist() == said.labels
        assert said.probabilities is not None
        chances = [[row[name] for name in labels.names] for row in found["probabilities"]]
        assert np.array(chances) == pytest.approx(said.probabilities, abs=1e-6)


@pytest.mark.usefixtures("no_model")
def test_what_a_task_cannot_have(labels: LabelSet, encoder: Path) -> None:
    assert "unknown metric" in complaint(base(encoder), metric_for_best_model="accuracy")
    if labels is NUMBERS:
        for key, value in (("class_weights", "balanced"), ("label_smoothing_factor", 0.1)):
            assert complaint(base(encoder), **{key: value}).startswith(
                f"params.yaml: train.{key}: there are no classes in regression; set it to"
            )
    else:
        assert "class_weights: no class is called goood" in complaint(base(encoder), class_weights={"goood": 2})


def test_thresholds_stay_at_one_half_where_asked(work: Path, encoder: Path) -> None:
    prepare(encoder, SETS, table(rows(SETS)))
    train(base(encoder), tune_thresholds=False, num_train_epochs=1)
    assert not (MODEL / THRESHOLDS).exists()
    assert Classifier.load(MODEL).thresholds is None


def test_a_model_without_a_linear_head_learns_labels_as_they_are(
    work: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(encoder, NUMBERS, table(rows(NUMBERS)))
    monkeypatch.setattr(fine_tuning, "find_head", lambda _: None)
    train(base(encoder), num_train_epochs=1)
    assert "train: labels are not standardised: no last layer of BertForSequence" in capsys.readouterr().out
    with (REPORTS / "history.csv").open() as stream:
        (line,) = csv.DictReader(stream)
    # Far from its labels after five steps, and both losses say so on one scale.
    assert float(line["train_loss"]) == pytest.approx(float(line["eval_mse"]), rel=0.5)
    assert float(line["eval_mse"]) > 5000**2


def test_half_precision_exports_numbers_on_the_labels_scale(work: Path, encoder: Path) -> None:
    prepare(encoder, NUMBERS, table(rows(NUMBERS)))
    accelerator("bf16")
    fine_tuning.fine_tune(recipe(num_train_epochs=1), base(encoder), TRACKING, {})
    with (REPORTS / "history.csv").open() as stream:
        (line,) = csv.DictReader(stream)
    assert evaluated()["validation"]["mae"] == pytest.approx(float(line["eval_mae"]), rel=0.05)
