"""Each preset from fetch to predict, on data in small and a tiny model in place of the hub's."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.figure import Figure
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline import presets, sources
from pipeline.code import HOME
from pipeline.glue import TASKS
from pipeline.inference import Classifier
from pipeline.outputs import read_json, read_manifest
from pipeline.params import Params, load_params
from pipeline.paths import FETCHED, MODEL, PREDICTIONS, REPORTS, ROWS, SPLITS, TOKENIZED, checkpoints
from pipeline.prediction import logits_of
from pipeline.prediction_input import Example
from pipeline.tokens import TokenStore
from stages import evaluate, fetch, predict, split, tokenize, train, validate, vocabulary
from tests.small_tasks import CLUE_TOPICS, EMOTIONS, GLUE, SHARED, TEST, chinese, hub_data, sentence, write_waimai
from tests.tiny import save_tiny_encoder
from tests.toy import accelerator

ACCURACY, SETS = ("accuracy",), ("f1_macro", "f1_micro", "subset_accuracy", "map")
METRICS = {
    "cola": ("mcc",),
    "sst2": ACCURACY,
    "mrpc": ("f1", "accuracy"),
    "qqp": ("f1", "accuracy"),
    "stsb": ("pearson", "spearman"),
    "mnli": ACCURACY,
    "ax": ACCURACY,
    "qnli": ACCURACY,
    "rte": ACCURACY,
    "wnli": ACCURACY,
    "tnews": ACCURACY,
    "afqmc": ACCURACY,
    "waimai": ACCURACY,
    "waimai_scratch": ACCURACY,
    "go_emotions": SETS,
    "default": ("f1_macro", "accuracy", "precision_macro", "recall_macro"),
}
"""What each preset reports; the first one chooses the model."""
CLASSES = {task.config: task.classes for task in TASKS} | {
    "ax": ("entailment", "neutral", "contradiction"),
    "afqmc": ("0", "1"),
    "waimai": ("0", "1"),
    "waimai_scratch": ("0", "1"),
    "go_emotions": tuple(sorted({EMOTIONS[place] for place in (3, 17, 27)})),
    "default": ("business", "entertainment", "politics", "sports", "tech"),
}
SUBMISSIONS = {task.config: dict(task.tests or (("test", task.name),)) for task in TASKS} | {"ax": {"test_ax": "AX"}}
SAMPLES = SHARED / "glue" / "submission_format"
SAMPLE_OF = {"QQP": "MRPC", "MNLI-m": "AX", "MNLI-mm": "AX"}  # of the same kind, where there is no sample
NAMES = sorted(file.stem for file in (HOME / "presets").glob("*.yaml"))


@dataclass(frozen=True, kw_only=True)
class Run:
    """A preset that has run.

    Attributes:
        folder: the working folder.
        params: what the preset made of params.yaml.
    """

    folder: Path
    params: Params

    def metrics(self) -> dict[str, dict[str, float]]:
        return read_json(self.folder / REPORTS / "metrics.json")

    def table(self, name: str) -> list[dict[str, str]]:
        with (self.folder / REPORTS / "evaluation" / f"{name}.csv").open(encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    def predictions(self) -> dict[str, list[dict[str, Any]]]:
        """Return the records of each file of predictions."""
        folder = self.folder / PREDICTIONS
        return {
            file.relative_to(folder).as_posix().removesuffix(".jsonl"): lines_of(file)
            for file in sorted(folder.rglob("*.jsonl"))
        }

    def submissions(self) -> dict[str, list[str]]:
        """Return the lines of each submission file, with their ends."""
        files = sorted((self.folder / PREDICTIONS / "submission").glob("*"))
        return {file.stem: file.read_bytes().decode().splitlines(keepends=True) for file in files}

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return what a file of predictions answers: rows with id, text and text_pair."""
        if name == "test" and self.params.predict.path == f"{SPLITS}/test.parquet":
            rows = pq.read_table(self.folder / ROWS).to_pylist()
            by_id = {row["row_id"]: row | {"id": row["row_id"]} for row in rows}
            return [by_id[row] for row in pq.read_table(self.folder / SPLITS / "test.parquet")["row_id"].to_pylist()]
        (file,) = (self.folder / FETCHED).rglob(f"{name.rpartition('/')[2]}.jsonl")
        texts = ("text", "sentence", "sentence1")
        return [
            {
                "id": row["idx"],
                "text": next(row[column] for column in texts if column in row),
                "text_pair": row.get("text_pair", row.get("sentence2")),
            }
            for row in lines_of(file)
        ]


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    for layout in GLUE.values():
        layout.write(folder / "glue")
    files = [file.read_text(encoding="utf-8") for file in sorted((folder / "glue").rglob("*.*"))]
    hub = [hub_data("clue/clue", config) for config in ("afqmc", "tnews")]
    files += [str(row) for data in hub for split in data.values() for row in split]
    save_tiny_encoder(folder / "tiny", [*files, *map(sentence, range(200)), *map(chinese, range(200))])
    return folder / "tiny"


