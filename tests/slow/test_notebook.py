"""The example notebook runs from top to bottom on what the stages wrote."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.clone import Clone, clean_environment, make_small
from tests.toy import REPOSITORY

pytestmark = pytest.mark.slow
NOTEBOOK = Path("examples") / "notebook.ipynb"


def test_it_is_kept_without_outputs() -> None:
    notebook = nbformat.read(REPOSITORY / NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_it_trains_and_shows_the_result(tmp_path: Path) -> None:
    clone = Clone.make(tmp_path / "clone")
    make_small(clone, tmp_path / "encoder")
    clone.run("dvc", "repro", "split", "tokenize")
    notebook = nbformat.read(clone.folder / NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(clone.folder / "examples")}}
    )
    client.execute(env=clean_environment())  # a cell that fails raises, with its traceback
    shown = "".join(
        output.get("text", "") or str(output.get("data", {}))
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
    assert "train: best checkpoint by f1_macro" in shown
    assert "eval_loss" in shown
    assert "'score':" in shown
    assert (clone.folder / "data" / "model" / "model.safetensors").is_file()
    (run,) = clone.mlflow_runs()
    assert run.info.status == "FINISHED"
