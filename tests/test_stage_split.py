import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from canonical import Row, changed, sentence, table

from pipeline.labels import LabelSet
from pipeline.rows import write_parquet
from tests.process import run_stage_process

ROOT = Path(__file__).parent.parent


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    return run_stage_process("split", folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data" / "validated").mkdir(parents=True)
    labels = LabelSet(problem_type="single_label_classification", names=("a", "x", "y"))
    labels.write(tmp_path / "data" / "validated" / "labels.json")
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    return tmp_path


def outputs(folder: Path) -> dict[str, bytes]:
    files = [*(folder / "data" / "splits").rglob("*"), *(folder / "data" / "reports").rglob("*")]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_writes_everything_and_the_same_bytes_again(folder: Path) -> None:
    texts = [sentence(number) for number in range(120)]
    rows = table(Row(text, "xy"[number % 2]) for number, text in enumerate([*texts, changed(texts[3]), texts[5]]))
    write_parquet(rows, folder / "data" / "validated" / "rows.parquet")
    result = run(folder)
    assert result.returncode == 0, result.stderr
    assert "no verified duplicate crosses splits" in result.stdout
    first = outputs(folder)
    assert sorted(first) == [
        "data/reports/duplicates.jsonl",
        "data/reports/label_distribution.csv",
        "data/reports/leakage.json",
        "data/splits/manifest.json",
        "data/splits/test.parquet",
        "data/splits/train.parquet",
        "data/splits/validation.parquet",
    ]
    assert run(folder).returncode == 0
    assert outputs(folder) == first
    manifest = json.loads(first["data/splits/manifest.json"])
    order = rows["row_id"].to_pylist()
    seen: set[str] = set()
    for name in ("train", "validation", "test"):
        split = pq.read_table(folder / "data" / "splits" / f"{name}.parquet")
        ids = split["row_id"].to_pylist()
        assert split.column_names == ["row_id"]
        assert len(ids) == manifest["rows"][name]
        assert ids == [one for one in order if one in set(ids)]
        assert not seen & set(ids)
        seen |= set(ids)
    assert seen == set(order[:-1])  # texts[5] again, with the same label


def test_another_threshold_reuses_the_signatures_and_a_changed_test_set_is_kept_as_given(folder: Path) -> None:
    texts = [Row(sentence(number), split="train") for number in range(30)]
    leaks = [Row(changed(sentence(number)), split="test") for number in range(5)]
    rows = table([*texts, *leaks, Row("only in test", split="test")])
    write_parquet(rows, folder / "data" / "validated" / "rows.parquet")
    params = folder / "params.yaml"
    assert run(folder).returncode == 0
    assert not (folder / "data" / "splits" / "test_as_given.parquet").exists()
    (entry,) = (folder / ".seqtrack" / "signatures").iterdir()
    made = (entry / "slots.npy").stat()
    settings = params.read_text().replace("near_duplicate_threshold: 0.8", "near_duplicate_threshold: 0.7")
    params.write_text(settings.replace("on_leak: drop_from_train", "on_leak: drop_from_test"))
    result = run(folder)
    assert result.returncode == 0, result.stderr
    assert (entry / "slots.npy").stat().st_mtime_ns == made.st_mtime_ns
    assert len(list((folder / ".seqtrack" / "signatures").iterdir())) == 1
    given = pq.read_table(folder / "data" / "splits" / "test_as_given.parquet")["row_id"].to_pylist()
    assert given == rows["row_id"].to_pylist()[-6:]
    assert pq.read_table(folder / "data" / "splits" / "test.parquet")["row_id"].to_pylist() == given[-1:]


def test_a_failure_is_one_line_and_leaves_nothing(folder: Path) -> None:
    rows = [Row("same", split="train"), Row("same", split="test")]
    write_parquet(table(rows), folder / "data" / "validated" / "rows.parquet")
    result = run(folder)
    assert result.returncode == 1
    assert result.stderr.startswith("error: no row is in train")
    assert result.stderr.count("\n") == 1
    assert [path.name for path in (folder / "data").iterdir()] == ["validated"]


def test_imports_neither_torch_nor_pandas() -> None:
    code = "import sys, stages.split; sys.exit(bool({'torch', 'pandas', 'datasets', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
