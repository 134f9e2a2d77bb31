"""From predictions back to raw data: every link verified, the first broken one named."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline import lineage
from pipeline.errors import SeqtrackError
from pipeline.identity import Identity, ProcessLayout
from pipeline.inference import Classifier
from pipeline.lineage import Link, Sections, trace
from pipeline.lineage_report import require_whole, show
from pipeline.model_source import resolve
from pipeline.outputs import folder_digest, read_json, sha256_file, write_json, write_manifest
from pipeline.params import load_params
from pipeline.paths import COLUMNS, LABELS, MODEL, PREDICTIONS, ROWS, SPLITS, TOKENIZED, VALIDATED
from pipeline.prediction import predict_sources
from pipeline.prediction_input import open_sources
from pipeline.tracking import tracked_run
from stages import lineage as stage
from stages.split import split
from stages.tokenize import tokenize
from stages.validate import validate
from stages.vocabulary import vocabulary
from tests.clone import Clone, make_small
from tests.tiny import save_tiny_classifier

HOME = Path(__file__).parent.parent
FILE = PREDICTIONS / "test.jsonl"
RAW = Path("data/raw/reviews.csv")


def predict(path: str, form: str = "jsonl") -> None:
    params = load_params()
    settings = params.predict.model_copy(update={"path": path, "format": form})
    sources = open_sources(Path(path), params.data, rows=ROWS)
    predict_sources(Classifier.load(MODEL), sources, PREDICTIONS, settings)


def train() -> str:
    """Write a model folder as the train stage does, but for the training; return its run_key."""
    params = load_params()
    recipe = params.train.model_copy(update={"metric_for_best_model": "f1_macro", "layerwise_lr_decay": 0.794})
    identity = Identity.of(
        tokenized=TOKENIZED,
        splits=SPLITS,
        labels=LABELS,
        train=recipe,
        model=params.model,
        source=resolve(params.model, weights=True),
        layout=ProcessLayout(world_size=1, device="cpu", threads=1, mixed_precision="no"),
        total_batch_size=16,
    )
    save_tiny_classifier(MODEL, ["good food", "bad food"], ("bad", "good"))
    (MODEL / "manifest.json").unlink()
    shutil.copyfile(COLUMNS, MODEL / COLUMNS.name)
    write_manifest(
        MODEL,
        inputs={"tokenized": folder_digest(TOKENIZED), "splits": folder_digest(SPLITS)},
        params={
            "train": recipe.model_dump(mode="json", exclude={"resume_from"}),
            "model": params.model.model_dump(mode="json"),
        },
        rows={},
        run_key=identity.run_key(),
        identity=asdict(identity),
        max_length=32,
    )
    return identity.run_key()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, mlflow_root: Path) -> Path:
    """A folder with all outputs, made by the real stages but for training, and its run in MLflow."""
    folder = tmp_path_factory.mktemp("made")
    clone = Clone(folder)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(HOME / name, folder / name)
    (folder / ".gitignore").write_text("/data\n")
    for command in ("init -q", "config user.email test@example.com", "config user.name test"):
        clone.run("git", *command.split())
    make_small(clone, tmp_path_factory.mktemp("encoder") / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DVC_ROOT", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
            patch.delenv(name, raising=False)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{mlflow_root / 'mlflow.db'}")
        patch.chdir(folder)
        params = load_params()
        validate(params)
        split(params)
        vocabulary(params)
        tokenize(params)
        run_key = train()
        predict(params.predict.path)
        with tracked_run(run_key, "reviews") as run:
            run.set_tags({"seqtrack.model_digest": folder_digest(MODEL), "dvc.exp_name": "warm-owl"})
    return folder


@pytest.fixture
def work(made: Path, mlflow_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to break."""
    folder = tmp_path / "work"
    shutil.copytree(made, folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{mlflow_root / 'mlflow.db'}")
    monkeypatch.chdir(folder)
    return folder


def traced(file: Path = FILE) -> Link:
    params = load_params()
    return trace(
        file,
        Sections(
            data=params.data,
            split=params.split,
            tokenize=params.tokenize,
            model=params.model,
            train=params.train,
            predict=params.predict,
        ),
    )


def named(link: Link, name: str) -> Link:
    return next(each for each in link.all() if each.name.startswith(name))


def test_a_whole_lineage_is_sound_from_predictions_to_raw_data(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = traced()
    assert found.broken is None
    assert {link.state for link in found.all()} == {"ok"}
    names = (
        "predictions",
        "model data/model",
        "run_key",
        "MLflow run",
        "commit",
        "params train",
        "params split",
        "code of train",
        "base model",
        "tokens",
        "splits",
        "validated rows",
        f"raw data {RAW}",
    )
    for name in names:
        named(found, name)
    assert named(found, f"raw data {RAW}").told == sha256_file(RAW)[:10]
    assert "in reviews, FINISHED, DVC experiment warm-owl" in named(found, "MLflow run").told
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert named(found, "commit").told.startswith(head[:10])
    require_whole(found)
    show(found)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list(found.all()))
    assert lines[0].startswith("ok predictions data/predictions/test.jsonl: ")


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def other_params(**changes: object) -> None:
    Clone(Path()).set_params(**changes)


def other_file(folder: Path, suffix: str) -> None:
    append(next(file for file in sorted(folder.iterdir()) if file.suffix == suffix))


BREAKS: dict[str, tuple[Callable[[], object], str, str]] = {
    "predictions edited": (lambda: append(FILE), "predictions data/predictions/test.jsonl", "changed"),
    "rows edited": (lambda: append(ROWS), "classified test: rows data/validated/rows.parquet", "changed"),
    "test split gone": ((SPLITS / "test.parquet").unlink, "classified test: split data/splits/test.parquet", "missing"),
    "train split edited": (lambda: append(SPLITS / "train.parquet"), "splits data/splits", "changed"),
    "weights edited": (lambda: append(MODEL / "model.safetensors"), "model data/model", "changed"),
    "model gone": (lambda: shutil.rmtree(MODEL), "model data/model", "missing"),
    "another recipe": (lambda: other_params(train__learning_rate=0.5), "params train", "changed"),
    "another seed": (lambda: other_params(split__seed=99), "params split", "changed"),
    "another length": (lambda: other_params(tokenize__max_length=8), "params tokenize", "changed"),
    "another temperature": (lambda: other_params(predict__temperature=2.0), "params predict", "changed"),
    "tokens edited": (lambda: other_file(TOKENIZED, ".arrow"), "tokens data/tokenized", "changed"),
    "labels edited": (lambda: append(LABELS), "validated rows data/validated", "changed"),
    "raw data edited": (lambda: append(RAW), f"raw data {RAW}", "changed"),
    "raw data gone": (RAW.unlink, f"raw data {RAW}", "missing"),
    "code edited": (lambda: None, "code of train", "changed"),
}


@pytest.mark.parametrize("case", BREAKS)
def test_the_first_broken_link_is_named(case: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    breaking, name, state = BREAKS[case]
    if case == "code edited":
        monkeypatch.setattr(lineage, "code_digest", lambda _: "e" * 64)
    breaking()
    found = traced()
    assert found.broken is not None
    assert (found.broken.name, found.broken.state) == (name, state)
    with pytest.raises(SeqtrackError, match=f"first broken link: {name}: {state}: ") as raised:
        require_whole(found)
    assert raised.value.fix
    assert "\n" not in str(raised.value)


def test_another_base_model_is_found_out(work: Path) -> None:
    moved = work / "encoder"
    shutil.copytree(load_params().model.name_or_path, moved)
    other_params(model__name_or_path=str(moved))
    assert named(traced(), "base model").state == "ok"  # its files count, not where they lie
    append(moved / "config.json")
    assert named(traced(), "base model").state == "changed"
    shutil.rmtree(moved)
    assert named(traced(), "base model").state == "missing"


def test_a_hub_model_that_is_not_here_is_unknown(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other_params(model__name_or_path="someone/nothing-like-it")
    assert named(traced(), "base model").state == "unknown"


def test_without_the_store_the_run_is_unknown_and_nothing_breaks(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for uri in (f"sqlite:///{work / 'none.db'}", "http://127.0.0.1:9"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        found = traced()
        assert found.broken is None
        assert named(found, "MLflow run").state == "unknown"
        assert uri in named(found, "MLflow run").told
    assert not (work / "none.db").exists()


@pytest.fixture
def other_key(work: Path) -> None:
    """A training whose run_key no store knows, this process's included, which all of its tests share."""
    key = secrets.token_hex(32)
    for folder in (MODEL, PREDICTIONS):
        manifest = read_json(folder / "manifest.json")
        manifest["run_key"] = key
        if folder == PREDICTIONS:
            manifest["inputs"]["model"] = folder_digest(MODEL)
        write_json(folder / "manifest.json", manifest)


@pytest.mark.usefixtures("other_key")
def test_a_store_without_the_run_is_a_missing_link() -> None:
    found = traced()
    assert found.broken == named(found, "MLflow run")
    assert found.broken.state == "missing"
    assert named(found, "run_key").state == "unknown"  # as after a training that went on from another's checkpoint


def test_other_formats_inputs_and_copies_lead_back_as_well(work: Path, tmp_path: Path) -> None:
    (work / "data/raw/new.csv").write_text("review\ngood food\nbad place\n")
    other_params(predict__path="data/raw/new.csv", predict__format="csv")
    predict("data/raw/new.csv", "csv")
    found = traced(PREDICTIONS / "new.csv")
    assert found.broken is None
    assert named(found, "classified new: file data/raw/new.csv").state == "ok"
    copy = tmp_path / "elsewhere.csv"
    shutil.copyfile(PREDICTIONS / "new.csv", copy)
    assert traced(copy).broken is None
    append(work / "data/raw/new.csv")
    assert traced(copy).broken == named(traced(copy), "classified new")


def test_a_submission_leads_back_from_where_it_lies_and_from_where_it_is_kept(work: Path) -> None:
    file = PREDICTIONS / "submission" / "MNLI-m.tsv"
    file.parent.mkdir()
    file.write_text("index\tprediction\n0\tneutral\n")
    manifest = read_json(PREDICTIONS / "manifest.json")
    manifest["files"]["submission/MNLI-m.tsv"] = sha256_file(file)
    write_json(PREDICTIONS / "manifest.json", manifest)
    kept = work / ".seqtrack" / "submission" / file.name
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, kept)
    assert traced(file).broken is None
    assert traced(kept).broken is None
    append(kept)
    assert traced(kept).broken is not None


def test_what_predict_did_not_write_is_refused(work: Path, tmp_path: Path) -> None:
    (tmp_path / "alien.jsonl").write_text("{}\n")
    with pytest.raises(SeqtrackError, match=r"alien\.jsonl: no manifest says"):
        traced(tmp_path / "alien.jsonl")
    with pytest.raises(SeqtrackError, match="not a manifest of predictions"):
        traced(VALIDATED / "rows.parquet")
    with pytest.raises(SeqtrackError, match=r"nothing\.jsonl: file not found"):
        traced(PREDICTIONS / "nothing.jsonl")


def test_the_command_ends_with_1_and_one_line(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lineage", str(FILE)])
    stage.main()
    assert "every link that can be told is as it was" in capsys.readouterr().out
    append(RAW)
    with pytest.raises(SystemExit, match=rf"^error: first broken link: raw data {RAW}: changed: recorded \w+, now \w+"):
        stage.main()


def test_an_older_model_says_what_it_does_not_know(work: Path) -> None:
    manifest = json.loads((MODEL / "manifest.json").read_text())
    del manifest["identity"]
    write_json(MODEL / "manifest.json", manifest)
    found = traced()
    for name in ("run_key", "code of train", "base model"):
        assert named(found, name).state == "unknown"
        assert "of an earlier version" in named(found, name).told
