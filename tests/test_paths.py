"""Where things lie, inside and outside DVC's throwaway copies; timings and the list of results that hang off it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import next_steps, paths, timings
from pipeline.outputs import write_json, write_manifest


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "inner" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "inner" / "deeper")
    return tmp_path


def test_the_root_is_where_dvc_yaml_is(repository: Path) -> None:
    assert paths.root() == repository
    assert paths.checkpoints("abc") == repository / ".seqtrack" / "checkpoints" / "abc"


def test_in_a_throwaway_copy_the_root_is_the_parent_repository(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = tmp_path_factory.mktemp("parent")
    monkeypatch.setenv("DVC_ROOT", str(parent))
    monkeypatch.setenv("DVC_EXP_NAME", "warm-owl")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "abc")
    assert paths.root() == paths.state().parent == parent
    assert paths.mlflow_store().tracking_uri == f"sqlite:///{parent}/mlflow.db"
    assert paths.mlflow_store().artifact_location == (parent / "mlartifacts").as_uri()
    assert paths.mlflow_store().is_local_database
    assert paths.dvc_experiment() == paths.Experiment(name="warm-owl", baseline_revision="abc")


def test_the_users_mlflow_wins(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    store = paths.mlflow_store()
    assert store == paths.MlflowStore(tracking_uri="http://tracking:5000", artifact_location=None)
    assert not store.is_local_database


def test_without_dvc_it_is_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert paths.root() == tmp_path
    assert paths.dvc_experiment() == paths.Experiment(name=None, baseline_revision=None)


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("true", True), ("ON", True), ("0", False), ("", False)])
def test_offline(monkeypatch: pytest.MonkeyPatch, value: str, offline: bool) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert paths.hub_offline() == offline


def test_the_hub_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.hub_endpoint() == "https://huggingface.co"
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror/")
    assert paths.hub_endpoint() == "http://mirror"


def test_timings_belong_to_what_was_made(repository: Path) -> None:
    output = Path("out")
    output.mkdir()
    assert timings.recall("split", output) is None  # nothing there
    write_manifest(output, inputs={}, params=1, rows={})
    assert timings.recall("split", output) is None  # not made here
    timings.record("split", output, 1.23456)
    assert timings.recall("split", output) == 1.235
    assert timings.recall("tokenize", output) is None
    write_manifest(output, inputs={}, params=2, rows={})
    timings.record("split", output, 9.0)
    write_manifest(output, inputs={}, params=1, rows={})  # as DVC's cache brings it back
    assert timings.recall("split", output) == 1.235
    assert [path.name for path in Path().iterdir()] == ["out"]


def test_next_steps_list_what_there_is(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    next_steps.main()
    out = capsys.readouterr().out
    assert "make ui" in out
    assert "data/" not in out
    scores = {"accuracy": 0.98, "accuracy_low": 0.96, "accuracy_high": 0.99}
    write_json(paths.REPORTS / "metrics.json", {"test": scores, "validation": scores})
    next_steps.main()
    out = capsys.readouterr().out
    assert "test accuracy  0.9800 (between 0.9600 and 0.9900)" in out
    assert "data/reports/metrics.json" in out
    assert "data/model" not in out
