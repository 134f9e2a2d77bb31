"""The one-liner: texts from arguments or lines, the model from a folder or MLflow, the same answers as predict's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from pipeline.classify import answers
from pipeline.code import HOME
from pipeline.columns import Columns, write_columns
from pipeline.errors import SeqtrackError
from pipeline.model_uri import TrainedModel, load_model
from pipeline.tracking import tracked_run
from stages import classify
from tests.tiny import save_tiny_classifier

NAMES = ("bad", "good")
TEXTS = ["awful red film", "great green film"]
SINGLE = Columns(text="text", text_pair=None, label="label", split=None)
PAIRS = Columns(text="text", text_pair="text_pair", label="label", split=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model"
    save_tiny_classifier(path, TEXTS, NAMES)
    return path


def model(folder: Path, columns: Columns | None = None) -> TrainedModel:
    return TrainedModel(classifier=load_model(str(folder)).classifier, columns=columns)


def test_an_answer_per_text_in_order(folder: Path) -> None:
    one = model(folder)
    texts = [TEXTS[number % 2] + " red" * (number % 5) for number in range(20)]
    whole = [json.loads(answer.json) for answer in answers(one, texts)]
    assert [said["text"] for said in whole] == texts
    parts = [json.loads(answer.json) for answer in answers(one, (f"{text}\r\n" for text in texts), window=3)]
    for said, again in zip(whole, parts, strict=True):
        assert list(said) == ["text", "label", "probabilities"]
        assert said["label"] == max(said["probabilities"], key=said["probabilities"].get)
        assert said["probabilities"] == pytest.approx(again["probabilities"], abs=1e-3)
    logits = one.classifier.model(**one.classifier.encoder.tokenizer(TEXTS[0], return_tensors="pt")).logits[0]
    chances = logits.detach().double().softmax(0).tolist()
    assert list(whole[0]["probabilities"].values()) == pytest.approx(chances, abs=1e-3)


def test_a_line_for_people(folder: Path) -> None:
    (answer,) = answers(model(folder), TEXTS[:1])
    said = json.loads(answer.json)
    best, other = sorted(said["probabilities"].items(), key=lambda item: -item[1])
    assert answer.readable == f"{said['label']} ({best[0]} {best[1]:.3f}, {other[0]} {other[1]:.3f})"


def test_pairs_by_a_tab_or_beside(folder: Path) -> None:
    one = model(folder, PAIRS)
    (by_tab,) = answers(one, ["awful film\tgreat film"])
    (beside,) = answers(one, ["awful film"], pair="great film")
    assert by_tab == beside
    assert json.loads(by_tab.json)["text_pair"] == "great film"
    (single,) = answers(model(folder, SINGLE), ["awful film\tgreat film"])  # a tab is white space to it
    assert "text_pair" not in json.loads(single.json)


@pytest.mark.parametrize(
    ("columns", "lines", "pair", "message"),
    [
        (PAIRS, ["a\tb", "a"], None, r"text 2: the model reads pairs of texts; found one text; put a tab"),
        (SINGLE, ["a"], "b", r"text 1: the model reads single texts, not pairs"),
        (None, ["a", " "], None, r"text 2: no text; found a blank line"),
    ],
)
def test_lines_that_cannot_be_classified(
    folder: Path, columns: Columns | None, lines: list[str], pair: str | None, message: str
) -> None:
    with pytest.raises(SeqtrackError, match=message):
        list(answers(model(folder, columns), lines, pair=pair))


@pytest.fixture(scope="module")
def logged(mlflow_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A model's folder and the run that has it."""
    folder = tmp_path_factory.mktemp("models") / "logged"
    save_tiny_classifier(folder, TEXTS, NAMES, max_length=12)
    write_columns(folder / "columns.json", PAIRS)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
            patch.delenv(name, raising=False)
        patch.setenv("DVC_ROOT", str(mlflow_root))
        with tracked_run("c1a551f7" * 8, "classify") as run:
            run.log_model(folder, {"text": "a", "text_pair": "b"}, {"run_key": "c1a551f7" * 8})
        yield folder, run.run_id


def test_a_model_from_mlflow_is_the_one_that_was_logged(logged: tuple[Path, str]) -> None:
    folder, run_id = logged
    client = mlflow.MlflowClient()
    uri = client.get_run(run_id).data.tags["seqtrack.model_uri"]
    version = mlflow.register_model(uri, "reviews")
    client.set_registered_model_alias("reviews", "best", version.version)
    direct = load_model(str(folder))
    line = "awful film " * 20 + "\tgreat film"
    expected = [answer.json for answer in answers(direct, [line])]
    for name in (f"runs:/{run_id}", f"runs:/{run_id}/model", uri, "models:/reviews/1", "models:/reviews@best"):
        found = load_model(name)
        assert (found.columns, found.classifier.digest) == (PAIRS, direct.classifier.digest), name
        assert [answer.json for answer in answers(found, [line])] == expected


@pytest.mark.usefixtures("logged")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("runs:/0123456789abcdef", r"runs:/0123456789abcdef in sqlite:.*: MLflow does not give this model"),
        ("models:/nothing/1", r"MLflow does not give this model"),
        ("no/folder", r"no/folder/manifest\.json: file not found; run `dvc repro`"),
    ],
)
def test_a_model_that_is_not_there(name: str, message: str) -> None:
    with pytest.raises(SeqtrackError, match=message) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


def test_a_run_whose_training_has_not_ended(logged: tuple[Path, str]) -> None:
    with tracked_run("d" * 64, "classify") as run:
        pass
    with pytest.raises(SeqtrackError, match="this run has no model: its training has not ended"):
        load_model(f"runs:/{run.run_id}")


def test_the_program_reads_standard_input(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stages.classify", "--model", str(folder)],
        cwd=HOME,
        input="".join(f"{text}\n" for text in TEXTS),
        capture_output=True,
        text=True,
        check=True,
    )
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == TEXTS


def test_the_program_reads_arguments(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["classify", "--model", str(folder), *TEXTS])
    classify.main()
    expected = [answer.json for answer in answers(model(folder), TEXTS)]
    assert capsys.readouterr().out.splitlines() == expected
    monkeypatch.setattr(sys, "argv", ["classify", "--model", str(folder), ""])
    with pytest.raises(SystemExit, match="error: text 1: no text"):
        classify.main()


def test_probabilities_have_the_temperature_of_predict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = (HOME / "params.yaml").read_text(encoding="utf-8")
    assert "\n  temperature: 1.0 " in params
    (tmp_path / "params.yaml").write_text(params.replace("\n  temperature: 1.0 ", "\n  temperature: 2.0 "), "utf-8")
    texts = [*TEXTS, "red film", "great film", "awful green"]
    save_tiny_classifier(tmp_path / "data/model", texts, ("bad", "good", "other"))
    monkeypatch.chdir(tmp_path)

    def said(*arguments: str) -> list[dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", ["classify", *arguments, *texts])
        classify.main()
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    # A model that is named may be another one, which this temperature does not fit.
    for plain, warm in zip(said("--model", "data/model"), said(), strict=True):
        assert warm["label"] == plain["label"]
        roots = {name: chance**0.5 for name, chance in plain["probabilities"].items()}
        expected = {name: root / sum(roots.values()) for name, root in roots.items()}
        assert warm["probabilities"] == pytest.approx(expected, abs=1e-5)
        assert warm["probabilities"] != pytest.approx(plain["probabilities"], abs=1e-3)
