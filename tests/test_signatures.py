import os
from pathlib import Path

import numpy as np
import pytest
from canonical import Row, changed, sentence, settings, table

import pipeline.minhash
from pipeline.duplicates import Duplicates, find_duplicates
from pipeline.signatures import KEPT, Signatures, SignatureStore, sign

ROWS = table(
    [
        *(Row(sentence(number), text_pair=sentence(number + 50) if number % 2 else None) for number in range(20)),
        *(Row(changed(sentence(number))) for number in range(0, 20, 2)),
        Row(sentence(0).upper()),
    ]
)


@pytest.fixture
def store(tmp_path: Path) -> SignatureStore:
    return SignatureStore(folder=tmp_path / "signatures", identity="a file")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of signatures computed by each call."""
    calls: list[int] = []
    compute = pipeline.minhash.signatures

    def counting(sets: pipeline.minhash.ShingleHashes, slots: int) -> np.ndarray:
        calls.append(len(sets.offsets) - 1)
        return compute(sets, slots)

    monkeypatch.setattr(pipeline.minhash, "signatures", counting)
    return calls


def same(one: Signatures, other: Signatures) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("content", "sides", "shingles", "slots")
    )


def found(duplicates: Duplicates) -> tuple[list[list[int]], list[float]]:
    return duplicates.near.tolist(), duplicates.similarity.tolist()


def test_another_threshold_computes_no_signature(store: SignatureStore, computed: list[int]) -> None:
    first = find_duplicates(ROWS, settings(), store)
    assert sum(computed) == ROWS.num_rows
    for threshold in (0.6, 0.95, 0.8):
        options = settings(near_duplicate_threshold=threshold)
        again = find_duplicates(ROWS, options, store)
        assert found(again) == found(find_duplicates(ROWS, options, None))
        del computed[ROWS.num_rows :]
    assert found(again) == found(first)
    computed.clear()
    find_duplicates(ROWS, settings(near_duplicate_threshold=0.7), store)
    assert computed == []


def test_what_shapes_a_signature_makes_a_new_entry(store: SignatureStore, computed: list[int]) -> None:
    sign(ROWS, settings(), store)
    for options, identity in (
        (settings(shingle_size=2), "a file"),
        (settings(num_perm=64), "a file"),
        (settings(), "another file"),
    ):
        computed.clear()
        signatures = sign(ROWS, options, SignatureStore(folder=store.folder, identity=identity))
        assert sum(computed) == ROWS.num_rows
        assert same(signatures, sign(ROWS, options))


def test_the_store_keeps_the_entries_used_last(store: SignatureStore) -> None:
    sizes = range(1, KEPT + 1)
    for age, size in enumerate(sizes):
        sign(ROWS, settings(shingle_size=size), store)
        os.utime(store.entry(settings(shingle_size=size)), (age, age))
    sign(ROWS, settings(shingle_size=1), store)
    sign(ROWS, settings(shingle_size=KEPT + 1), store)
    kept = {size for size in range(1, KEPT + 2) if store.entry(settings(shingle_size=size)).exists()}
    assert kept == {1, *range(3, KEPT + 2)}
    assert len(list(store.folder.iterdir())) == KEPT


@pytest.mark.parametrize("name", ["slots.npy", "content.npy", "shingles.npy"])
@pytest.mark.parametrize("damage", ["gone", "empty", "short"])
def test_a_damaged_entry_is_made_anew(store: SignatureStore, name: str, damage: str) -> None:
    whole = sign(ROWS, settings())
    sign(ROWS, settings(), store)
    file = store.entry(settings()) / name
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(b"" if damage == "empty" else data[:-1])
    assert same(sign(ROWS, settings(), store), whole)
    assert file.read_bytes() == data


def test_a_failure_leaves_no_entry(store: SignatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.minhash, "signatures", fail)
    with pytest.raises(KeyboardInterrupt):
        sign(ROWS, settings(), store)
    assert list(store.folder.iterdir()) == []


def test_no_rows_and_single_texts_are_stored_too(store: SignatureStore) -> None:
    for rows in (table([]), table([Row("a b c")])):
        here = SignatureStore(folder=store.folder, identity=str(rows.num_rows))
        assert same(sign(rows, settings(), here), sign(rows, settings()))
        assert same(sign(rows, settings(), here), sign(rows, settings()))
