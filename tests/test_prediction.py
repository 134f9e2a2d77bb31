"""Prediction: order and count as the input, ids kept, whole or absent, in agreement with evaluate."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import prediction
from pipeline.errors import SeqtrackError
from pipeline.inference import Classifier
from pipeline.outputs import folder_digest, read_manifest, sha256_file
from pipeline.params import Data
from pipeline.prediction import Predictions, open_source, predict_source
from tests.tiny import save_tiny_classifier
from tests.world import World

NAMES = ("体育", "business", "10")
COLUMNS = Data(path="data/fetched", text=None, text_pair=None, label=None, label_names=None)
TEXTS = [" ".join(["goal", "match money", "bank, “chip”"][i % 3].split() * (1 + i % 7)) for i in range(25)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_tiny_classifier(path, TEXTS, NAMES)
    return path


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Classifier:
    return Classifier.load(folder)


def predict(classifier: Classifier, path: Path, data: Data = COLUMNS, batch_size: int = 4) -> Predictions:
    source = open_source(path, data, rows=path.parent / "rows.parquet")
    return predict_source(classifier, source, path.parent / "predictions", batch_size=batch_size)


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_every_row_gets_its_own_prediction_in_order(classifier: Classifier, tmp_path: Path) -> None:
    done = predict(classifier, write_jsonl(tmp_path / "new.jsonl", [{"text": text} for text in TEXTS]))
    assert done.file == tmp_path / "predictions" / "new.jsonl"
    found = lines_of(done.file)
    assert [line["id"] for line in found] == list(range(len(TEXTS)))
    for text, line in zip(TEXTS, found, strict=True):
        inputs = classifier.encoder.tokenizer(text, truncation=True, max_length=32, return_tensors="pt")
        with torch.inference_mode():
            expected = classifier.model(**inputs).logits[0].double().softmax(0).tolist()
        assert list(line["probabilities"]) == list(NAMES)
        assert list(line["probabilities"].values()) == pytest.approx(expected, abs=1e-3)
        assert line["label"] == max(line["probabilities"], key=line["probabilities"].get)
        assert line["model"] == classifier.digest
    assert (done.rows, sum(done.counts.values()), tuple(done.counts)) == (25, 25, NAMES)


def test_output_does_not_depend_on_where_windows_end(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_jsonl(tmp_path / "new.jsonl", [{"text": text} for text in TEXTS])
    whole = [line["label"] for line in lines_of(predict(classifier, file).file)]
    monkeypatch.setattr(prediction, "WINDOW_BATCHES", 1)
    assert [line["label"] for line in lines_of(predict(classifier, file, batch_size=3).file)] == whole


def test_the_same_input_gives_the_same_bytes(classifier: Classifier, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "new.jsonl", [{"text": text} for text in TEXTS])
    first = predict(classifier, file).file.read_bytes()
    manifest = (tmp_path / "predictions" / "manifest.json").read_bytes()
    assert predict(classifier, file).file.read_bytes() == first
    assert (tmp_path / "predictions" / "manifest.json").read_bytes() == manifest
    assert str(tmp_path).encode() not in manifest


def test_labels_in_the_file_change_nothing(classifier: Classifier, tmp_path: Path) -> None:
    rows = [f'"{text.replace(chr(34), "")}"' for text in TEXTS]
    without = predict(classifier, write_csv(tmp_path / "a.csv", "text", rows)).file.read_bytes()
    labelled = write_csv(tmp_path / "b.csv", "text,label", [f"{row},unheard of" for row in rows])
    assert predict(classifier, labelled).file.read_bytes() == without


@pytest.mark.parametrize(
    ("rows", "ids"),
    [
        ([{"ID": 7, "text": "goal"}, {"ID": "x", "text": "bank"}], [7, "x"]),
        ([{"guid": "g", "Idx": 3, "text": "goal"}], [3]),
        ([{"index": "0010", "text": "goal"}], ["0010"]),
        ([{"identity": 5, "text": "goal"}], [0]),
    ],
)
def test_ids_are_the_users_own_or_row_numbers(
    classifier: Classifier, tmp_path: Path, rows: list[Any], ids: list[Any]
) -> None:
    done = predict(classifier, write_jsonl(tmp_path / "new.jsonl", rows))
    assert [line["id"] for line in lines_of(done.file)] == ids


def test_pairs_and_mapped_columns_are_read(classifier: Classifier, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "pairs.tsv", "guid\tleft\tright", ["a\tgoal\tbank", "b\tbank\tgoal", "c\tgoal\tgoal"])
    data = COLUMNS.model_copy(update={"text": "left", "text_pair": "right"})
    found = lines_of(predict(classifier, file, data).file)
    assert [line["id"] for line in found] == ["a", "b", "c"]
    inputs = classifier.encoder.tokenizer("goal", "bank", return_tensors="pt")
    expected = classifier.model(**inputs).logits[0].detach().double().softmax(0).tolist()
    assert list(found[0]["probabilities"].values()) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "new.jsonl",
            '{"text": "goal"}\n\n{"text": "  "}\n',
            r"jsonl:3: no text in column 'text'; found blank text",
        ),
        ("new.jsonl", '{"text": "goal"}\n{"text": null}\n', r"new.jsonl:2: no text .* found nothing"),
        ("new.jsonl", '{"text": "goal"}\n{"text": 5}\n', r"new.jsonl:2: no text .* found 5, not a string"),
        ("new.jsonl", '{"text": "goal"}\n{oops\n', r"new.jsonl:2: the row cannot be read: invalid_json"),
        ("new.jsonl", '{"text": "goal", "id": 1}\n{"text": "bank"}\n', r"new.jsonl:2: no value in the id column 'id'"),
        ("new.csv", "text,label\ngoal,a\nbank\n", r"new.csv:3: the row cannot be read: ragged"),
        ("new.csv", "words\ngoal\n", r"new.csv.*: no column for the text"),
        ("new.xlsx", "PK", r"unknown file format"),
    ],
)
def test_a_bad_row_or_file_is_named_and_nothing_is_written(
    classifier: Classifier, tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(SeqtrackError, match=message):
        predict(classifier, tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SeqtrackError, match=r"predict\.path: .*nowhere\.csv: file not found"):
        open_source(tmp_path / "nowhere.csv", COLUMNS, rows=tmp_path)


def test_a_failure_leaves_the_earlier_predictions(classifier: Classifier, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "new.jsonl", [{"text": text} for text in TEXTS])
    before = predict(classifier, file).file.read_bytes()
    source = open_source(file, COLUMNS, rows=tmp_path)
    write_jsonl(file, [*({"text": text} for text in TEXTS), {"text": ""}])  # changed behind our back
    with pytest.raises(SeqtrackError, match=r"new\.jsonl:26"):
        predict_source(classifier, source, tmp_path / "predictions", batch_size=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.jsonl", "predictions"]
    assert (tmp_path / "predictions" / "new.jsonl").read_bytes() == before


def test_the_manifest_says_what_went_in(classifier: Classifier, folder: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "new.jsonl", [{"text": text} for text in TEXTS])
    done = predict(classifier, file)
    manifest = read_manifest(tmp_path / "predictions")
    assert manifest["inputs"] == {"model": folder_digest(folder), "file": sha256_file(file)}
    assert manifest["rows"] == {"rows": 25}
    assert manifest["files"] == {"new.jsonl": sha256_file(done.file)}
    assert manifest["predicted"] == done.counts
    assert manifest["run_key"] == done.run_key == "0" * 64


def test_predictions_of_a_split_agree_with_its_evaluation(tmp_path: Path) -> None:
    world = World(tmp_path)
    test = next(split for split in world.evaluate().splits if split.split == "test")
    source = open_source(tmp_path / "splits" / "test.parquet", COLUMNS, rows=tmp_path / "rows.parquet")
    found = lines_of(predict_source(world.classifier, source, tmp_path / "predictions", batch_size=7).file)
    assert [line["id"] for line in found] == test.row_ids.to_pylist()
    names = world.classifier.labels.names
    assert [line["label"] for line in found] == [names[winner] for winner in test.logits.argmax(axis=1)]
    assert len({line["label"] for line in found}) > 1


def test_an_empty_split_gives_an_empty_file(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write_split("test", [])
    source = open_source(tmp_path / "splits" / "test.parquet", COLUMNS, rows=tmp_path / "rows.parquet")
    done = predict_source(world.classifier, source, tmp_path / "predictions", batch_size=7)
    assert (done.rows, done.file.read_bytes()) == (0, b"")


def test_other_parquet_is_refused(tmp_path: Path) -> None:
    World(tmp_path)
    with pytest.raises(SeqtrackError, match="not a split file"):
        open_source(tmp_path / "rows.parquet", COLUMNS, rows=tmp_path / "rows.parquet")


def imported_by(module: str) -> set[str]:
    """Return the project's modules that one needs, read off the sources: importing them takes seconds."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for node in ast.walk(ast.parse(Path(*name.split(".")).with_suffix(".py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pipeline."):
                waiting.append(node.module)
    return found


@pytest.mark.parametrize(
    ("stage", "others"),
    [
        ("predict", {"metrics", "bootstrap", "figures", "evaluation", "tokens"}),
        ("evaluate", {"prediction", "columns", "reading"}),
    ],
)
def test_the_two_stages_do_not_import_each_others_modules(stage: str, others: set[str]) -> None:
    loaded = imported_by(f"stages.{stage}")
    assert "pipeline.inference" in loaded
    assert not {f"pipeline.{name}" for name in others} & loaded
