from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from pipeline.errors import SeqtrackError
from pipeline.sources_hub import resolve_commit, write_splits
from tests import hub

CLASSES = ClassLabel(names=["bad", "good"])


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with hub.hub() as url:
        yield url


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> str:
    """The stand-in is the hub, whatever the tests' own environment says; the client reads that on import."""
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return endpoint


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_revision_becomes_a_commit(online: str) -> None:
    assert resolve_commit(hub.NAME, None) == hub.COMMIT
    assert resolve_commit(hub.NAME, "main") == hub.COMMIT


@pytest.mark.parametrize(
    ("name", "revision", "problem"),
    [
        ("team/gated", None, "is gated"),
        ("team/missing", None, "does not exist, or is private"),
        ("team/unauthorised", None, "was not handed out.*401"),
        ("team/broken", None, "was not handed out.*500"),
        ("team/unavailable", None, "was not handed out.*503"),
        ("team/login", None, "answers, but not as a hub does"),
        (hub.NAME, "v2", "has no revision 'v2'"),
    ],
)
def test_what_the_hub_refuses_is_one_line_with_ways_out(
    online: str, name: str, revision: str | None, problem: str
) -> None:
    with pytest.raises(SeqtrackError, match=problem) as raised:
        resolve_commit(name, revision)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(f"fetch.source hub, {name}: ")
    assert online in message
    assert "set fetch.source to sample, or to none with data.path" in message


def test_a_name_that_can_be_no_data_set(online: str) -> None:
    with pytest.raises(SeqtrackError, match="not the id of a data set"):
        resolve_commit("../somewhere", None)


def test_nobody_listens(online: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", url)
        with pytest.raises(SeqtrackError, match=rf"the hub {url} cannot be reached.*fetch.source to sample"):
            resolve_commit(hub.NAME, None)


def test_offline_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SeqtrackError, match=r"HF_HUB_OFFLINE.*set fetch\.source to sample"):
        resolve_commit(hub.NAME, None)


def test_splits_become_files_with_class_names(tmp_path: Path) -> None:
    features = Features({"sentence": Value("string"), "label": CLASSES, "idx": Value("int32")})
    train = Dataset.from_dict({"sentence": ["ä\n", "b"], "label": [1, 0], "idx": [7, 8]}, features=features)
    test = Dataset.from_dict({"sentence": ["c"], "label": [-1], "idx": [9]}, features=features)
    rows = write_splits(DatasetDict(train=train, test=test), tmp_path)
    assert rows == {"test.jsonl": 1, "train.jsonl": 2}
    assert read(tmp_path / "train.jsonl") == [
        {"sentence": "ä\n", "label": "good", "idx": 7},
        {"sentence": "b", "label": "bad", "idx": 8},
    ]
    assert read(tmp_path / "test.jsonl") == [{"sentence": "c", "label": None, "idx": 9}]


def test_other_kinds_of_columns(tmp_path: Path) -> None:
    features = Features(
        {"tags": List(CLASSES), "score": Value("float64"), "at": Value("timestamp[s]"), "label": CLASSES}
    )
    columns = {
        "tags": [[0, 1], None],
        "score": [0.5, float("nan")],
        "at": [datetime(2024, 1, 2), None],
        "label": [None, 1],
    }
    write_splits(DatasetDict(all=Dataset.from_dict(columns, features=features)), tmp_path)
    assert read(tmp_path / "all.jsonl") == [
        {"tags": ["bad", "good"], "score": 0.5, "at": "2024-01-02T00:00:00", "label": None},
        {"tags": None, "score": None, "at": None, "label": "good"},
    ]


def test_more_rows_than_a_batch_keep_their_order(tmp_path: Path) -> None:
    write_splits(DatasetDict(all=Dataset.from_dict({"n": list(range(2500))})), tmp_path)
    assert [row["n"] for row in read(tmp_path / "all.jsonl")] == list(range(2500))


def test_values_without_a_form_in_json(tmp_path: Path) -> None:
    data = Dataset.from_dict({"image": [b"\x89PNG"]}, features=Features({"image": Value("binary")}))
    with pytest.raises(SeqtrackError, match=r"no form for.*all\.jsonl|all\.jsonl.*no form for"):
        write_splits(DatasetDict(all=data), tmp_path)


def test_no_split_at_all(tmp_path: Path) -> None:
    with pytest.raises(SeqtrackError, match="no split"):
        write_splits(DatasetDict(), tmp_path)
