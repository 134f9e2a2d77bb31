"""The model over HTTP: equal answers alone and together, every refusal with its reason, start and end of a process."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from pipeline.code import HOME
from pipeline.columns import Columns
from pipeline.errors import SeqtrackError
from pipeline.inference import Classifier
from pipeline.labels import LabelSet
from pipeline.model_uri import TrainedModel
from pipeline.params import Serve, load_params
from pipeline.prediction_input import Example
from pipeline.serving import answer, application
from pipeline.serving_batches import LineTooLongError, Merger
from pipeline.serving_process import bind, url_of
from stages import serve
from tests.process import ROOT
from tests.tiny import save_tiny_classifier
from tests.world import OneOutput

NAMES = ("bad", "good", "other")
WORDS = ("awful", "red", "film", "great", "green", "<b>x</b>")
SERVE = load_params(HOME / "params.yaml").serve
SMALL = SERVE.model_copy(update={"max_rows": 3, "max_characters": 20, "max_body_mib": 1})
SINGLE = Columns(text="text", text_pair=None, label="label", split=None)
PAIRS = Columns(text="sentence1", text_pair="sentence2", label="label", split=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model"
    save_tiny_classifier(path, [*WORDS, " ".join(WORDS)], NAMES)
    return path


@pytest.fixture(scope="module")
def single(folder: Path) -> TrainedModel:
    return TrainedModel(classifier=Classifier.load(folder), columns=SINGLE)


@pytest.fixture(scope="module")
def pairs(single: TrainedModel) -> TrainedModel:
    return replace(single, columns=PAIRS)


@pytest.fixture(scope="module")
def sets(single: TrainedModel) -> TrainedModel:
    labels = LabelSet(problem_type="multi_label_classification", names=NAMES)
    limits = np.array([0.01, 0.5, 1.0])
    return replace(single, classifier=replace(single.classifier, labels=labels, thresholds=limits))


@pytest.fixture(scope="module")
def number(single: TrainedModel) -> TrainedModel:
    labels = LabelSet(problem_type="regression", names=())
    model = OneOutput(single.classifier.model)
    model.get_input_embeddings = single.classifier.model.get_input_embeddings
    return replace(single, classifier=replace(single.classifier, labels=labels, model=model))


def client(model: TrainedModel, serve: Serve = SERVE, **more: Any) -> TestClient:
    return TestClient(application(model, serve, name="data/model", **more), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def served(single: TrainedModel) -> Iterator[TestClient]:
    with client(single) as opened:
        yield opened


@pytest.fixture(scope="module")
def small(single: TrainedModel) -> Iterator[TestClient]:
    with client(single, SMALL) as opened:
        yield opened


@pytest.fixture(scope="module")
def paired(pairs: TrainedModel) -> Iterator[TestClient]:
    with client(pairs, SMALL) as opened:
        yield opened


def rows(texts: Sequence[str], second: Sequence[str | None] | None = None) -> list[Example]:
    return [Example(place, *both) for place, both in enumerate(zip(texts, second or [None] * len(texts), strict=True))]


def same(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            # Rows of a batch round otherwise than a row alone, and the head of the tiny model spreads that out.
            near = other[name] if name in {"label", "labels"} else pytest.approx(other[name], abs=2e-4)
            assert value == near


TEXTS = ["awful red film", "great"]
BOTH = [{"text": "awful", "text_pair": "film"}, {"text": "great", "text_pair": ""}]


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": TEXTS},
        {"instances": TEXTS},
        {"inputs": {"text": TEXTS}},
        {"instances": [{"text": text} for text in TEXTS]},
        {"dataframe_records": [{"text": text} for text in TEXTS]},
        {"dataframe_split": {"columns": ["text"], "index": [7, 8], "data": [[text] for text in TEXTS]}},
    ],
    ids=str,
)
def test_every_form_of_mlflows_json(served: TestClient, single: TrainedModel, body: dict[str, Any]) -> None:
    response = served.post("/invocations", json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    same(response.json()["predictions"], answer(single, 1.0, rows(TEXTS)))


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": BOTH},
        {"inputs": {"text_pair": ["film", ""], "text": ["awful", "great"]}},
        {"dataframe_records": BOTH},
        {"dataframe_split": {"columns": ["text_pair", "text"], "data": [["film", "awful"], ["", "great"]]}},
    ],
    ids=str,
)
def test_pairs(paired: TestClient, pairs: TrainedModel, body: dict[str, Any]) -> None:
    said = paired.post("/invocations", json=body).json()["predictions"]
    same(said, answer(pairs, 1.0, rows(["awful", "great"], ["film", ""])))
    (one,) = paired.post("/invocations", json={"inputs": BOTH[0]}).json()["predictions"]
    same([one], said[:1])


def test_csv_is_text_and_nothing_else(served: TestClient, single: TrainedModel, pairs: TrainedModel) -> None:
    texts = ["NA", "1", 'a "quoted", film', "two\nlines"]
    quoted = "".join('"' + text.replace('"', '""') + '"\r\n' for text in texts)
    response = served.post(
        "/invocations", content=f"\ufefftext\r\n{quoted}".encode(), headers={"content-type": "text/csv; charset=UTF-8"}
    )
    same(response.json()["predictions"], answer(single, 1.0, rows(texts)))
    with client(pairs) as opened:
        body = b"text,text_pair\nawful,film\n\ngreat,\n"
        said = opened.post("/invocations", content=body, headers={"content-type": "text/csv"}).json()
    same(said["predictions"], answer(pairs, 1.0, rows(["awful", "great"], ["film", ""])))


def test_every_task_says_what_predict_says(single: TrainedModel, sets: TrainedModel, number: TrainedModel) -> None:
    for model, keys in ((single, ["label", "probabilities"]), (sets, ["labels", "probabilities"]), (number, ["score"])):
        with client(model) as opened:
            said = opened.post("/invocations", json={"inputs": TEXTS}).json()["predictions"]
            told = opened.get("/model").json()
        assert [list(one) for one in said] == [keys] * 2
        same(said, answer(model, 1.0, rows(TEXTS)))
        assert told["problem_type"] == model.classifier.labels.problem_type
        assert told["thresholds"] == (dict(zip(NAMES, [0.01, 0.5, 1.0], strict=True)) if model is sets else None)
    with client(single, temperature=4.0) as opened:
        warm = opened.post("/invocations", json={"inputs": TEXTS}).json()["predictions"]
    same(warm, answer(single, 4.0, rows(TEXTS)))


# What is sent, the status and the reason. The model reads single texts.
REFUSED: list[tuple[Any, int, str]] = [
    (b"{", 400, r"not JSON: "),
    (b"", 400, r"not JSON: "),
    (b'{"inputs": ["\xff"]}', 400, r"not JSON: "),
    (b'{"inputs": ["\\ud800"]}', 400, r"not JSON: "),
    (b'{"inputs": [NaN]}', 400, r"not JSON: "),
    (b"[" * 5000, 400, r"not JSON: "),
    (b'{"inputs": [' + b"[" * 900 + b"]" * 900 + b"]}", 400, r"row 0: text is a list, not a string"),
    (["a"], 400, r"expected a JSON object with one of inputs, .*; found a list"),
    ({}, 400, r"expected exactly one of inputs, .*; found none"),
    ({"input": ["a"]}, 400, r"unknown key \"input\" \(did you mean 'inputs'\?\); known are inputs"),
    ({"inputs": ["a"], "instances": ["a"]}, 400, r"exactly one of .*; found inputs, instances"),
    ({"inputs": ["a"], "params": {}}, 400, r"unknown key \"params\""),
    ({"inputs": []}, 400, r"no rows"),
    ({"inputs": {"text": []}}, 400, r"no rows"),
    ({"inputs": None}, 400, r"row 0: text is null, not a string"),
    ({"inputs": ["a", None]}, 400, r"row 1: text is null, not a string"),
    ({"inputs": ["a", 7]}, 400, r"row 1: text is 7, not a string"),
    ({"inputs": [["a"]]}, 400, r"row 0: text is a list, not a string"),
    ({"inputs": ["a", " \n"]}, 400, r"row 1: no text"),
    ({"inputs": [{"txet": "a"}]}, 400, r"unknown column \"txet\" \(did you mean 'text'\?\); known are text, text_pair"),
    ({"inputs": [{}]}, 400, r"no column 'text'"),
    ({"inputs": [{"text": "a"}, "b"]}, 400, r"inputs: row 1: expected an object, found \"b\""),
    ({"inputs": [{"text": "a"}, {}]}, 400, r"inputs: row 1 has nothing, those before it \"text\""),
    ({"inputs": [{"text": "a"}, {"test": "b"}]}, 400, r"unknown column \"test\" \(did you mean 'text'"),
    ({"inputs": [{"text": "a", "text_pair": "b"}]}, 400, r"'text_pair': the model reads single texts, not pairs"),
    ({"inputs": {"text": ["a"], "text_pair": ["b", "c"]}}, 400, r"unequal lengths: text has 1, text_pair has 2"),
    ({"inputs": {"text": ["a"], "text_pair": "b"}}, 400, r"text_pair is \"b\"; the other columns are lists"),
    ({"dataframe_records": {"text": "a"}}, 400, r"dataframe_records: expected a list of objects, found an object"),
    ({"dataframe_split": ["a"]}, 400, r"dataframe_split: expected an object with the lists columns and data"),
    ({"dataframe_split": {"columns": ["text"], "dat": []}}, 400, r"with the lists columns and data"),
    (
        {"dataframe_split": {"columns": ["text"], "data": [], "names": []}},
        400,
        r"unknown key of dataframe_split \"names",
    ),
    ({"dataframe_split": {"columns": ["text"], "data": ["a"]}}, 400, r"row 0: expected a list of values, found \"a\""),
    ({"dataframe_split": {"columns": ["text"], "data": [["a", "b"]]}}, 400, r"row 0: expected 1 values, found 2"),
    ({"dataframe_split": {"columns": ["text", "text"], "data": [["a", "b"]]}}, 400, r"two columns are called 'text'"),
    ({"dataframe_split": {"columns": [0], "data": [["a"]]}}, 400, r"unknown column 0; known are"),
    ({"inputs": ["a"] * 4}, 413, r"more than 3 rows: send several requests"),
    ({"inputs": ["a" * 21]}, 413, r"row 0: text has 21 characters, more than 20"),
    (b'{"inputs": "' + b"a" * 2**20 + b'"}', 413, r"the body has more than 1 MiB"),
    (b" " * 2**23, 413, r"the body has more than 1 MiB"),
]


@pytest.mark.parametrize(("body", "status", "reason"), REFUSED, ids=[reason[:40] for _, _, reason in REFUSED])
def test_what_cannot_be_answered_gets_a_reason(small: TestClient, body: Any, status: int, reason: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    refused(small.post("/invocations", content=content, headers={"content-type": "application/json"}), status, reason)


def refused(response: Any, status: int, reason: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    found = response.json()
    assert list(found) == ["error_code", "message"]
    assert re.search(reason, found["message"]), found["message"]


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"inputs": ["a"]}, 400, r"no column 'text_pair': the model reads pairs of texts"),
        ({"inputs": [{"text": "a"}]}, 400, r"no column 'text_pair'"),
        ({"inputs": [{"text": "a", "text_par": "b"}]}, 400, r"\"text_par\" \(did you mean 'text_pair'\?\)"),
        ({"inputs": [{"text": "a", "text_pair": None}]}, 400, r"row 0: text_pair is null, not a string"),
        ({"inputs": [{"text": "a", "text_pair": "b" * 21}]}, 413, r"row 0: text_pair has 21 characters"),
        ({"inputs": [{"text": "", "text_pair": " "}]}, 400, r"row 0: no text"),
    ],
)
def test_a_model_of_pairs_asks_for_both(paired: TestClient, body: Any, status: int, reason: str) -> None:
    refused(paired.post("/invocations", json=body), status, reason)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"text\na\nb,c\n", r"row 1: expected 1 values, found 2"),
        (b"test\na\n", r"unknown column \"test\" \(did you mean 'text'\?\)"),
        (b"text\n", r"no rows"),
        (b"", r"no rows"),
        (b"text\n\xff\n", r"not UTF-8: byte 0xff at 5"),
        (b'text\n"a"b\n', r"not CSV: "),
        (b'text\n"a', r"not CSV: "),
    ],
)
def test_csv_that_cannot_be_read(small: TestClient, body: bytes, reason: str) -> None:
    refused(small.post("/invocations", content=body, headers={"content-type": "text/csv"}), 400, reason)


def test_other_types_encodings_paths_and_methods(small: TestClient) -> None:
    for headers, reason in (
        ({"content-type": "text/plain"}, r"Content-Type is text/plain; send application/json or text/csv"),
        ({"content-type": ""}, r"Content-Type is missing"),
        ({"content-type": "application/json; charset=latin-1"}, r"charset=latin-1: only UTF-8 is read"),
        ({"content-type": "application/json", "content-encoding": "gzip"}, r"Content-Encoding is gzip"),
    ):
        refused(small.post("/invocations", content=b'{"inputs": "a"}', headers=headers), 415, reason)
    refused(small.get("/invocations"), 405, r"GET /invocations: Method Not Allowed")
    refused(small.get("/docs"), 404, r"GET /docs: Not Found")


def test_the_other_addresses_of_mlflows_server(served: TestClient) -> None:
    from mlflow.version import VERSION

    for path in ("/ping", "/health"):
        assert (served.get(path).status_code, served.get(path).text) == (200, "\n")
    assert served.get("/version").text == VERSION


class Broken(OneOutput):
    def forward(self, **inputs: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.model(**inputs).logits[:, :2])  # of three labels


class Diverged(OneOutput):
    def forward(self, **inputs: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.model(**inputs).logits * float("nan"))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Diverged, r"the model's outputs are not finite"), (Broken, r"the server failed; its terminal says why\.$")],
)
def test_a_model_that_fails_says_so(single: TrainedModel, kind: type[OneOutput], reason: str) -> None:
    classifier = replace(single.classifier, model=kind(single.classifier.model))
    with client(replace(single, classifier=classifier)) as opened:
        refused(opened.post("/invocations", json={"inputs": "a"}), 500, reason)
        refused(opened.post("/invocations", json={"inputs": [1]}), 400, r"row 0: text is 1")  # it goes on


# --- requests that come at once


@settings(max_examples=25)
@given(requests=st.lists(st.lists(st.sampled_from([*WORDS, "green " * 20]), min_size=1, max_size=4), max_size=12))
def test_merged_answers_are_those_of_rows_alone(single: TrainedModel, requests: list[list[str]]) -> None:
    batches: list[int] = []

    def compute(batch: Sequence[Example]) -> list[Any]:
        batches.append(len(batch))
        return answer(single, 1.0, batch)

    async def all_at_once() -> list[Any]:
        async with Merger(compute, max_rows=8, max_wait=0.0, max_waiting=1000) as merger:
            return await asyncio.gather(*(merger.ask(rows(texts)) for texts in requests))

    found = asyncio.run(all_at_once())
    for texts, said in zip(requests, found, strict=True):
        same(said, [answer(single, 1.0, [row])[0] for row in rows(texts)])
    assert sum(batches) == sum(map(len, requests))
    if sum(map(len, requests)) <= 8:
        assert len(batches) == (1 if requests else 0)  # all went through the model together
    assert all(size < 8 + 4 for size in batches)


def merging(compute: Callable[[Sequence[Any]], Sequence[Any]], **more: Any) -> Merger[Any, Any]:
    return Merger(compute, **{"max_rows": 100, "max_wait": 30.0, "max_waiting": 100, **more})


def test_one_that_comes_alone_does_not_wait_and_several_do() -> None:
    async def turns() -> list[list[int]]:
        seen: list[list[int]] = []
        async with merging(lambda batch: seen.append(list(batch)) or batch) as merger:
            await merger.ask([1])  # returns at once: the longest wait is half a minute
            await asyncio.gather(merger.ask([2]), merger.ask([3]))
            first = asyncio.create_task(merger.ask([4]))  # two came last time: it waits for a second one
            await asyncio.sleep(0.05)
            assert not first.done()
            await merger.ask([5])
            assert await first == [4]
        return seen

    assert asyncio.run(turns()) == [[1], [2, 3], [4, 5]]


def test_a_long_line_a_failure_and_a_caller_who_leaves() -> None:
    free = threading.Event()

    def slow(batch: Sequence[Any]) -> list[Any]:
        free.wait(60)
        if "bad" in batch:
            raise SeqtrackError("diverged")
        return [f"{row}!" for row in batch]

    async def story() -> None:
        async with merging(slow, max_rows=2, max_wait=0.0, max_waiting=3) as merger:
            first = asyncio.create_task(merger.ask(["a"]))
            await asyncio.sleep(0.05)
            leaves = asyncio.create_task(merger.ask(["b", "c"]))
            await asyncio.sleep(0.05)
            with pytest.raises(LineTooLongError, match="2 rows are waiting"):
                await merger.ask(["d", "e"])
            bad = asyncio.create_task(merger.ask(["bad"]))
            await asyncio.sleep(0)
            leaves.cancel()
            free.set()
            assert await first == ["a!"]
            with pytest.raises(SeqtrackError, match="diverged"):
                await bad
            assert await merger.ask(["f"] * 7) == ["f!"] * 7  # none is waiting: however many they are
            assert await merger.run(lambda: "between") == "between"

    asyncio.run(story())


def test_a_full_line_is_a_503(single: TrainedModel) -> None:
    app = application(single, SERVE.model_copy(update={"max_waiting_rows": 1}), name="m")
    with TestClient(app) as opened, ThreadPoolExecutor(40) as threads:
        sent = [threads.submit(opened.post, "/invocations", json={"inputs": ["film"] * 400}) for _ in range(40)]
        statuses = {done.result().status_code for done in sent}
        refusals = [done.result() for done in sent if done.result().status_code != 200]
    assert statuses == {200, 503}
    assert refusals[0].headers["retry-after"] == "1"
    refused(refusals[0], 503, r"rows are waiting for the model: try again")


# --- the page and what it asks


def test_the_page_allows_nothing_but_itself(served: TestClient, single: TrainedModel) -> None:
    response = served.get("/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "//" not in response.text.replace("// Whatever", "")
    with client(single, SERVE.model_copy(update={"page": False})) as opened:
        refused(opened.get("/"), 404, "Not Found")
        refused(opened.post("/explain", json={"text": "a"}), 404, "Not Found")
        assert opened.post("/invocations", json={"inputs": "a"}).status_code == 200


def test_words_weigh_what_attributions_say(served: TestClient, single: TrainedModel) -> None:
    from pipeline.attributions import explain

    found = served.post("/explain", json={"text": "awful <b>film</b>", "text_pair": None, "label": "good"}).json()
    expected = explain(single.classifier, "awful <b>film</b>", None, 1)
    assert "".join(word["text"] for word in found["words"]) == "awful <b>film</b>"
    weights = [(word.text, word.weight) for word in expected.words]
    for (text, weight), word in zip(weights, found["words"], strict=True):
        assert word == {"text": text, "weight": weight if weight is None else pytest.approx(weight, abs=1e-4)}
    assert found["pair_words"] is None


def test_words_of_pairs_sets_and_numbers(paired: TestClient, sets: TrainedModel, number: TrainedModel) -> None:
    found = paired.post("/explain", json={"text": "awful", "text_pair": "red film", "label": "bad"}).json()
    assert "".join(word["text"] for word in found["pair_words"]) == "red film"
    for model, label in ((sets, "other"), (number, None)):
        with client(model) as opened:
            words = opened.post("/explain", json={"text": "awful film", "label": label}).json()["words"]
        assert [word["weight"] is None for word in words] == [False, True, False]


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"text": "a", "label": "goood"}, 400, r"label: expected one of bad, good, other"),
        ({"text": "a"}, 400, r"label: expected one of bad, good, other"),
        ({"text": "a", "label": ["bad"]}, 400, r"label: expected one of"),
        ({"text": None, "label": "bad"}, 400, r"row 0: text is null"),
        ({"text": "a", "text_pair": "b", "label": "bad"}, 400, r"the model reads single texts, not pairs"),
        ({"text": "a" * 21, "label": "bad"}, 413, r"text has 21 characters"),
        ({"txt": "a"}, 400, r"unknown key \"txt\" \(did you mean 'text'\?\)"),
        (["a"], 400, r"expected a JSON object with text, text_pair, label; found a list"),
    ],
)
def test_what_cannot_be_explained(small: TestClient, body: Any, status: int, reason: str) -> None:
    refused(small.post("/explain", json=body), status, reason)


def test_explanations_are_as_limited_as_answers(small: TestClient, number: TrainedModel) -> None:
    body = json.dumps({"text": "a", "label": "bad"}).encode()
    refused(small.post("/explain", content=body, headers={"content-type": "text/plain"}), 415, "send application/json")
    huge = b'{"text": "' + b"a" * 2**21 + b'"}'
    refused(small.post("/explain", content=huge, headers={"content-type": "application/json"}), 413, "1 MiB")
    with client(number) as opened:
        reason = r"label: expected null, since the model gives a number"
        refused(opened.post("/explain", json={"text": "a", "label": "bad"}), 400, reason)


# --- the process


def test_a_taken_port_and_a_strange_host_are_told(capfd: pytest.CaptureFixture[str]) -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert url_of(taken) == f"http://127.0.0.1:{port}"
        with pytest.raises(SeqtrackError, match=rf"127.0.0.1:{port}: the port is taken; give another one by --port"):
            bind("127.0.0.1", port)
    assert capfd.readouterr().err == ""
    with pytest.raises(SeqtrackError, match=r"203\.0\.113\.1:0: cannot listen \("):
        bind("203.0.113.1", 0)  # of no machine: kept for examples
    with bind("0.0.0.0", 0) as everywhere:
        assert url_of(everywhere).startswith("http://127.0.0.1:")
    assert re.match(r"warning: whoever reaches 0\.0\.0\.0:0 over the network can use", capfd.readouterr().err)


def test_a_process_starts_answers_and_ends_in_order(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes((HOME / "params.yaml").read_bytes())
    with subprocess.Popen(
        [sys.executable, "-m", "stages.serve", "--model", str(folder), "--port", "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"serving (.*) \([0-9a-f]{10}\) on \w+: (http://127\.0\.0\.1:\d+)\n", line)
        assert found, line + process.stderr.read()
        with urlopen(f"{found[2]}/ping", timeout=600) as response:
            assert response.status == 200
        port = int(found[2].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)):  # a client that says nothing holds nobody up
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=600)
    assert (process.returncode, out, err) == (0, "stopped\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nothing", "--port", "0"], r"error: nothing/manifest\.json: file not found; "),
        (["--host", "203.0.113.1"], r"error: 203\.0\.113\.1:5001: cannot listen \("),
    ],
)
def test_a_mistake_is_one_line(monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(HOME)
    monkeypatch.setattr(sys, "argv", ["serve", *arguments])
    with pytest.raises(SystemExit, match=message) as caught:
        serve.main()
    assert "\n" not in str(caught.value)
