"""What all stages share when started as programs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import timings
from pipeline.errors import SeqtrackError
from pipeline.outputs import write_manifest
from pipeline.params import Params
from stages.runner import run_stage
from tests.toy import REPOSITORY

STAGES = (
    "fetch",
    "validate",
    "split",
    "vocabulary",
    "tokenize",
    "train",
    "evaluate",
    "predict",
    "report",
    "export",
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setattr(sys, "argv", ["stage"])
    (tmp_path / "params.yaml").write_bytes((REPOSITORY / "params.yaml").read_bytes())
    return tmp_path


def status(stage: object, output: Path | None = None) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        run_stage(stage, "What it does.", output=output)  # type: ignore[arg-type]
    return caught.value.code


def test_a_stage_gets_the_params_and_its_time_is_kept(home: Path) -> None:
    seen = []

    def split(params: Params) -> None:
        seen.append(params.split.seed)
        Path("out").mkdir()
        write_manifest(Path("out"), inputs={}, params={}, rows={})

    run_stage(split, None, output=Path("out"))
    assert seen == [13]
    seconds = timings.recall("split", Path("out"))
    assert seconds is not None
    assert 0 <= seconds < 5


def test_a_users_mistake_is_one_line() -> None:
    def split(params: Params) -> None:
        raise SeqtrackError("no rows", where="a.csv", fix="add some")

    assert status(split, Path("out")) == "error: a.csv: no rows; add some."  # on standard error, with status 1


def test_a_wrong_param_stops_before_any_work(home: Path) -> None:
    (home / "params.yaml").write_text("fetch: {}\n")

    def split(params: Params) -> None:
        raise AssertionError("ran")

    assert str(status(split)).startswith("error: params.yaml:1: fetch.source: missing key")


def test_a_bug_is_a_traceback() -> None:
    def split(params: Params) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_stage(split, None)


def test_an_interruption_is_quiet() -> None:
    def split(params: Params) -> None:
        raise KeyboardInterrupt

    assert status(split) == 130


@pytest.mark.parametrize("name", ["fetch", "tokenize"])
def test_help_says_what_is_read_and_written(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"stages.{name}", "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert f"python -m stages.{name}" in done.stdout
    assert re.search(r"^Reads\b", done.stdout, re.MULTILINE)
    assert re.search(r"^Writes\b", done.stdout, re.MULTILINE)
    assert "params.yaml" in done.stdout


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_is_short_and_says_what_it_does(name: str) -> None:
    text = (REPOSITORY / "stages" / f"{name}.py").read_text(encoding="utf-8")
    assert text.count("\n") < 60
    assert re.search(r"^Reads\b", text, re.MULTILINE)
    assert re.search(r"^Writes\b", text, re.MULTILINE)


def test_as_a_program(home: Path) -> None:
    """One line on standard error, status 1, nothing on standard output."""
    (home / "params.yaml").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "stages.fetch"],
        cwd=home,
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "error: params.yaml: file not found; run from the folder that holds dvc.yaml and params.yaml.\n"
    )
