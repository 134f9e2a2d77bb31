"""Submission files: byte for byte in the shape of those that GLUE's server takes, and the zip of all."""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decisions import decide
from pipeline.errors import SeqtrackError
from pipeline.glue import TASKS, TEST_ROWS, find_task
from pipeline.inference import Classifier
from pipeline.labels import LabelSet
from pipeline.outputs import write_manifest
from pipeline.params import Data, Predict
from pipeline.prediction import predict_sources
from pipeline.prediction_input import open_sources
from pipeline.submission import HEADER, Submission, keep, kept, submission_file, submission_for, zip_all
from tests.tiny import save_tiny_classifier

SAMPLES = (
    Path(os.environ.get("SEQTRACK_DATA", Path(__file__).parents[2] / "shared" / "data")) / "glue/submission_format"
)
OF_TASK = {name: task for task in TASKS for _, name in task.tests or (("test", task.name),)}
DATA = Data(path="data/fetched", text=None, text_pair=None, label=None, label_names=None)
SCORES = LabelSet(problem_type="regression", names=())


def labels_of(name: str) -> LabelSet:
    task = OF_TASK[name]
    # In another order than GLUE's: the numbers in a submission are GLUE's all the same.
    names = tuple(reversed(task.classes))
    return LabelSet(problem_type="single_label_classification", names=names) if names else SCORES


def written(folder: Path, name: str, predictions: list[str]) -> bytes:
    """Return the file for predictions as a sample has them, by way of a model's outputs."""
    submission, labels = Submission(name=name, task=OF_TASK[name]), labels_of(name)
    if labels.problem_type == "regression":
        logits = np.array([[float(value)] for value in predictions], np.float32)
    else:
        named = predictions if submission.task.submits_names else [submission.task.classes[int(v)] for v in predictions]
        logits = np.array([[float(name == value) for name in labels.names] for value in named], np.float32)
    with submission_file(folder, submission) as stream:
        stream.writelines(submission.lines(range(len(predictions)), decide(labels, logits)))
    return (folder / "submission" / f"{name}.tsv").read_bytes()


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no samples at {SAMPLES}; SEQTRACK_DATA names another folder")
def test_the_samples_come_out_byte_for_byte(tmp_path: Path) -> None:
    samples = sorted(SAMPLES.glob("*.tsv"))
    assert len(samples) == 8
    for sample in samples:
        content = sample.read_bytes()
        predictions = [line.split("\t")[1] for line in content.decode().splitlines()[1:]]
        assert written(tmp_path, sample.stem, predictions) == content


@pytest.mark.parametrize(
    ("name", "predictions"), [("MNLI-m", ["neutral"]), ("MNLI-mm", ["entailment"]), ("QQP", ["1"])]
)
def test_those_without_a_sample_have_the_same_shape(tmp_path: Path, name: str, predictions: list[str]) -> None:
    assert written(tmp_path, name, predictions) == f"index\tprediction\n0\t{predictions[0]}\n".encode()


@given(st.floats(-1e6, 1e6, width=32))
def test_scores_are_clipped_and_have_three_decimals(score: float) -> None:
    submission = Submission(name="STS-B", task=find_task("stsb"))
    (line,) = submission.lines([7], decide(SCORES, np.array([[score]], np.float32)))
    match = re.fullmatch(r"7\t([0-5]\.\d{3})\n", line)
    assert match
    assert abs(float(match[1]) - min(max(score, 0), 5)) <= 0.000501


def test_class_numbers_are_glues_whatever_the_models_order() -> None:
    submission = Submission(name="WNLI", task=find_task("wnli"))
    labels = LabelSet(problem_type="single_label_classification", names=("entailment", "not_entailment"))
    assert list(submission.lines([0, 1], decide(labels, np.eye(2, dtype=np.float32)))) == ["0\t1\n", "1\t0\n"]
    assert submission.fits(labels)
    assert not submission.fits(SCORES)
    assert not submission.fits(LabelSet(problem_type="single_label_classification", names=("a", "b")))


def glue_folder(folder: Path) -> Path:
    """Return a folder as fetch leaves it for MNLI."""
    (folder / "ax").mkdir(parents=True)
    names = {"test_matched.jsonl": "MNLI-m", "test_mismatched.jsonl": "MNLI-mm", "ax/test_ax.jsonl": "AX"}
    for file, texts in zip(names, (["goal", "bank"], ["bank"], ["money goal"]), strict=True):
        rows = [{"text": text, "text_pair": "x", "label": None, "idx": idx} for idx, text in enumerate(texts)]
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "train.jsonl").write_text('{"text": "a", "text_pair": "b", "label": "neutral", "idx": 0}\n')
    write_manifest(folder, inputs={}, params={"source": "glue", "name": "MNLI"}, rows={}, glue_submissions=names)
    return folder


