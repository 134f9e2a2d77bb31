"""GLUE in the graph: DVC runs fetch again when local files change, wherever they lie, and only then."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clone import Clone


@pytest.mark.slow
@pytest.mark.parametrize("outside", [False, True])
def test_changed_local_files_are_noticed(tmp_path: Path, outside: bool) -> None:
    clone = Clone.make(tmp_path / "project")
    place = tmp_path / "files" if outside else clone.folder / "glue_data"
    (place / "SST-2").mkdir(parents=True)
    train = place / "SST-2" / "train.tsv"
    train.write_text("good\t1\nbad\t0\n")
    clone.run("python", "-m", "stages.preset", "sst2", f"fetch.path={place if outside else 'glue_data'}")
    clone.run("dvc", "repro", "fetch")
    fetched = clone.folder / "data" / "fetched" / "train.jsonl"
    assert len(fetched.read_text().splitlines()) == 2
    assert "didn't change" in clone.run("dvc", "repro", "fetch").stdout
    train.write_text("good\t1\nbad\t0\nfine\t1\n")
    clone.run("dvc", "repro", "fetch")
    assert len(fetched.read_text().splitlines()) == 3
