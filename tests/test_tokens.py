"""Token files: the same bytes however rows arrive, read without loading."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import tokens
from pipeline.encoding import Encoded, FlatRows, Padding
from pipeline.errors import SeqtrackError
from pipeline.outputs import write_manifest
from pipeline.tokens import TokenStore, shard_writer, token_columns

PADDING = Padding(pad_token_id=0, pad_token_type_id=0, side="right")
ROWS = 23


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "SHARD_ROWS", 5)


def rows(count: int, *, token_types: bool = True) -> tuple[list[str], Encoded]:
    generator = np.random.default_rng(1)
    ids = [generator.integers(1, 30_000, size=generator.integers(2, 9)).tolist() for _ in range(count)]
    types = [[index % 2 for index in range(len(row))] for row in ids]
    full = [len(row) + index % 3 for index, row in enumerate(ids)]
    return [f"{index:032x}" for index in range(count)], Encoded(
        input_ids=ids, token_type_ids=types if token_types else None, full_lengths=full
    )


def write(folder: Path, cuts: list[int], count: int = ROWS, *, token_types: bool = True) -> dict[str, bytes]:
    """Write rows in pieces that end at the cuts."""
    folder.mkdir(parents=True, exist_ok=True)
    ids, encoded = rows(count, token_types=token_types)
    with shard_writer(folder, token_types=token_types) as writer:
        for start, end in pairwise([0, *cuts, count]):
            piece = Encoded(
                input_ids=encoded.input_ids[start:end],
                token_type_ids=None if encoded.token_type_ids is None else encoded.token_type_ids[start:end],
                full_lengths=encoded.full_lengths[start:end],
            )
            writer.write(pa.array(ids[start:end], pa.string()), token_columns(FlatRows.of(piece)))
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def opened(folder: Path) -> TokenStore:
    return TokenStore(sorted(folder.glob("*.arrow")), PADDING)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, ROWS)).map(sorted))
def test_bytes_do_not_depend_on_how_rows_arrive(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
    whole = write(tmp_path_factory.mktemp("whole"), [])
    assert write(tmp_path_factory.mktemp("pieces"), cuts) == whole
    assert list(whole) == [f"tokens-{index:05d}.arrow" for index in range(5)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(positions=st.lists(st.integers(0, ROWS - 1)))
def test_distinct_ids_are_those_of_the_rows_asked_for(
    tmp_path_factory: pytest.TempPathFactory, positions: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("tokens")
    write(folder, [])
    _, encoded = rows(ROWS)
    found = opened(folder).distinct_ids(np.array(positions, np.int64))
    assert found.tolist() == sorted({PADDING.pad_token_id}.union(*(encoded.input_ids[row] for row in positions)))
    assert found.dtype == np.int64


@pytest.mark.parametrize("count", [0, 1, 5, 6, 10, ROWS])
@pytest.mark.parametrize("token_types", [False, True])
def test_what_was_written_is_read(tmp_path: Path, count: int, token_types: bool) -> None:
    write(tmp_path, [], count, token_types=token_types)
    ids, encoded = rows(count)
    store = opened(tmp_path)
    assert store.row_ids.to_pylist() == ids
    assert store.lengths.tolist() == [len(row) for row in encoded.input_ids]
    assert store.full_lengths.tolist() == encoded.full_lengths
    assert store.lengths.dtype == store.full_lengths.dtype == np.int32
    order = np.random.default_rng(0).permutation(count)
    for position in order:  # each alone, at its own length
        batch = store.batch(np.array([position]), pad_to_multiple_of=1)
        assert batch["input_ids"].tolist() == [encoded.input_ids[position]]
        assert ("token_type_ids" in batch) == token_types
        if token_types:
            assert encoded.token_type_ids is not None
            assert batch["token_type_ids"].tolist() == [encoded.token_type_ids[position]]
    if count:
        batch = store.batch(order)
        for position, row, mask in zip(order, batch["input_ids"], batch["attention_mask"], strict=True):
            assert row[mask.bool()].tolist() == encoded.input_ids[position]
        assert batch["input_ids"].shape[1] % 8 == 0


def test_every_shard_but_the_last_is_full(tmp_path: Path) -> None:
    write(tmp_path, [3, 17])
    counts = []
    for file in sorted(tmp_path.iterdir()):
        with pa.memory_map(str(file)) as source:
            reader = pa.ipc.open_file(source)
            assert reader.num_record_batches == 1
            counts.append(reader.get_batch(0).num_rows)
    assert counts == [5, 5, 5, 5, 3]


def test_positions_follow_the_ids(tmp_path: Path) -> None:
    write(tmp_path, [])
    store = opened(tmp_path)
    ids, _ = rows(ROWS)
    wanted = [20, 0, 20, 7]
    found = store.positions(pa.array([ids[index] for index in wanted]))
    assert found.tolist() == wanted
    assert found.dtype == np.int64
    with pytest.raises(SeqtrackError, match=r"row ff has no tokens.*dvc repro"):
        store.positions(pa.array([ids[0], "ff"]))


def test_opening_maps_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "SHARD_ROWS", 50_000)
    long = [[7] * 4_000] * 500  # 8 MB of ids
    with shard_writer(tmp_path, token_types=False) as writer:
        writer.write(
            pa.array([f"{index:032x}" for index in range(500)]),
            token_columns(FlatRows.of(Encoded(input_ids=long, token_type_ids=None, full_lengths=[4_000] * 500))),
        )
    before = pa.total_allocated_bytes()
    store = opened(tmp_path)
    assert pa.total_allocated_bytes() - before < 1_000_000
    assert store.batch(np.array([499]))["input_ids"].sum() == 28_000


def test_a_folder_is_opened_by_its_manifest(tmp_path: Path) -> None:
    write(tmp_path, [])
    padding = {"pad_token_id": 4, "pad_token_type_id": 2, "side": "left"}
    write_manifest(tmp_path, inputs={}, params={}, rows={}, padding=padding)
    store = TokenStore.open(tmp_path)
    assert store.padding == Padding(**padding)
    assert len(store.lengths) == ROWS


def test_opened_to_pad_every_batch_to_the_longest_a_row_may_be(tmp_path: Path) -> None:
    write(tmp_path, [ROWS])
    write_manifest(tmp_path, inputs={}, params={"max_length": 13}, rows={}, padding=vars(PADDING))
    store = TokenStore.open(tmp_path, pad_to_max_length=True)
    batches = [store.batch(np.arange(first, first + 4)) for first in (0, 7, 15)]
    assert {batch["input_ids"].shape for batch in batches} == {(4, 13)}
    assert batches[0]["attention_mask"].sum(dim=1).tolist() == store.lengths[:4].tolist()


@pytest.mark.parametrize("damage", ["gone", "cut", "empty"])
def test_damaged_files_are_explained(tmp_path: Path, damage: str) -> None:
    write(tmp_path, [])
    write_manifest(tmp_path, inputs={}, params={}, rows={}, padding=vars(PADDING))
    file = tmp_path / "tokens-00002.arrow"
    data = file.read_bytes()
    file.unlink()
    if damage != "gone":
        file.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
    with pytest.raises(SeqtrackError, match=r"token files are missing or damaged.*dvc repro"):
        TokenStore.open(tmp_path)


def test_a_missing_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(SeqtrackError, match="file not found"):
        TokenStore.open(tmp_path / "tokenized")