def test_predict_writes_what_the_fetched_files_are_for(tmp_path: Path) -> None:
    folder = glue_folder(tmp_path / "fetched")
    save_tiny_classifier(tmp_path / "model", ["goal bank", "money x"], find_task("mnli").classes)
    sources = open_sources(folder, DATA, rows=tmp_path, pattern="**/*.jsonl")
    settings = Predict(path=str(folder), batch_size=4)
    done = predict_sources(Classifier.load(tmp_path / "model"), sources, tmp_path / "out", settings)
    assert {file.name for file in done.files} == {
        "train.jsonl", "test_matched.jsonl", "test_mismatched.jsonl", "test_ax.jsonl",
    }  # fmt: skip
    assert {file.name for file in done.submissions} == {"MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"}
    labels = [json.loads(line)["label"] for line in (tmp_path / "out" / "test_matched.jsonl").read_text().splitlines()]
    expected = HEADER + "".join(f"{index}\t{label}\n" for index, label in enumerate(labels))
    assert (tmp_path / "out" / "submission" / "MNLI-m.tsv").read_text() == expected
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert "submission/AX.tsv" in manifest["files"]


def test_a_model_of_other_labels_submits_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = glue_folder(tmp_path / "fetched")
    save_tiny_classifier(tmp_path / "model", ["goal bank", "money x"], ("a", "b"))
    sources = open_sources(folder / "test_matched.jsonl", DATA, rows=tmp_path)
    settings = Predict(path="unused", batch_size=4)
    done = predict_sources(Classifier.load(tmp_path / "model"), sources, tmp_path / "out", settings)
    assert (done.submissions, done.rows) == ((), 2)
    assert "no submission file for MNLI-m: the model was trained on other labels" in capsys.readouterr().out


def test_other_files_are_for_nothing(tmp_path: Path) -> None:
    folder = glue_folder(tmp_path / "fetched")
    assert submission_for(folder / "train.jsonl") is None
    assert submission_for(tmp_path / "elsewhere.csv") is None
    assert submission_for(folder / "test_matched.jsonl") == Submission(name="MNLI-m", task=find_task("mnli"))


def all_files(folder: Path, names: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        rows = "".join(f"{index}\t0\n" for index in range(TEST_ROWS[name]))
        (folder / f"{name}.tsv").write_text(HEADER + rows)
    return folder


def test_the_zip_has_all_eleven_the_best_place_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    earlier = all_files(tmp_path / "earlier", list(TEST_ROWS))
    keep(earlier.iterdir())
    now = all_files(tmp_path / "now", ["RTE"])
    (now / "RTE.tsv").write_text((now / "RTE.tsv").read_text().replace("\t0", "\tentailment"))
    taken = zip_all([now, kept()], tmp_path / "submission.zip")
    assert list(taken) == list(TEST_ROWS)
    assert (taken["RTE"], taken["AX"]) == (now / "RTE.tsv", kept() / "AX.tsv")
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        assert archive.namelist() == [f"{name}.tsv" for name in TEST_ROWS]
        assert archive.read("RTE.tsv") == (now / "RTE.tsv").read_bytes()
    first = (tmp_path / "submission.zip").read_bytes()
    zip_all([now, kept()], tmp_path / "submission.zip")
    assert (tmp_path / "submission.zip").read_bytes() == first


def test_what_is_missing_or_cut_is_named(tmp_path: Path) -> None:
    some = all_files(tmp_path / "some", [name for name in TEST_ROWS if name not in {"AX", "WNLI"}])
    with pytest.raises(SeqtrackError, match=r"2 of the 11 files are missing: WNLI, AX; .*make preset NAME=<task>"):
        zip_all([some], tmp_path / "submission.zip")
    all_files(some, ["AX", "WNLI"])
    (some / "WNLI.tsv").write_text(HEADER + "0\t1\n")
    with pytest.raises(SeqtrackError, match=r"WNLI\.tsv: not as many rows .*expected 146; found 1; "):
        zip_all([some], tmp_path / "submission.zip")
    (some / "WNLI.tsv").write_text("id\tlabel\n0\t1\n")
    with pytest.raises(SeqtrackError, match=r"WNLI\.tsv:1: not a submission file"):
        zip_all([some], tmp_path / "submission.zip")
    assert not (tmp_path / "submission.zip").exists()