@pytest.fixture(scope="module")
def run(mlflow_root: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Run]]:
    """Runs a preset from fetch to predict, once."""
    done: dict[str, Run] = {}

    def result(name: str) -> Run:
        if name not in done:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("DVC_ROOT", str(mlflow_root))
                patch.delenv("MLFLOW_TRACKING_URI", raising=False)
                patch.setenv("ACCELERATE_MIXED_PRECISION", "no")
                patch.setattr(sources, "resolve_commit", lambda name, revision: "c0ffee")
                patch.setattr(sources, "load_hub", lambda name, config, commit: hub_data(name, config))
                # Drawing takes a third of the time, and has tests of its own.
                patch.setattr(Figure, "savefig", lambda self, file, **_: Path(file).write_bytes(b""))
                if name == "ax":
                    done[name] = after_mnli(result("mnli"), tmp_path_factory.mktemp("ax") / "work", encoder, patch)
                else:
                    done[name] = from_fetch(name, tmp_path_factory.mktemp(name), encoder, patch)
        return done[name]

    yield result
    for one in done.values():
        shutil.rmtree(checkpoints(read_manifest(one.folder / MODEL)["run_key"]), ignore_errors=True)


def set_up(name: str, encoder: Path) -> Params:
    """Apply a preset in the working folder, with keys that make its training a matter of seconds."""
    small = {
        "model.name_or_path": str(encoder),
        "train.num_train_epochs": 1,
        "train.learning_rate": 0.001,
        "tokenize.max_length": 48,
        "evaluate.bootstrap_samples": 100,
        "tracking.experiment_name": "presets",
    }
    presets.apply(name, small)
    return load_params()


def from_fetch(name: str, folder: Path, encoder: Path, patch: pytest.MonkeyPatch) -> Run:
    patch.chdir(folder)
    shutil.copytree(HOME / "presets", "presets")
    shutil.copy(HOME / "params.yaml", "params.yaml")
    if name in GLUE:
        GLUE[name].write(Path("glue_data"))
    elif name in {"waimai", "waimai_scratch"}:
        write_waimai(Path("waimai_10k.csv"))
    params = set_up(name, encoder)
    fetch.fetch(params)
    if name == "default":  # the sample has 2,225 long articles, by class
        (file,) = FETCHED.glob("*.jsonl")
        file.write_text("".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[::15]), encoding="utf-8")
    validate.validate(params)
    split.split(params)
    vocabulary.vocabulary(params)
    tokenize.tokenize(params)
    accelerator()  # forgets the settings of the training before
    train.train(params)
    evaluate.evaluate(params)
    predict.predict(params)
    return Run(folder=folder, params=params)


