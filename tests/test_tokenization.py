"""The tokenize stage: same bytes for any batch size and thread, truncation counted."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from pipeline import tokenization
from pipeline.errors import SeqtrackError
from pipeline.outputs import read_manifest
from pipeline.params import Model, Tokenize
from pipeline.rows import write_parquet
from pipeline.tokenization import tokenize_rows
from pipeline.tokens import TokenStore
from tests.canonical import Row, table
from tests.tiny import save_tiny_encoder

ROWS = [Row("red " * (index % 30), text_pair="green") for index in range(100)]


@pytest.fixture
def model(tmp_path: Path) -> Model:
    save_tiny_encoder(tmp_path / "encoder", ["red green"])
    return Model(name_or_path=str(tmp_path / "encoder"), revision=None, trust_remote_code=False)


def run(tmp_path: Path, model: Model, rows: list[Row], name: str = "tokenized", max_length: int = 16) -> Path:
    write_parquet(table(rows), tmp_path / "rows.parquet")
    tokenize_rows(
        tmp_path / "rows.parquet", tmp_path / name, tmp_path / "reports", Tokenize(max_length=max_length), model
    )
    return tmp_path / name


def test_rows_lengths_and_report(tmp_path: Path, model: Model) -> None:
    folder = run(tmp_path, model, ROWS)
    store = TokenStore.open(folder)
    full = [index % 30 + 4 for index in range(100)]  # [CLS] text [SEP] green [SEP]
    assert store.row_ids.to_pylist() == table(ROWS)["row_id"].to_pylist()
    assert store.full_lengths.tolist() == full
    assert store.lengths.tolist() == [min(length, 16) for length in full]
    report = json.loads((tmp_path / "reports" / "tokenization.json").read_text())
    assert report["rows"] == 100
    assert report["truncated_rows"] == sum(length > 16 for length in full)
    assert report["truncated_ratio"] == report["truncated_rows"] / 100
    assert report["tokens"] == sum(min(length, 16) for length in full)
    assert report["tokens_before_truncation"] == sum(full)
    assert report["lengths_before_truncation"]["max"] == 33
    assert report["lengths_before_truncation"]["p50"] == sorted(full)[50]
    with (tmp_path / "reports" / "length_distribution.csv").open() as stream:
        bins = list(csv.DictReader(stream))
    assert sum(int(line["rows"]) for line in bins) == 100
    for line in bins[:-1]:
        assert int(line["rows"]) <= sum(length <= int(line["tokens_up_to"]) for length in full)
    assert bins[-1]["tokens_up_to"] == "33"
    manifest = read_manifest(folder)
    assert manifest["rows"] == {"rows": 100}
    assert manifest["params"]["max_length"] == 16
    assert manifest["padding"] == {"pad_token_id": 0, "pad_token_type_id": 0, "side": "right"}


def test_bytes_do_not_depend_on_batches_or_threads(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = run(tmp_path, model, ROWS, "one")
    monkeypatch.setattr(tokenization, "BATCH_ROWS", 7)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    two = run(tmp_path, model, ROWS, "two")
    assert {file.name: file.read_bytes() for file in one.iterdir()} == {
        file.name: file.read_bytes() for file in two.iterdir()
    }


def test_no_rows(tmp_path: Path, model: Model) -> None:
    assert len(TokenStore.open(run(tmp_path, model, [])).lengths) == 0


def test_single_texts_beside_pairs(tmp_path: Path, model: Model) -> None:
    """One folder may hold a file of single texts and a file of pairs."""
    rows = [Row("red"), Row("red", text_pair="green"), Row("red red")]
    assert TokenStore.open(run(tmp_path, model, rows)).lengths.tolist() == [3, 5, 4]


def test_the_tokenizer_is_an_input(tmp_path: Path, model: Model) -> None:
    before = read_manifest(run(tmp_path, model, ROWS))["inputs"]
    save_tiny_encoder(Path(model.name_or_path), ["red green blue"])
    after = read_manifest(run(tmp_path, model, ROWS))["inputs"]
    assert before["rows"] == after["rows"]
    assert before["tokenizer"] != after["tokenizer"]


def test_mistakes_leave_nothing(tmp_path: Path, model: Model) -> None:
    with pytest.raises(SeqtrackError, match="at most 64; found 65"):
        run(tmp_path, model, ROWS, max_length=65)
    (tmp_path / "rows.parquet").unlink()
    with pytest.raises(SeqtrackError, match=r"rows\.parquet: file not found; run `dvc repro`"):
        tokenize_rows(tmp_path / "rows.parquet", tmp_path / "out", tmp_path / "reports", Tokenize(max_length=9), model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder"]
