"""The tokenize stage: same bytes for any batch size and thread, truncation counted."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

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


def run(
    tmp_path: Path, model: Model, rows: list[Row], name: str = "tokenized", max_length: int = 16, **settings: Any
) -> Path:
    write_parquet(table(rows), tmp_path / "rows.parquet")
    tokenize = Tokenize(max_length=max_length, **settings)
    tokenize_rows(tmp_path / "rows.parquet", tmp_path / name, tmp_path / "reports", tokenize, model)
    return tmp_path / name


def check_of(tmp_path: Path) -> dict[str, Any]:
    check = json.loads((tmp_path / "reports" / "tokenization.json").read_text())["check"]
    assert isinstance(check, dict)
    return check


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


def test_truncation_is_a_check_with_its_longest_rows(
    tmp_path: Path, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, model, ROWS)
    check = check_of(tmp_path)
    full = [index % 30 + 4 for index in range(100)]
    assert (check["name"], check["status"], check["policy"]) == ("truncation", "warn", "warn")
    assert check["count"] == sum(length > 16 for length in full)
    lost = sum(length - 16 for length in full if length > 16) / sum(full)
    assert (
        check["message"]
        == f"rows (51.0%) have more than 16 tokens and are cut there: {lost:.1%} of all tokens are lost"
    )
    assert check["fix"].startswith("set tokenize.max_length to 33, which cuts 0 rows;")
    # The longest, in the order of the file; equally long ones by their place.
    rows = table(ROWS).to_pylist()
    longest = sorted(sorted(range(100), key=lambda row: (-full[row], row))[:5])
    assert [(example["source"], example["line"]) for example in check["examples"]] == [
        (rows[row]["source"], rows[row]["line"]) for row in longest
    ]
    assert check["examples"][-1]["snippet"].startswith(f"{full[longest[-1]]} tokens: red red red")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│ truncation")]
    assert [cell.strip() for cell in line.split("│")[1:3]] == ["truncation", "warn"]


def test_nothing_is_cut(tmp_path: Path, model: Model) -> None:
    run(tmp_path, model, ROWS, max_length=33)
    check = check_of(tmp_path)
    assert (check["status"], check["count"], check["fix"]) == ("pass", 0, "")
    assert check["message"] == "no row has more than 33 tokens; the longest has 33"


@pytest.mark.parametrize(
    ("long", "max_length", "fix"),
    [
        (1, 16, "look at the examples"),
        (50, 16, "set tokenize.max_length to 64, which cuts 50 rows;"),
        (50, 64, "divide long texts into rows, or choose a model that reads more than this one's 64 tokens"),
    ],
)
def test_what_to_do_about_truncation(tmp_path: Path, model: Model, long: int, max_length: int, fix: str) -> None:
    run(tmp_path, model, [Row("red")] * 200 + [Row("red " * 90)] * long, max_length=max_length)
    assert check_of(tmp_path)["fix"].startswith(fix)


def test_truncation_may_stop_the_stage(tmp_path: Path, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("red"), Row("green " * 20)]
    with pytest.raises(SeqtrackError) as caught:
        run(tmp_path, model, rows, truncation="error")
    assert "1 check fails: truncation (1); found rows (50.0%) have more than 16 tokens" in str(caught.value)
    assert "rows.csv:2; " in str(caught.value)
    assert str(caught.value).endswith("or go on all the same with tokenize.truncation: warn.")
    assert "22 tokens: green green" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder", "rows.parquet"]
    run(tmp_path, model, rows, max_length=22, truncation="error")
    assert check_of(tmp_path)["status"] == "pass"


def test_truncation_may_be_off(tmp_path: Path, model: Model) -> None:
    run(tmp_path, model, ROWS, truncation="off")
    assert (check_of(tmp_path)["status"], check_of(tmp_path)["message"]) == ("off", "switched off")
    assert json.loads((tmp_path / "reports" / "tokenization.json").read_text())["truncated_rows"] == 51


def test_mistakes_leave_nothing(tmp_path: Path, model: Model) -> None:
    with pytest.raises(SeqtrackError, match="at most 64; found 65"):
        run(tmp_path, model, ROWS, max_length=65)
    (tmp_path / "rows.parquet").unlink()
    with pytest.raises(SeqtrackError, match=r"rows\.parquet: file not found; run `dvc repro`"):
        tokenize_rows(tmp_path / "rows.parquet", tmp_path / "out", tmp_path / "reports", Tokenize(max_length=9), model)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder"]