def after_mnli(mnli: Run, folder: Path, encoder: Path, patch: pytest.MonkeyPatch) -> Run:
    shutil.copytree(mnli.folder, folder)
    patch.chdir(folder)
    params = set_up("ax", encoder)
    before, after = mnli.params.flat(), params.flat()
    # Nothing but predict has another param, so nothing else runs again.
    assert {key for key in after if after[key] != before[key]} == {"predict.path", "predict.pattern"}
    predict.predict(params)
    return Run(folder=folder, params=params)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_task(run: Callable[[str], Run], name: str) -> None:
    one = run(name)
    metrics = one.metrics()
    assert read_manifest(one.folder / MODEL)["params"]["train"]["metric_for_best_model"] == METRICS[name][0]
    expected = {"validation"} if name in {*GLUE, "ax", "tnews", "afqmc"} else {"validation", "test"}
    if name == "stsb" and SHARED.is_dir():
        expected |= {"test"}  # these test files have scores
    if name in {"mnli", "ax"}:
        expected |= {"validation_matched", "validation_mismatched"}
    assert set(metrics) == expected
    for scores in metrics.values():
        for metric in METRICS[name]:
            assert scores[f"{metric}_low"] <= scores[f"{metric}_high"]
            assert -1 <= scores[metric] <= 1
    shown = metrics["test" if "test" in metrics else "validation"]
    if name == "stsb":
        actual, said = (
            np.array([float(row[key]) for row in one.table("regression")]) for key in ("actual", "predicted")
        )
        assert shown["pearson"] == pytest.approx(pearsonr(actual, said).statistic, abs=1e-3)
        assert shown["spearman"] == pytest.approx(spearmanr(actual, said).statistic, abs=1e-2)
    elif METRICS[name] is not SETS:
        actual, said = ([row[key] for row in one.table("confusion")] for key in ("actual", "predicted"))
        assert shown["accuracy"] == pytest.approx(accuracy_score(actual, said))
        assert shown["f1_macro"] == pytest.approx(f1_score(actual, said, average="macro", zero_division=0))
        assert shown["mcc"] == pytest.approx(matthews_corrcoef(actual, said))
        if len(CLASSES.get(name, ())) == 2:
            # Of the class that GLUE counts as a hit.
            hit = CLASSES[name][1]
            assert shown["f1"] == pytest.approx(f1_score(actual, said, pos_label=hit, zero_division=0))


def test_matched_and_mismatched_make_up_the_validation_of_mnli(run: Callable[[str], Run]) -> None:
    one = run("mnli")
    metrics, parts = one.metrics(), ("matched", "mismatched")
    counts = [len(lines_of(one.folder / FETCHED / f"validation_{part}.jsonl")) for part in parts]
    accuracies = [metrics[f"validation_{part}"]["accuracy"] for part in parts]
    assert metrics["validation"]["accuracy"] == pytest.approx(np.average(accuracies, weights=counts))


