"""Evaluation: joined on row_id, unlabelled rows left out, reports that agree with each other."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import accuracy_score, f1_score

from pipeline.errors import SeqtrackError
from pipeline.evaluation import Evaluation, evaluate_splits
from pipeline.labels import LabelSet
from pipeline.outputs import folder_digest, read_json
from pipeline.rows import write_parquet
from tests.world import NAMES, SETTINGS, World

Reported = tuple[Evaluation, Path, tuple[Path, ...]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def reported(world: World) -> Reported:
    evaluation = world.evaluate()
    return evaluation, *world.report(evaluation)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_scores_equal_those_of_the_model_row_by_row(world: World, reported: Reported, split: str) -> None:
    metrics = read_json(reported[1] / "metrics.json")[split]
    actual, predicted, losses = zip(*world.expected(split).values(), strict=True)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(actual, predicted))
    assert metrics["f1_macro"] == pytest.approx(f1_score(actual, predicted, average="macro", zero_division=0))
    assert metrics["loss"] == pytest.approx(np.mean(losses), abs=1e-3)


def test_every_metric_has_an_interval_beside_it(reported: Reported) -> None:
    for metrics in read_json(reported[1] / "metrics.json").values():
        names = {name for name in metrics if not name.endswith(("_low", "_high"))}
        assert set(metrics) == names | {f"{name}_low" for name in names} | {f"{name}_high" for name in names}
        assert all(metrics[f"{name}_low"] <= metrics[f"{name}_high"] for name in names)


def test_all_results_hold_the_identity_and_agree_with_the_metrics(world: World, reported: Reported) -> None:
    everything = read_json(reported[1] / "all_results.json")
    assert everything["model"] == folder_digest(world.folder / "model")
    assert everything["run_key"] == "0" * 64
    assert everything["labels"] == list(NAMES)
    test = everything["splits"]["test"]
    matrix = np.array(test["confusion_matrix"])
    assert matrix.sum() == test["rows"] == 45
    assert np.trace(matrix) / 45 == pytest.approx(test["metrics"]["accuracy"])
    assert [score["support"] for score in test["classes"]] == matrix.sum(axis=1).tolist()
    assert np.mean([score["f1"] for score in test["classes"]]) == pytest.approx(test["metrics"]["f1_macro"])


def test_confusion_csv_has_a_line_per_test_row(world: World, reported: Reported) -> None:
    with (reported[1] / "confusion.csv").open(encoding="utf-8", newline="") as stream:
        lines = [(line["actual"], line["predicted"]) for line in csv.DictReader(stream)]
    assert sorted(lines) == sorted((actual, predicted) for actual, predicted, _ in world.expected("test").values())


def test_errors_are_the_worst_wrong_rows_of_each_split(world: World, reported: Reported) -> None:
    errors = [json.loads(line) for line in (reported[1] / "errors.jsonl").read_text(encoding="utf-8").splitlines()]
    by_id = {row["row_id"]: row for row in world.rows}
    for split in ("validation", "test"):
        ours = [error for error in errors if error["split"] == split]
        wrong = {id_: loss for id_, (actual, predicted, loss) in world.expected(split).items() if actual != predicted}
        assert len(wrong) > SETTINGS.max_errors
        assert [error["loss"] for error in ours] == pytest.approx(sorted(wrong.values(), reverse=True)[:5], abs=1e-2)
        for error in ours:
            row = by_id[error["row_id"]]
            assert {key: error[key] for key in ("text", "label", "source", "line")} == {
                key: row[key] for key in ("text", "label", "source", "line")
            }
            assert error["predicted"] == max(error["probabilities"], key=error["probabilities"].get) != row["label"]


def test_reports_repeat_byte_for_byte_and_leave_other_files_alone(world: World, reported: Reported) -> None:
    (world.folder / "again").mkdir()
    (world.folder / "again" / "validation.json").write_text("{}")
    again, _ = world.report(world.evaluate(), "again")
    files = sorted(file.relative_to(reported[1]) for file in reported[1].rglob("*") if file.is_file())
    assert len(files) == 6
    for file in files:
        assert (again / file).read_bytes() == (reported[1] / file).read_bytes(), file
    assert (again / "validation.json").read_text() == "{}"


def test_figures_are_named(reported: Reported) -> None:
    _, reports, figures = reported
    assert figures == (reports / "figures" / "confusion.png", reports / "figures" / "f1_by_class.png")
    assert all(figure.is_file() for figure in figures)


def test_rows_without_a_label_are_left_out_and_counted(tmp_path: Path) -> None:
    world = World(tmp_path, lambda index: None if index % 2 else NAMES[index % 3])
    reports, _ = world.report(world.evaluate())
    test = read_json(reports / "all_results.json")["splits"]["test"]
    assert (test["rows"], test["unlabelled_rows"]) == (15, 30)
    actual, predicted, _ = zip(*world.expected("test").values(), strict=True)
    assert test["metrics"]["accuracy"] == pytest.approx(accuracy_score(actual, predicted))


def test_the_test_set_as_given_is_scored_beside_the_clean_one(tmp_path: Path) -> None:
    world = World(tmp_path)
    given = [row["row_id"] for row in world.rows if row["split"] == "test"]
    world.write_split("test_as_given", given)
    world.write_split("test", given[:20])
    reports, _ = world.report(world.evaluate())
    metrics = read_json(reports / "metrics.json")
    assert list(metrics) == ["test", "test_as_given", "validation"]
    expected = world.expected("test")
    for name, ids in (("test_as_given", given), ("test", given[:20])):
        actual, predicted, _ = zip(*(expected[id_] for id_ in ids), strict=True)
        assert metrics[name]["accuracy"] == pytest.approx(accuracy_score(actual, predicted))
    assert len((reports / "confusion.csv").read_text().splitlines()) == 1 + 20
    errors = [json.loads(line) for line in (reports / "errors.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {error["split"] for error in errors} <= {"validation", "test"}


def test_an_unlabelled_test_split_is_absent_and_validation_takes_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path, lambda index: NAMES[index % 3] if index % 4 == 0 else None)
    reports, figures = world.report(world.evaluate())
    assert list(read_json(reports / "metrics.json")) == ["validation"]
    assert len((reports / "confusion.csv").read_text().splitlines()) == 1 + 15
    assert len(figures) == 2
    assert "test has no labelled rows" in capsys.readouterr().out


def test_without_any_label_there_is_nothing_to_score(tmp_path: Path) -> None:
    with pytest.raises(SeqtrackError, match=r"no labelled rows.*validation or test"):
        World(tmp_path, lambda _: None).evaluate()


def test_a_model_of_other_labels_is_refused(world: World) -> None:
    others = LabelSet(problem_type="single_label_classification", names=("x", "y"))
    others.write(world.folder / "others.json")
    with pytest.raises(SeqtrackError, match=r"trained on other labels.*体育.*x, y"):
        evaluate_splits(
            world.classifier,
            world.tokens,
            splits=world.folder / "splits",
            rows=world.folder / "rows.parquet",
            labels=world.folder / "others.json",
            evaluate=SETTINGS,
        )


def test_a_split_of_other_rows_is_refused(world: World, tmp_path: Path) -> None:
    for name in ("validation", "test"):
        write_parquet(pa.table({"row_id": pa.array(["f" * 32])}), tmp_path / f"{name}.parquet")
    with pytest.raises(SeqtrackError, match=f"no row {'f' * 32}"):
        evaluate_splits(
            world.classifier,
            world.tokens,
            splits=tmp_path,
            rows=world.folder / "rows.parquet",
            labels=world.folder / "labels.json",
            evaluate=SETTINGS,
        )
