"""The load test of `make serve` in small: both servers start, answer alike and are measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.code import HOME
from tests.tiny import save_tiny_classifier

pytestmark = pytest.mark.slow
TEXTS = ["awful red film", "great green film", "a film", "great", "red green"]


@pytest.mark.parametrize("pairs", [False, True], ids=["texts", "pairs"])
def test_both_servers_are_measured(tmp_path: Path, pairs: bool) -> None:
    save_tiny_classifier(tmp_path / "model", TEXTS, ("bad", "good"))
    rows = [{"text": text} | ({"text_pair": TEXTS[0]} if pairs else {}) for text in TEXTS]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = tmp_path / "serving.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.serving", "--model", str(tmp_path / "model")),
            *("--rows", str(tmp_path / "rows.jsonl"), "--rounds", "1", "--requests", "24", "--clients", "1,8"),
            *("--json", str(report)),
        ],
        cwd=HOME,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    for side in ("seqtrack", "plain"):
        ((one, eight),) = found["results"][side]
        assert (one["clients"], one["requests"], eight["clients"], eight["requests"]) == (1, 24, 8, 24)
        assert 0 < one["p50_ms"] <= one["p99_ms"]
    assert found["agreement"]["rows"] == found["agreement"]["same_label"] == len(TEXTS)
    assert found["agreement"]["largest_difference"] < 1e-3
    assert "| pipeline behind FastAPI | 8 |" in done.stdout