def test_both_texts_of_qnli_are_encoded(run: Callable[[str], Run]) -> None:
    folder = run("qnli").folder
    header, *lines = (folder / "glue_data/QNLI/train.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "index\tquestion\tsentence\tlabel"
    given = {tuple(line.split("\t")[1:3]) for line in lines}
    rows = [row for row in pq.read_table(folder / ROWS).to_pylist() if row["split"] == "train"]
    assert len(rows) >= 0.9 * len(lines)
    tokens, tokenizer = TokenStore.open(folder / TOKENIZED), AutoTokenizer.from_pretrained(folder / MODEL)
    for row in rows:
        question, answer = row["text"], row["text_pair"]
        assert (question, answer) in given
        stored = tokens.batch(tokens.positions(pa.array([row["row_id"]])), pad_to_multiple_of=1)
        theirs = tokenizer(question, answer, truncation="longest_first", max_length=48, return_tensors="pt")
        assert stored.keys() == theirs.keys()
        assert all(stored[key].tolist() == theirs[key].tolist() for key in stored)
        assert set(stored["token_type_ids"][0].tolist()) == {0, 1}


def test_either_text_of_qnli_changes_what_the_model_says(run: Callable[[str], Run]) -> None:
    classifier = Classifier.load(run("qnli").folder / MODEL)
    pairs = [(sentence(1), sentence(2)), (sentence(3), sentence(2)), (sentence(1), sentence(3))]
    examples = [Example(place, *pair) for place, pair in enumerate(pairs)]
    given, *changed = logits_of(classifier, examples, 1, lambda _: None)
    for logits in changed:
        assert np.abs(logits - given).max() > 1e-5  # a hundred times what rounding does


@pytest.mark.parametrize("name", NAMES)
def test_classes_have_the_names_of_the_task(run: Callable[[str], Run], name: str) -> None:
    config = read_json(run(name).folder / MODEL / "config.json")
    named = tuple(config["id2label"][str(place)] for place in range(len(config["id2label"])))
    if name == "stsb":
        assert config["problem_type"] == "regression"
    elif name == "tnews":
        assert set(named) <= set(CLUE_TOPICS) or all(topic.startswith("news_") for topic in named)
        assert len(named) > 10
    else:
        assert named == CLASSES[name]
        sets = name == "go_emotions"
        assert config["problem_type"] == ("multi_label" if sets else "single_label") + "_classification"


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_the_models_in_the_order_of_the_input(run: Callable[[str], Run], name: str) -> None:
    one = run(name)
    found = one.predictions()
    wanted = SUBMISSIONS.get(name, {"test": ""})
    assert {file.rpartition("/")[2] for file in found} == set(wanted)
    model = AutoModelForSequenceClassification.from_pretrained(one.folder / MODEL).eval()
    tokenizer = AutoTokenizer.from_pretrained(one.folder / MODEL)
    kind = model.config.problem_type
    for file, records in found.items():
        rows = one.rows(file)
        assert [record["id"] for record in records] == [row["id"] for row in rows]
        said = {str(record.get("probabilities", record.get("score"))) for record in records}
        assert len(said) > len(records) / 2  # or another order would not show
        assert len(rows) >= (TEST - 1 if name in SUBMISSIONS else 5)
        for row, record in zip(rows, records, strict=True):
            # A row at a time and by transformers alone: what stands there is about this row.
            inputs = tokenizer(row["text"], row["text_pair"], truncation=True, return_tensors="pt")
            with torch.inference_mode():
                logits = model(**inputs).logits[0].double()
            if kind == "regression":
                assert record["score"] == pytest.approx(logits.item(), rel=1e-5)
                continue
            chances = logits.sigmoid() if kind.startswith("multi") else logits.softmax(0)
            assert list(record["probabilities"].values()) == pytest.approx(chances.tolist(), abs=3e-6)
            assert list(record["probabilities"]) == list(model.config.id2label.values())
            if not kind.startswith("multi"):
                assert record["label"] == max(record["probabilities"], key=record["probabilities"].get)


@pytest.mark.parametrize("name", NAMES)
def test_glue_gets_its_submission_files(run: Callable[[str], Run], name: str) -> None:
    one = run(name)
    found = one.submissions()
    wanted = SUBMISSIONS.get(name, {})
    assert set(found) == set(wanted.values())
    said = {file.rpartition("/")[2]: records for file, records in one.predictions().items()}
    for file, submission in wanted.items():
        header, *lines = found[submission]
        assert header == "index\tprediction\n"
        for place, (line, record) in enumerate(zip(lines, said[file], strict=True)):
            if name == "stsb":
                value = f"{min(max(record['score'], 0), 5):.3f}"
            elif submission in {"QNLI", "RTE", "AX", "MNLI-m", "MNLI-mm"}:
                value = record["label"]
            else:
                value = str(CLASSES[name].index(record["label"]))
            assert line == f"{place}\t{value}\n"


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no samples at {SAMPLES}; SEQTRACK_DATA names another folder")
@pytest.mark.parametrize("name", sorted(SUBMISSIONS))
def test_submission_files_have_the_bytes_of_the_samples_but_for_what_is_said(
    run: Callable[[str], Run], name: str
) -> None:
    def shape(content: str) -> str:
        content = re.sub(r"\t\d\.\d{3}\n", "\t<score>\n", content)
        content = re.sub(r"\t[01]\n", "\t<number>\n", content)
        return re.sub(r"\t(not_entailment|entailment|neutral|contradiction)\n", "\t<name>\n", content)

    for submission, lines in run(name).submissions().items():
        sample = (SAMPLES / f"{SAMPLE_OF.get(submission, submission)}.tsv").read_bytes().decode()
        assert shape("".join(lines[: sample.count("\n")])) == shape(sample)
