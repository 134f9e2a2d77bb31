"""The registry: one version per model, an alias that moves to better models alone, a gate before all else."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest

from pipeline.errors import SeqtrackError
from pipeline.gate import check_gate, lower_is_better
from pipeline.model_uri import load_model
from pipeline.outputs import folder_digest, read_json, write_json
from pipeline.params import load_params
from pipeline.paths import MODEL, REPORTS
from pipeline.trained import read_trained
from stages import register
from tests.whole_run import enter_copy, set_params

SCORES = {"test.accuracy": 0.8, "test.accuracy_low": 0.7, "test.loss": 0.5, "test.ece": 0.1, "validation.mine": 3.0}
CARD = REPORTS / "model_card.md"


@pytest.fixture
def work(finished: Path, mlflow_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter_copy(finished, tmp_path / "work", mlflow_root, monkeypatch)
    return tmp_path


def run(*arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["register", *arguments])
        register.main()


def refusal(*arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    message = str(caught.value.code)
    assert message.startswith("error: ")
    assert "\n" not in message
    return message


def versions(name: str) -> list[Any]:
    return list(mlflow.MlflowClient().search_model_versions(f"name = '{name}'"))


def another_model(f1_macro: float) -> None:
    """Turn the model in the working folder into one of other bytes and another score."""
    manifest = read_json(MODEL / "manifest.json")
    write_json(MODEL / "manifest.json", {**manifest, "note": f1_macro})
    results, metrics = read_json(REPORTS / "all_results.json"), read_json(REPORTS / "metrics.json")
    results["model"] = folder_digest(MODEL)
    results["splits"]["test"]["metrics"]["f1_macro"] = metrics["test"]["f1_macro"] = f1_macro
    write_json(REPORTS / "all_results.json", results)
    write_json(REPORTS / "metrics.json", metrics)


@pytest.mark.usefixtures("work")
def test_a_version_with_an_alias_that_loads(capsys: pytest.CaptureFixture[str]) -> None:
    set_params(register__name="one", register__minimum={"test.accuracy": 0.01}, register__maximum={"test.loss": 9.0})
    run()
    said = capsys.readouterr().out
    assert "register: one version 1, is champion" in said
    assert "models:/one@champion" in said
    loaded, trained = load_model("models:/one@champion"), read_trained(MODEL, REPORTS)
    assert loaded.classifier.digest == trained.digest
    assert loaded.columns == trained.columns
    (version,) = versions("one")
    assert version.tags["seqtrack.run_key"] == trained.run_key
    assert float(version.tags["test.accuracy"]) == trained.metrics["test.accuracy"]
    assert version.tags["seqtrack.data.splits"] == folder_digest(Path("data/splits"))
    assert f"test.accuracy: {trained.metrics['test.accuracy']:.4g}" in version.description
    client = mlflow.MlflowClient()
    assert client.get_run(version.run_id).data.tags["seqtrack.run_key"] == trained.run_key
    assert client.get_run(version.run_id).info.status == "FINISHED"
    card = Path(mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path="model_card/model_card.md"))
    assert card.read_bytes() == CARD.read_bytes()

    run()  # once more
    assert "register: one version 1, registered before, is champion" in capsys.readouterr().out
    assert len(versions("one")) == 1


@pytest.mark.usefixtures("work")
def test_the_alias_moves_to_no_worse_model_unless_forced(capsys: pytest.CaptureFixture[str]) -> None:
    set_params(register__name="two")
    another_model(0.75)
    run()
    another_model(0.5)
    message = refusal()
    assert "the model is worse than version 1, which is champion; expected test.f1_macro of at least 0.75" in message
    assert "found 0.5; nothing was registered; `make register FORCE=1`" in message
    assert len(versions("two")) == 1
    run("--force")
    another_model(0.6)
    run()
    assert "test.f1_macro 0.6, that of version 2, which is champion, was 0.5" in capsys.readouterr().out
    client = mlflow.MlflowClient()
    assert client.get_model_version_by_alias("two", "champion").version == versions("two")[0].version
    assert len(versions("two")) == 3


@pytest.mark.usefixtures("work")
def test_the_gate_comes_before_anything_is_written() -> None:
    set_params(register__name="three", register__minimum={"test.accuracy": 1.5}, register__maximum={"test.loss": 1e-9})
    found = read_json(REPORTS / "metrics.json")["test"]
    message = refusal("--force")
    assert "expected test.accuracy of at least 1.5, test.loss of at most 1e-09" in message
    assert f"found test.accuracy {found['accuracy']:.6g}, test.loss {found['loss']:.6g}" in message
    assert not CARD.exists()
    assert versions("three") == []


@pytest.mark.usefixtures("work")
def test_what_does_not_belong_together_is_refused() -> None:
    set_params(register__name="four")
    weights = MODEL / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"x")
    assert "model.safetensors: not the file that train wrote; expected sha256" in refusal()
    weights.unlink()
    assert "found no file; run `dvc checkout data/model`" in refusal()
    weights.write_bytes(whole)
    metrics = read_json(REPORTS / "metrics.json")
    metrics["test"]["accuracy"] += 0.1
    write_json(REPORTS / "metrics.json", metrics)
    assert "metrics.json: other scores of test than all_results.json has" in refusal()
    results = read_json(REPORTS / "all_results.json")
    write_json(REPORTS / "all_results.json", results | {"model": "0" * 64})
    assert "scores of another model" in refusal()
    assert versions("four") == []


@pytest.mark.parametrize(
    ("minimum", "maximum", "message"),
    [
        ({"test.accuracy": 0.81}, {}, "expected test.accuracy of at least 0.81; found test.accuracy 0.8;"),
        ({"test.accuracy_low": 0.75}, {}, "found test.accuracy_low 0.7;"),
        ({}, {"test.ece": 0.05}, "expected test.ece of at most 0.05; found test.ece 0.1;"),
        ({"test.acuracy": 0.5}, {}, r"register.minimum: no score test.acuracy \(did you mean test.accuracy\?\)"),
        ({"test.loss": 0.1}, {}, "register.minimum: lower values of test.loss are better; put it into register.max"),
        ({}, {"test.accuracy": 0.9}, "register.maximum: higher values of test.accuracy are better; put it into"),
    ],
)
def test_what_the_gate_says(minimum: dict[str, float], maximum: dict[str, float], message: str) -> None:
    with pytest.raises(SeqtrackError, match=message):
        check_gate(SCORES, minimum, maximum, section="register")


def test_the_gate_opens_at_its_bounds() -> None:
    check_gate(SCORES, {"test.accuracy": 0.8, "validation.mine": 3}, {"test.ece": 0.1, "test.loss": 0.5}, section="r")


@pytest.mark.parametrize(
    ("name", "lower"),
    [("test.loss_low", True), ("test.ece_scaled_high", True), ("test.f1_macro", False), ("a.mae", True)],
)
def test_which_scores_are_better_when_lower(name: str, lower: bool) -> None:
    assert lower_is_better(name) is lower


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"register__alias": "latest"}, "'latest' is no alias for MLflow"),
        ({"register__alias": "v2"}, "'v2' is no alias for MLflow"),
        ({"register__name": "a/b"}, "'a/b' cannot be part of models:/<name>@<alias>"),
        ({"register__push_to_hub": True}, "push_to_hub needs register.hub_model_id"),
    ],
)
def test_params_that_cannot_be(changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SeqtrackError, match=message):
        set_params(**changes)


def test_dotted_names_are_keys_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    set_params(register__minimum={"test.accuracy": 0.9})
    assert load_params().register_.minimum == {"test.accuracy": 0.9}
    assert json.dumps(load_params().flat("register"))
