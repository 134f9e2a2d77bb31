"""The cache of tokens: only new texts are tokenized, and the bytes of the output never depend on it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import token_cache, tokenization
from pipeline.bulk_encoding import BulkEncoder
from pipeline.encoding import Encoder
from pipeline.params import Model, Tokenize
from pipeline.rows import write_parquet
from pipeline.token_cache import text_digests
from pipeline.tokenization import tokenize_rows
from tests.canonical import Row, table
from tests.test_encoding import byte_level
from tests.tiny import save_tiny_encoder

WORDS = st.lists(st.sampled_from(["red", "green", "blue", "xyz", "", "中"]), max_size=12).map(" ".join)
ROWS = st.lists(st.tuples(WORDS, st.none() | WORDS), max_size=25)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("encoder")
    save_tiny_encoder(folder, ["red green blue"])
    return Model(name_or_path=str(folder), revision=None, trust_remote_code=False)


@pytest.fixture
def tokenized(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that a tokenizer saw, in order."""
    seen: list[str] = []
    plain = BulkEncoder.__call__

    def watched(self: BulkEncoder, texts: Any, pairs: Any) -> Any:
        seen.extend(texts)
        return plain(self, texts, pairs)

    monkeypatch.setattr(BulkEncoder, "__call__", watched)
    return seen


def run(folder: Path, model: Model, rows: list[Row], cache: Path | None, max_length: int = 8) -> dict[str, bytes]:
    """Tokenize rows and return the output's files."""
    folder.mkdir(exist_ok=True)
    write_parquet(table(rows), folder / "rows.parquet")
    reports = folder / "reports"
    tokenize_rows(folder / "rows.parquet", folder / "out", reports, Tokenize(max_length=max_length), model, cache)
    return {file.name: file.read_bytes() for place in (folder / "out", reports) for file in place.iterdir()}


def files(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(versions=st.lists(ROWS, min_size=1, max_size=3), batch_rows=st.integers(1, 12), file_bytes=st.integers(1, 2_000))
def test_output_is_the_same_with_and_without_a_cache(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    model: Model,
    versions: list[list[tuple[str, str | None]]],
    batch_rows: int,
    file_bytes: int,
) -> None:
    monkeypatch.setattr(tokenization, "BATCH_ROWS", batch_rows)
    monkeypatch.setattr(token_cache, "FILE_BYTES", file_bytes)
    folder = tmp_path_factory.mktemp("run")
    grown: list[Row] = []
    for version in versions:
        grown = [Row(text, text_pair=pair) for text, pair in version] + grown
        assert run(folder, model, grown, folder / "cache") == run(folder, model, grown, None)


def test_only_new_texts_are_tokenized(tmp_path: Path, model: Model, tokenized: list[str]) -> None:
    cache = tmp_path / "cache"
    run(tmp_path, model, [Row("red", label="a"), Row("green", text_pair="blue")], cache)
    tokenized.clear()
    rows = [
        Row("blue"),
        Row("red", label="b", split="test"),  # the label, the split and the place do not matter
        Row("green", text_pair="blue"),
        Row("green"),
        Row("greenb", text_pair="lue"),
    ]
    run(tmp_path, model, rows, cache)
    assert tokenized == ["blue", "green", "greenb"]
    tokenized.clear()
    run(tmp_path, model, rows[::-1], cache)
    assert tokenized == []


def test_another_tokenizer_or_length_has_tokens_of_its_own(tmp_path: Path, model: Model, tokenized: list[str]) -> None:
    cache, rows = tmp_path / "cache", [Row("red green")]
    other = model.model_copy(update={"name_or_path": str(tmp_path / "other")})
    save_tiny_encoder(tmp_path / "other", ["another red green"])
    for which, max_length in ((model, 8), (model, 4), (other, 8)):
        tokenized.clear()
        run(tmp_path, which, rows, cache, max_length)
        assert tokenized == ["red green"]
    tokenized.clear()
    assert run(tmp_path, other, rows, cache) == run(tmp_path, other, rows, None)
    assert tokenized == ["red green"]  # of the run without a cache


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_file_is_dropped_and_made_anew(
    tmp_path: Path, model: Model, tokenized: list[str], capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    cache, rows = tmp_path / "cache", [Row("red " * count) for count in range(9)]
    whole = run(tmp_path, model, rows, cache)
    (file,) = files(cache)
    content = file.read_bytes()
    middle = len(content) // 2
    damaged = {"cut": content[:middle], "flip": content[:middle] + b"\xff" + content[middle + 1 :], "empty": b""}[
        damage
    ]
    assert damaged != content
    file.write_bytes(damaged)
    tokenized.clear()
    capsys.readouterr()
    assert run(tmp_path, model, rows, cache) == whole
    assert len(tokenized) == 9
    assert f"cached tokens are damaged, and made anew: {file}" in capsys.readouterr().out
    assert [path.read_bytes() for path in files(cache)] == [content]


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    tmp_path: Path, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("not a folder")
    assert run(tmp_path, model, [Row("red")], tmp_path / "cache") == run(tmp_path, model, [Row("red")], None)
    assert "tokens cannot be kept for the next run" in capsys.readouterr().out


def test_a_file_deleted_by_another_process_is_not_missed(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    whole = run(tmp_path, model, [Row("red")], cache)

    def deleted(path: Path) -> str:
        path.unlink()
        raise FileNotFoundError(path)

    monkeypatch.setattr(token_cache, "sha256_file", deleted)
    assert run(tmp_path, model, [Row("red")], cache) == whole


def test_runs_at_the_same_time_share_a_cache(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenization, "BATCH_ROWS", 10)
    monkeypatch.setattr(token_cache, "FILE_BYTES", 500)
    rows = [Row(f"red {'green ' * (number % 7)} {number}") for number in range(150)]
    cache = tmp_path / "cache"
    whole = run(tmp_path / "plain", model, rows, None)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: run(tmp_path / str(number), model, rows[:], cache), range(8)))
    assert found == [whole] * 8
    assert {path.suffix for path in files(cache)} == {".arrow"}


def test_the_files_used_last_are_kept(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    made: dict[str, Path] = {}
    for age, text in enumerate(["red", "green", "blue"]):
        run(tmp_path, model, [Row(text)], cache)
        (made[text],) = set(files(cache)) - set(made.values())
        os.utime(made[text], (1_000 + age, 1_000 + age))
    abandoned = made["red"].with_name(".x.tmp")  # by a process that was killed
    abandoned.touch()
    os.utime(abandoned, (1, 1))
    monkeypatch.setattr(token_cache, "MOST_BYTES", sum(path.stat().st_size for path in made.values()) - 1)
    run(tmp_path, model, [Row("red"), Row("blue")], cache)
    assert set(files(cache)) == {made["red"], made["blue"]}


def test_a_switch_of_the_tokenizer_is_part_of_its_definition() -> None:
    """Whether special tokens in a text are taken for text, which the tokenizer's file does not say."""
    encoder = Encoder(byte_level(), 8)
    before = BulkEncoder(encoder).definition
    encoder.tokenizer.backend_tokenizer.encode_special_tokens = True
    assert BulkEncoder(encoder).definition != before


def test_digests_tell_texts_apart() -> None:
    texts = ["a", "a", "ab", "", "", ":a", "1:ab"]
    pairs = [None, "", "c", None, "", None, None]
    digests = text_digests([*texts, "a"], [*pairs, "bc"])
    assert digests.shape == (8, 2)
    assert len({tuple(row) for row in digests.tolist()}) == 8
