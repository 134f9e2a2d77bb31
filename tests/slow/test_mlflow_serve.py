"""`mlflow models serve` on a logged model, as a process of its own: no part of this project in its path."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from pipeline.tracking import tracked_run
from tests.clone import clean_environment
from tests.tiny import save_tiny_classifier

pytestmark = pytest.mark.slow


def test_it_takes_text_and_text_pair(mlflow_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DVC_ROOT", str(mlflow_root))
    save_tiny_classifier(tmp_path / "model", ["awful red film", "great green film"], ("bad", "good"))
    with tracked_run("5e" * 32, "serve") as run:
        run.log_model(tmp_path / "model", {"text": "a", "text_pair": "b"}, {"run_key": "5e" * 32})
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"runs:/{run.run_id}/model"]
    with subprocess.Popen(
        [*command, "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)],
        cwd=tmp_path / "elsewhere",
        env={**clean_environment(), "MLFLOW_TRACKING_URI": f"sqlite:///{mlflow_root / 'mlflow.db'}"},
        start_new_session=True,
    ) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/ping", process)
            url = f"http://127.0.0.1:{port}/invocations"
            status, said = post(url, {"dataframe_records": [{"text": "awful film", "text_pair": "red"}]})
            assert status == 200
            ((label, chances),) = [(row["label"], row["probabilities"]) for row in said["predictions"]]
            assert chances[label] == max(chances.values())
            assert sum(chances.values()) == pytest.approx(1)
            status, said = post(url, {"dataframe_records": [{"text": "awful film"}]})
            assert status == 400
            assert "text_pair" in said["message"]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)  # mlflow starts uvicorn as a child


def post(url: str, body: object) -> tuple[int, Any]:
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=120) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        return error.code, json.load(error)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            urlopen(url, timeout=5).close()
        except (URLError, TimeoutError):
            assert process.poll() is None
            time.sleep(0.5)
        else:
            return
    raise AssertionError("it does not answer")
