"""Prediction: order and count as the input, ids kept, whole or absent, in agreement with evaluate."""

from __future__ import annotations

import ast
import csv
import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline import prediction
from pipeline.columns import Columns
from pipeline.errors import SeqtrackError
from pipeline.inference import Classifier
from pipeline.outputs import folder_digest, read_manifest, sha256_file
from pipeline.params import Data, Predict
from pipeline.prediction import Predictions, ahead, predict_sources
from pipeline.prediction_input import Example, open_sources
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


def predict(
    classifier: Classifier,
    path: Path,
    data: Data = COLUMNS,
    *,
    trained: Columns | None = None,
    out: Path | None = None,
    **settings: Any,
) -> Predictions:
    """Predict what is at a path, into a folder beside it."""
    settings = {"path": str(path), "batch_size": 4} | settings
    pattern = settings.get("pattern")
    sources = open_sources(path, data, rows=path.parent / "rows.parquet", pattern=pattern, trained=trained)
    return predict_sources(classifier, sources, out or path.parent / "predictions", Predict(**settings))


def predict_split(world: World) -> Predictions:
    root = world.folder
    sources = open_sources(root / "splits" / "test.parquet", COLUMNS, rows=root / "rows.parquet")
    return predict_sources(world.classifier, sources, root / "predictions", Predict(path="unused", batch_size=7))


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
    assert done.files[0] == tmp_path / "predictions" / "new.jsonl"
    found = lines_of(done.files[0])
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
    whole = [line["label"] for line in lines_of(predict(classifier, file).files[0])]
    monkeypatch.setattr(prediction, "WINDOW_ROWS", 3)
    assert [line["label"] for line in lines_of(predict(classifier, file, batch_size=3).files[0])] == whole


def test_the_same_input_gives_the_same_bytes(classifier: Classifier, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "new.jsonl", [{"text": text} for text in TEXTS])
    first = predict(classifier, file).files[0].read_bytes()
    manifest = (tmp_path / "predictions" / "manifest.json").read_bytes()
    assert predict(classifier, file).files[0].read_bytes() == first
    assert (tmp_path / "predictions" / "manifest.json").read_bytes() == manifest
    assert str(tmp_path).encode() not in manifest


def test_labels_in_the_file_change_nothing(classifier: Classifier, tmp_path: Path) -> None:
    rows = [f'"{text.replace(chr(34), "")}"' for text in TEXTS]
    without = predict(classifier, write_csv(tmp_path / "a.csv", "text", rows)).files[0].read_bytes()
    labelled = write_csv(tmp_path / "b.csv", "text,label", [f"{row},unheard of" for row in rows])
    assert predict(classifier, labelled).files[0].read_bytes() == without


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
    assert [line["id"] for line in lines_of(done.files[0])] == ids


def test_pairs_and_mapped_columns_are_read(classifier: Classifier, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "pairs.tsv", "guid\tleft\tright", ["a\tgoal\tbank", "b\tbank\tgoal", "c\tgoal\tgoal"])
    data = COLUMNS.model_copy(update={"text": "left", "text_pair": "right"})
    found = lines_of(predict(classifier, file, data).files[0])
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
        open_sources(tmp_path / "nowhere.csv", COLUMNS, rows=tmp_path)


