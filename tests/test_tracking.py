"""MLflow: one run per run_key, nothing logged twice, models that load back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Run
from mlflow.pyfunc import scoring_server
from starlette.testclient import TestClient

from pipeline import tracking
from pipeline.errors import SeqtrackError
from pipeline.outputs import write_manifest
from pipeline.paths import SPLITS
from pipeline.timings import record
from pipeline.tracking import Point, tracked_run
from tests.tiny import save_tiny_classifier

NAMES = ("bad", "good")
WORDS = ["awful red film", "great green film"]


@pytest.fixture(scope="module")
def store(mlflow_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of a repository whose MLflow store the racers made, seen from a throwaway copy."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
            patch.delenv(name, raising=False)
        patch.setenv("DVC_ROOT", str(mlflow_root))
        patch.chdir(tmp_path_factory.mktemp("copy"))  # as in `dvc exp run --temp`
        yield mlflow_root


def fetch(run_id: str) -> Run:
    return mlflow.MlflowClient().get_run(run_id)


def history(run_id: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in mlflow.MlflowClient().get_metric_history(run_id, name)]


def test_a_run_key_has_one_run_in_the_store_at_the_root(store: Path, tmp_path: Path) -> None:
    with tracked_run("a" * 64, "texts") as run:
        first = run.run_id
    with tracked_run("a" * 64, "texts") as run:
        assert run.run_id == first
    with tracked_run("a" * 63 + "b", "texts") as run:
        assert run.run_id != first
    with tracked_run("a" * 64, "another experiment") as run:
        assert run.run_id == first
    assert (store / "mlflow.db").is_file()
    assert fetch(first).info.artifact_uri.startswith((store / "mlartifacts").as_uri())
    assert fetch(first).data.tags["seqtrack.run_key"] == "a" * 64
    assert list(Path().iterdir()) == []  # nothing stays in the copy


def test_the_status_follows_how_the_block_ends(store: Path) -> None:
    def status(error: type[BaseException] | None) -> str:
        try:
            with tracked_run("b" * 64, "texts") as run:
                assert fetch(run.run_id).info.status == "RUNNING"
                if error:
                    raise error
        except (RuntimeError, KeyboardInterrupt):
            pass
        return str(fetch(run.run_id).info.status)

    assert [status(error) for error in (RuntimeError, KeyboardInterrupt, None)] == ["FAILED", "KILLED", "FINISHED"]
    assert mlflow.active_run() is None


def test_a_run_knows_its_experiment_and_revision(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"rev-parse": "abc123", "status": "", "other": None}
    monkeypatch.setattr(tracking, "_git", lambda command, *_: answers[command])
    monkeypatch.setenv("DVC_EXP_NAME", "warm-owl")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "def456")
    with tracked_run("c" * 64, "texts") as run:
        found = fetch(run.run_id)
    assert found.info.run_name == "warm-owl"
    tags = found.data.tags
    assert (tags["dvc.exp_name"], tags["dvc.exp_baseline_rev"]) == ("warm-owl", "def456")
    assert (tags["mlflow.source.git.commit"], tags["seqtrack.git_dirty"]) == ("abc123", "false")
    answers["status"] = " M params.yaml"
    with tracked_run("c" * 64, "texts") as run:
        assert fetch(run.run_id).data.tags["seqtrack.git_dirty"] == "true"


def test_without_git_nothing_is_said_of_it(store: Path) -> None:
    with tracked_run("d" * 64, "texts") as run:
        tags = fetch(run.run_id).data.tags
    assert "seqtrack.git_dirty" not in tags
    assert "mlflow.source.git.commit" not in tags


def test_params_are_kept_and_later_ones_go_to_tags(store: Path) -> None:
    with tracked_run("e" * 64, "texts") as run:
        run.log_params({"train.seed": 13, "data.text": None, "long": "x" * 9000, **{f"p{i}": i for i in range(120)}})
    with tracked_run("e" * 64, "texts") as run:
        run.log_params({"train.seed": 14, "data.text": None, "long": "x" * 9000, "new": True})
    data = fetch(run.run_id).data
    assert data.params["train.seed"] == "13"
    assert data.params["data.text"] == "None"
    assert data.params["new"] == "True"
    assert data.params["p119"] == "119"
    assert data.params["long"] == "x" * 5999 + "…"
    assert {key: value for key, value in data.tags.items() if key.startswith("changed.")} == {
        "changed.train.seed": "14"
    }


def test_points_are_logged_once_also_after_a_resume(store: Path) -> None:
    points = [Point(name="train/loss", value=1 / (step + 1), step=step) for step in range(6)]
    with tracked_run("f" * 64, "texts") as run:
        run.log_points(points[:3])
        run.log_points(points[2:4])
    with tracked_run("f" * 64, "texts") as run:  # from a checkpoint at step 2, with its history
        run.log_points(points[:3])
        run.log_points(points[2:])
        run.log_points([Point(name="validation/loss", value=0.5, step=0)])
    assert history(run.run_id, "train/loss") == [(point.step, point.value) for point in points]
    assert history(run.run_id, "validation/loss") == [(0, 0.5)]


def test_scores_of_the_final_model_are_no_points_of_the_curve(store: Path) -> None:
    with tracked_run("1" * 64, "texts") as run:
        run.log_points([Point(name="validation/accuracy", value=0.5, step=3)])
        run.log_scores({"validation": {"accuracy": 0.9}, "test": {"accuracy": 0.8}})
        run.log_scores({"validation": {"accuracy": 0.7}, "test": {"accuracy": 0.6}})  # evaluated again
    assert history(run.run_id, "validation/accuracy") == [(3, 0.5)]
    metrics = fetch(run.run_id).data.metrics
    assert (metrics["best_validation/accuracy"], metrics["test/accuracy"]) == (0.7, 0.6)


def make_splits() -> None:
    SPLITS.mkdir(parents=True, exist_ok=True)
    for name in ("train", "validation", "test"):
        (SPLITS / f"{name}.parquet").write_text(name)
    write_manifest(SPLITS, inputs={}, params={}, rows={"train": 8, "validation": 2, "test": 0, "dropped": 1})


def test_splits_are_inputs_once(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_splits()
    for _ in range(2):
        with tracked_run("2" * 64, "texts") as run:
            run.log_splits(SPLITS)
    inputs = fetch(run.run_id).inputs.dataset_inputs
    assert {(each.dataset.name, each.tags[0].value) for each in inputs} == {
        ("train", "train"),
        ("validation", "validation"),
    }
    assert len(inputs) == 2
    assert all(len(each.dataset.digest) == 36 for each in inputs)


def test_seconds_of_this_stage_and_of_those_before(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_splits()
    record("split", SPLITS, 4.5)
    with tracked_run("3" * 64, "texts") as run:
        run.log_stage_seconds("train", 2.0)
    metrics = fetch(run.run_id).data.metrics
    assert metrics == {"stage_seconds/split": 4.5, "stage_seconds/train": 2.0}


def test_files_become_artifacts(store: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("1")
    with tracked_run("4" * 64, "texts") as run:
        run.log_files([tmp_path / "one.txt"], "reports")
        run.log_files(tmp_path.iterdir(), "checkpoints/last")
    client = mlflow.MlflowClient()
    assert [file.path for file in client.list_artifacts(run.run_id, "reports")] == ["reports/one.txt"]
    assert [f.path for f in client.list_artifacts(run.run_id, "checkpoints/last")] == ["checkpoints/last/one.txt"]


def logged(folder: Path, example: str | dict[str, str], key: str) -> str:
    save_tiny_classifier(folder, WORDS, NAMES, max_length=12)
    uris = []
    for _ in range(2):
        with tracked_run(key * 64, "texts") as run:
            run.log_model(folder, example, {"run_key": key * 64, "base_model": "tiny"})
            uris.append(fetch(run.run_id).data.tags["seqtrack.model_uri"])
    assert uris[0] == uris[1]  # the same content is logged once
    return uris[0]


def test_a_logged_model_loads_back_both_ways(store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    uri = logged(tmp_path / "model", "great film", "5")
    texts = ["awful red film", "great " * 500]  # the second is far beyond max_length
    classify = mlflow.transformers.load_model(uri)
    direct = classify(texts, truncation=True)
    frame: Any = mlflow.pyfunc.load_model(uri).predict([{"text": text} for text in texts])
    assert [row["label"] for row in direct] == frame["label"].tolist()
    best = [max(chances.values()) for chances in frame["probabilities"]]
    assert [row["score"] for row in direct] == pytest.approx(best)
    assert set(frame["label"]) <= set(NAMES)
    info = mlflow.models.get_model_info(uri)
    assert info.signature is not None
    assert info.metadata["run_key"] == "5" * 64
    assert "http" not in capfd.readouterr().err.lower()  # nothing was looked up on a hub


def test_a_logged_model_takes_text_pairs(store: Path, tmp_path: Path) -> None:
    uri = logged(tmp_path / "model", {"text": "great film", "text_pair": "red film"}, "6")
    pairs = [{"text": "awful", "text_pair": "red"}, {"text": "great " * 99, "text_pair": "film " * 99}]
    model = mlflow.pyfunc.load_model(uri)
    frame: Any = model.predict(pairs)
    direct = mlflow.transformers.load_model(uri)(pairs, truncation=True)
    assert [row["label"] for row in direct] == frame["label"].tolist()
    best = [max(chances.values()) for chances in frame["probabilities"]]
    assert [row["score"] for row in direct] == pytest.approx(best)
    served = TestClient(scoring_server.init(model))  # what `mlflow models serve` runs
    for body in (
        {"dataframe_records": pairs},
        {"dataframe_split": {"columns": list(pairs[0]), "data": [list(row.values()) for row in pairs]}},
        {"inputs": {name: [row[name] for row in pairs] for name in pairs[0]}},
    ):
        response = served.post("/invocations", json=body)
        assert response.status_code == 200, response.text
        assert [row["label"] for row in response.json()["predictions"]] == frame["label"].tolist()
        assert response.json()["predictions"][0]["probabilities"] == pytest.approx(frame["probabilities"][0])
    for bad, reason in (
        ({"text": "a"}, "text_pair"),
        ({"text": "a", "text_pair": None}, "row 0: text_pair is not a string"),
        ({"text": 7, "text_pair": "b"}, "row 0: text is not a string: 7"),
        ({"text": " ", "text_pair": ""}, "row 0: no text"),
    ):
        response = served.post("/invocations", json={"dataframe_records": [bad]})
        assert response.status_code == 400
        assert reason in response.json()["message"]


def test_first_users_at_once_share_one_run(racers: list[tuple[int, str, str]]) -> None:
    assert [status for status, _, _ in racers] == [0, 0], racers
    assert racers[0][1] == racers[1][1]
    assert racers[0][1].strip()


@pytest.mark.parametrize("uri", ["nonsense://nowhere", "sqlite:////dev/null/mlflow.db"])
def test_a_store_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with (
        pytest.raises(SeqtrackError, match="the MLflow store cannot be used") as caught,
        tracked_run("7" * 64, "texts"),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert "check MLFLOW_TRACKING_URI" in str(caught.value)
