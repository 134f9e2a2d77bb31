from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from pipeline.checks import NAMES
from pipeline.columns import Columns, read_columns
from pipeline.rows import read_rows
from tests.process import run_stage_process

RunStage = Callable[..., CompletedProcess[str]]

ROOT = Path(__file__).parents[1]


@pytest.fixture
def validate(tmp_path: Path) -> RunStage:
    """A function that runs the stage in a folder of its own on some files, and returns the process."""

    def run(contents: dict[str, str], *, code: int = 0, **settings: object) -> CompletedProcess[str]:
        text = (ROOT / "params.yaml").read_text()
        for name, value in {"path": "given", **settings}.items():
            behind = text.partition("\ndata:\n")[2].splitlines()  # fetch has a path, too
            old = next(line for line in behind if line.lstrip().startswith(f"{name}: "))
            text = text.replace(old, f"{old[: len(old) - len(old.lstrip())]}{name}: {value}", 1)
        (tmp_path / "params.yaml").write_text(text)
        (tmp_path / "given").mkdir(exist_ok=True)
        for name, content in contents.items():
            (tmp_path / "given" / name).write_text(content)
        process = run_stage_process("validate", tmp_path)
        assert process.returncode == code, process.stderr
        return process

    return run


def test_files_become_rows_and_a_report(validate: RunStage, tmp_path: Path) -> None:
    files = {"train.csv": "review,stars\ngood,5\nbad,1\n,1\n", "test.csv": "review\nhm\n"}
    process = validate(files, max_rejected_ratio=0.3)
    assert sorted(path.relative_to(tmp_path / "data").as_posix() for path in (tmp_path / "data").rglob("*.*")) == [
        "reports/validation.json",
        "validated/columns.json",
        "validated/labels.json",
        "validated/manifest.json",
        "validated/rejected.jsonl",
        "validated/rows.parquet",
    ]
    columns = read_columns(tmp_path / "data/validated/columns.json")
    assert columns == Columns(text="review", text_pair=None, label="stars", split=None)
    rows = read_rows(tmp_path / "data/validated/rows.parquet").to_pylist()
    assert [(row["text"], row["label"], row["split"]) for row in rows] == [
        ("hm", None, "test"),
        ("good", "5", "train"),
        ("bad", "1", "train"),
    ]
    assert json.loads((tmp_path / "data/validated/rejected.jsonl").read_text()) == {
        "source": "train.csv",
        "line": 4,
        "reason": "empty_text",
        "detail": "column review: empty",
    }
    assert json.loads((tmp_path / "data/reports/validation.json").read_text())["rows"] == 3
    table, *_, first, second = process.stdout.splitlines()
    assert table.startswith("Files")
    assert first.startswith("3 rows of 2 classes, text from column review, label from column stars: 1 1, 5 1")
    assert second == (
        "checks: 0 fail, 2 warn, 14 pass, 1 off; rejected: empty_text 1; details in data/reports/validation.json and "
        "data/validated/rejected.jsonl"
    )


def test_a_mistake_is_one_line_and_leaves_nothing(validate: RunStage, tmp_path: Path) -> None:
    process = validate({"all.csv": "text,label\na,1\n,0\nb,0\n"}, code=1)
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: given/all.csv:3: 1 of 3 rows (33.3%) are rejected")
    assert not list((tmp_path / "data").iterdir())


def test_a_check_that_fails_shows_examples_and_keeps_its_report(validate: RunStage, tmp_path: Path) -> None:
    files = {"all.csv": "text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(40)) + "TEXT 4!,1\n"}
    process = validate(files, code=1, conflicting_labels="error")
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: given: 1 check fails: conflicting_labels (1); found texts stand with different")
    assert "all.csv:6: 0 | text 4" in process.stdout
    assert "all.csv:42: 1 | TEXT 4!" in process.stdout
    kept = tmp_path / ".seqtrack" / "last_validation.json"
    assert f"nothing is written but the report, in {kept}" in process.stdout
    checks = {check["name"]: check["status"] for check in json.loads(kept.read_text())["checks"]}
    assert checks["conflicting_labels"] == "fail"
    assert not list((tmp_path / "data").iterdir())
    validate({}, conflicting_labels="warn")
    assert not kept.exists()
    assert (tmp_path / "data/validated/rows.parquet").is_file()


def test_the_table_has_a_line_for_every_check(validate: RunStage) -> None:
    process = validate({"all.csv": "text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(40))})
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in process.stdout.splitlines() if "│" in line]
    statuses = {row[0]: row[1] for row in cells if len(row) == 4 and row[0]}
    assert list(statuses) == list(NAMES)
    assert statuses["mojibake"] == "pass"
    assert statuses["length_shift"] == "off"


def test_a_misspelt_check_is_named(validate: RunStage, tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text().replace("    mojibake: warn", "    mojibakes: warn")
    (tmp_path / "params.yaml").write_text(text)
    process = run_stage_process("validate", tmp_path)
    assert process.returncode == 1
    assert "unknown key (did you mean validate.policy.mojibake?)" in process.stderr


def test_params_name_columns_and_classes(validate: RunStage, tmp_path: Path) -> None:
    validate({"all.csv": "a,b,c\nx,1,p\ny,2,q\n"}, text="a", label="c", label_names="[q, p]")
    assert json.loads((tmp_path / "data/validated/labels.json").read_text())["names"] == ["q", "p"]


def test_light() -> None:
    program = "import sys, stages.validate; print([m for m in ('torch', 'datasets', 'pandas') if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout == "[]\n"