def test_a_failure_leaves_the_earlier_predictions(classifier: Classifier, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "new.jsonl", [{"text": text} for text in TEXTS])
    before = predict(classifier, file).files[0].read_bytes()
    sources = open_sources(file, COLUMNS, rows=tmp_path)
    write_jsonl(file, [*({"text": text} for text in TEXTS), {"text": ""}])  # changed behind our back
    with pytest.raises(SeqtrackError, match=r"new\.jsonl:26"):
        predict_sources(classifier, sources, tmp_path / "predictions", Predict(path=str(file), batch_size=4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.jsonl", "predictions"]
    assert (tmp_path / "predictions" / "new.jsonl").read_bytes() == before


def test_the_manifest_says_what_went_in(classifier: Classifier, folder: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "new.jsonl", [{"text": text} for text in TEXTS])
    done = predict(classifier, file)
    manifest = read_manifest(tmp_path / "predictions")
    assert manifest["inputs"] == {"model": folder_digest(folder), "new/file": sha256_file(file)}
    assert manifest["rows"] == {"new": 25}
    assert manifest["files"] == {"new.jsonl": sha256_file(done.files[0])}
    assert manifest["predicted"] == done.counts
    assert manifest["run_key"] == done.run_key == "0" * 64


def test_predictions_of_a_split_agree_with_its_evaluation(tmp_path: Path) -> None:
    world = World(tmp_path)
    test = next(split for split in world.evaluate().splits if split.split == "test")
    found = lines_of(predict_split(world).files[0])
    assert [line["id"] for line in found] == test.row_ids.to_pylist()
    names = world.classifier.labels.names
    assert [line["label"] for line in found] == [names[winner] for winner in test.logits.argmax(axis=1)]
    assert len({line["label"] for line in found}) > 1


def test_an_empty_split_gives_an_empty_file(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write_split("test", [])
    done = predict_split(world)
    assert (done.rows, done.files[0].read_bytes()) == (0, b"")


def table_of(file: Path) -> list[dict[str, Any]]:
    """Return predictions of any format in the columns of CSV, all values as strings."""
    if file.suffix == ".parquet":
        rows = pq.read_table(file).to_pylist()
    elif file.suffix == ".jsonl":
        rows = [
            {key: value for key, value in line.items() if key != "probabilities"}
            | {f"probability_{name}": chance for name, chance in line["probabilities"].items()}
            for line in lines_of(file)
        ]
    else:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t" if file.suffix == ".tsv" else ","))
    return [{key: str(value) for key, value in row.items()} for row in rows]


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet"])
@pytest.mark.parametrize("ids", [list(range(25)), ["a\tb", 'say "x", y', *range(23)]])
def test_every_format_says_the_same(classifier: Classifier, tmp_path: Path, form: str, ids: list[Any]) -> None:
    rows = [{"id": name, "text": text} for name, text in zip(ids, TEXTS, strict=True)]
    file = write_jsonl(tmp_path / "new.jsonl", rows)
    expected = table_of(predict(classifier, file).files[0])
    (found,) = predict(classifier, file, format=form).files
    assert found.name == f"new.{form}"
    assert sorted(path.name for path in found.parent.iterdir()) == ["manifest.json", found.name]
    assert table_of(found) == expected
    first = found.read_bytes()
    assert predict(classifier, file, format=form).files[0].read_bytes() == first


def test_parquet_keeps_integers(classifier: Classifier, tmp_path: Path) -> None:
    (file,) = predict(
        classifier, write_jsonl(tmp_path / "new.jsonl", [{"idx": 2, "text": "goal"}]), format="parquet"
    ).files
    schema = pq.read_schema(file)
    assert (schema.field("id").type, schema.field("label").type) == (pa.int64(), pa.string())
    assert schema.names[2:-1] == [f"probability_{name}" for name in NAMES]


def test_whatever_validate_reads_gives_the_same_predictions(classifier: Classifier, tmp_path: Path) -> None:
    rows = [{"id": number, "text": text} for number, text in enumerate(TEXTS)]
    expected = predict(classifier, write_jsonl(tmp_path / "plain.jsonl", rows)).files[0].read_bytes()
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "new.parquet")
    with pa.ipc.new_file(tmp_path / "new.arrow", table.schema) as stream:
        stream.write_table(table)
    with gzip.open(tmp_path / "new.jsonl.gz", "wb") as packed:
        packed.write((tmp_path / "plain.jsonl").read_bytes())
    (tmp_path / "new.json").write_text(json.dumps(rows), encoding="utf-8")
    for name in ("new.parquet", "new.arrow", "new.jsonl.gz", "new.json"):
        (file,) = predict(classifier, tmp_path / name).files
        assert (file.name, file.read_bytes()) == ("new.jsonl", expected), name


def test_a_folder_gives_a_file_for_each_of_its_own(classifier: Classifier, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("test_a.jsonl", "test_b.jsonl", "other.jsonl", "more/test_c.jsonl")):
        write_jsonl(folder / name, [{"text": text} for text in TEXTS[: 3 + number]])
    done = predict(classifier, folder, pattern="**/test*.jsonl")
    assert [file.name for file in done.files] == ["test_c.jsonl", "test_a.jsonl", "test_b.jsonl"]
    assert [len(lines_of(file)) for file in done.files] == [6, 3, 4]
    assert (done.rows, sum(done.counts.values())) == (13, 13)
    assert read_manifest(done.files[0].parent)["rows"] == {"test_a": 3, "test_b": 4, "test_c": 6}
    write_jsonl(folder / "more" / "test_a.jsonl", [{"text": "goal"}])
    names = {file.name for file in predict(classifier, folder, pattern="**/test_a.jsonl").files}
    assert names == {"test_a.jsonl.jsonl", "more_test_a.jsonl.jsonl"}


def test_a_folder_per_label_is_one_source(classifier: Classifier, tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "texts" / label).mkdir(parents=True)
        (tmp_path / "texts" / label / "1.txt").write_text(f"goal {label}")
    (file,) = predict(classifier, tmp_path / "texts").files
    assert (file.name, len(lines_of(file))) == ("texts.jsonl", 2)


def of_training(text: str, pair: str | None = None) -> Columns:
    return Columns(text=text, text_pair=pair, label="class", split=None)


def test_the_columns_of_the_training_are_found_without_settings(classifier: Classifier, tmp_path: Path) -> None:
    rows = [{"text": "bank", "Words": text} for text in TEXTS]
    plain = [{"text": text} for text in TEXTS]
    expected = predict(classifier, write_jsonl(tmp_path / "new.jsonl", plain)).files[0].read_bytes()
    file = write_jsonl(tmp_path / "new.jsonl", rows)
    assert predict(classifier, file, trained=of_training("words")).files[0].read_bytes() == expected
    # What params.yaml says goes before it, and a file without that column is read by the usual names.
    chosen = predict(classifier, file, COLUMNS.model_copy(update={"text": "text"}), trained=of_training("words"))
    assert chosen.files[0].read_bytes() != expected
    file = write_jsonl(tmp_path / "new.jsonl", plain)
    assert predict(classifier, file, trained=of_training("words")).files[0].read_bytes() == expected


def test_columns_without_names_are_told_by_what_they_hold(classifier: Classifier, tmp_path: Path) -> None:
    pairs = [f"a goal in match {number}\tmoney in bank number {number}" for number in range(20)]
    (tmp_path / "new.tsv").write_text("".join(f"{pair}\n" for pair in pairs))
    trained = of_training("column 1 (text)", "column 2 (text_pair)")
    found = predict(classifier, tmp_path / "new.tsv", trained=trained).files[0].read_bytes()
    texts = [dict(zip(("text", "text_pair"), pair.split("\t"), strict=True)) for pair in pairs]
    assert predict(classifier, write_jsonl(tmp_path / "new.jsonl", texts)).files[0].read_bytes() == found
    # The other way round: trained on columns without names, asked about columns with names.
    assert predict(classifier, tmp_path / "new.jsonl", trained=trained).files[0].read_bytes() == found


def test_a_second_text_that_the_model_never_read_is_left_out(classifier: Classifier, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "new.jsonl", [{"sentence1": text, "sentence2": "bank"} for text in TEXTS])
    single = predict(classifier, file, trained=of_training("sentence1")).files[0].read_bytes()
    file = write_jsonl(tmp_path / "new.jsonl", [{"sentence1": text} for text in TEXTS])
    assert predict(classifier, file).files[0].read_bytes() == single


@pytest.mark.parametrize(
    ("row", "trained", "message"),
    [
        ({"text": "goal"}, of_training("left", "right"), "the model reads pairs of texts.*such as left and right"),
        ({"premise": "a", "hypothesis": "b"}, of_training("text"), "the model reads single texts, and this file has p"),
    ],
)
def test_pairs_for_a_model_of_single_texts_and_the_reverse(
    classifier: Classifier, tmp_path: Path, row: dict[str, str], trained: Columns, message: str
) -> None:
    with pytest.raises(SeqtrackError, match=message):
        predict(classifier, write_jsonl(tmp_path / "new.jsonl", [row]), trained=trained)


def test_one_blank_text_of_a_pair_is_answered(classifier: Classifier, tmp_path: Path) -> None:
    rows = [{"text": "goal", "text_pair": ""}, {"text": " ", "text_pair": "bank"}]
    assert predict(classifier, write_jsonl(tmp_path / "new.jsonl", rows)).rows == 2
    with pytest.raises(SeqtrackError, match=r"new\.jsonl:1: no text"):
        predict(classifier, write_jsonl(tmp_path / "new.jsonl", [{"text": "", "text_pair": " "}]))


def test_memory_does_not_grow_with_the_file(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more rows are alive at once than a window and the reader hold."""
    monkeypatch.setattr(prediction, "WINDOW_ROWS", 8)
    held: list[int] = []
    encode = classifier.encoder.encode
    monkeypatch.setattr(
        classifier.encoder, "encode", lambda texts, pairs: (held.append(len(texts)), encode(texts, pairs))[1]
    )
    predict(classifier, write_jsonl(tmp_path / "new.jsonl", [{"text": text} for text in TEXTS * 4]))
    assert (max(held), sum(held)) == (8, 100)


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


def test_a_window_of_long_texts_has_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "WINDOW_ROWS", 4)
    monkeypatch.setattr(prediction, "WINDOW_CHARACTERS", 10)
    texts = ["a" * 20, "b", "c" * 9, "d", "e", "f", "g", "h"]
    windows = prediction._windows((Example(number, text, None) for number, text in enumerate(texts)), 1)
    assert [[row.text for row in window] for window in windows] == [texts[:1], texts[1:3], texts[3:7], texts[7:]]


def test_made_ahead_are_the_same_values_one_of_them_waiting() -> None:
    made: list[int] = []

    def values() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    with closing(ahead(values())) as coming:
        for number, value in enumerate(coming):
            assert value == number
            assert len(made) <= number + 2
    assert made == list(range(20))


def test_an_error_ahead_comes_in_its_place_and_leaves_no_thread() -> None:
    def values() -> Iterator[str]:
        yield "first"
        raise SeqtrackError("the second is bad")

    before = threading.active_count()
    with closing(ahead(values())) as coming:
        assert next(coming) == "first"
        with pytest.raises(SeqtrackError, match="second"):
            next(coming)
    with closing(ahead(iter(range(1, 100)))) as stopped:
        assert next(stopped) == 1
    assert threading.active_count() == before


def test_rows_read_ahead_give_the_same_predictions(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU gets, on a CPU."""
    monkeypatch.setattr(prediction, "WINDOW_ROWS", 6)
    file = write_jsonl(tmp_path / "new.jsonl", [{"text": text} for text in TEXTS])
    expected = predict(classifier, file).files[0].read_bytes()
    used: list[bool] = []
    monkeypatch.setattr(prediction, "_overlaps", lambda _: used.append(True) or True)
    assert predict(classifier, file).files[0].read_bytes() == expected
    assert used
