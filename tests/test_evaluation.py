"""Evaluation: joined on row_id, unlabelled rows left out, reports that agree with each other."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from pipeline import figures
from pipeline.calibration import Choices, calibration_scores, fit_temperature
from pipeline.errors import SeqtrackError
from pipeline.evaluation import Evaluation, evaluate_splits
from pipeline.labels import LabelSet, joined
from pipeline.outputs import folder_digest, read_json
from pipeline.probabilities import probabilities, row_losses
from pipeline.resampling import once
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
    with (reported[1] / "evaluation" / "confusion.csv").open(encoding="utf-8", newline="") as stream:
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
    assert len(files) == 4 + 8 + 1 + 6 + 1  # reports, tables, outputs, figures, manifest
    for file in files:
        assert (again / file).read_bytes() == (reported[1] / file).read_bytes(), file
    assert (again / "validation.json").read_text() == "{}"


def test_figures_are_named(reported: Reported) -> None:
    _, reports, figures = reported
    names = ("confusion", "curves", "f1_by_class", "lengths", "reliability", "slices")
    assert figures == tuple(reports / "evaluation" / f"{name}.png" for name in names)
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
    assert len((reports / "evaluation" / "confusion.csv").read_text().splitlines()) == 1 + 20
    errors = [json.loads(line) for line in (reports / "errors.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {error["split"] for error in errors} <= {"validation", "test"}


def test_an_unlabelled_test_split_is_absent_and_validation_takes_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path, lambda index: NAMES[index % 3] if index % 4 == 0 else None)
    reports, figures = world.report(world.evaluate())
    assert list(read_json(reports / "metrics.json")) == ["validation"]
    assert len((reports / "evaluation" / "confusion.csv").read_text().splitlines()) == 1 + 15
    assert len(figures) == 6
    assert "test has no labelled rows" in capsys.readouterr().out


def test_classes_that_no_font_can_write_are_named_by_number_and_told(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "FONTS", ("DejaVu Sans",))
    world.report(world.evaluate(), "numbered")
    assert "figures number them: class 0 is 体育\n" in capsys.readouterr().out


MNLI = ("validation_matched.jsonl", "validation_mismatched.jsonl")


def test_each_evaluation_file_of_the_users_has_its_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path, source_of=lambda index: "test.jsonl" if index % 4 else f"dev/{MNLI[index % 8 // 4]}")
    reports, _ = world.report(world.evaluate())
    metrics = read_json(reports / "metrics.json")
    assert list(metrics) == ["test", "validation", "validation_matched", "validation_mismatched"]
    expected = world.expected("validation")
    for name in MNLI:
        ids = [row["row_id"] for row in world.rows if row["source"] == f"dev/{name}"]
        actual, predicted, _ = zip(*(expected[id_] for id_ in ids), strict=True)
        scores = metrics[name.removesuffix(".jsonl")]
        assert scores["accuracy"] == pytest.approx(accuracy_score(actual, predicted))
        assert scores["accuracy_low"] <= scores["accuracy"] <= scores["accuracy_high"]
    assert "validation_mismatched" in capsys.readouterr().out


def test_files_that_the_split_stage_divided_are_no_evaluation_files(tmp_path: Path) -> None:
    world = World(tmp_path, source_of=lambda index: f"{index % 3}.csv")
    given = [row["row_id"] for row in world.rows if row["split"] == "test"]
    other = [row["row_id"] for row in world.rows if row["split"] == "validation"]
    world.write_split("test", given[10:] + other[:2])
    world.write_split("validation", other[2:] + given[:10])
    reports, _ = world.report(world.evaluate())
    assert list(read_json(reports / "metrics.json")) == ["test", "validation"]


def test_slices_divide_each_split(world: World, reported: Reported) -> None:
    everything = read_json(reported[1] / "all_results.json")["splits"]
    for split in ("validation", "test"):
        parts = everything[split]["slices"]
        assert {part["by"] for part in parts} == {"length"}  # there is one file
        assert sum(part["rows"] for part in parts) == everything[split]["rows"]
        hits = sum(part["rows"] * part["metrics"]["accuracy"] for part in parts)
        assert hits / everything[split]["rows"] == pytest.approx(everything[split]["metrics"]["accuracy"])
        assert all(part["few_rows"] for part in parts)
    names = {split: [part["name"] for part in everything[split]["slices"]] for split in everything}
    assert names["validation"] == names["test"]
    with (reported[1] / "evaluation" / "slices.csv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [(line["split"], line["slice"]) for line in lines] == [
        (split, name) for split in ("validation", "test") for name in names[split]
    ]
    assert all(float(line["accuracy_low"]) <= float(line["accuracy"]) <= float(line["accuracy_high"]) for line in lines)


def test_columns_of_the_users_divide_each_split(tmp_path: Path) -> None:
    shops = (None, "north", "south")
    settings = SETTINGS.model_copy(update={"slices": ("shop",)})
    world = World(tmp_path, kept_of=lambda index: [("stars", "5"), ("shop", shops[index % 3])], settings=settings)
    reports, _ = world.report(world.evaluate())
    everything = read_json(reports / "all_results.json")["splits"]
    for split in ("validation", "test"):
        expected = world.expected(split)
        parts = {part["name"]: part for part in everything[split]["slices"]}
        assert list(parts) == ["(none)", "north", "south"]
        for shop, part in zip(shops, parts.values(), strict=True):
            ids = [row["row_id"] for row in world.rows if row["split"] == split and dict(row["kept"])["shop"] == shop]
            actual, predicted, _ = zip(*(expected[id_] for id_ in ids), strict=True)
            assert (part["by"], part["rows"]) == ("shop", len(ids))
            assert part["metrics"]["accuracy"] == pytest.approx(accuracy_score(actual, predicted))
    with (reports / "evaluation" / "slices.csv").open(encoding="utf-8", newline="") as stream:
        found = [(line["split"], line["by"], line["slice"]) for line in csv.DictReader(stream)]
    names = ("(none)", "north", "south")
    assert found == [(split, "shop", name) for split in ("validation", "test") for name in names]


def test_a_column_that_was_not_kept_is_named_before_the_model_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SETTINGS.model_copy(update={"slices": ("length", "shop")})
    with pytest.raises(SeqtrackError, match=r"evaluate\.slices.*the rows have no column 'shop'"):
        World(tmp_path, settings=settings).evaluate()
    assert "evaluate:" not in capsys.readouterr().out


def test_a_temperature_is_fitted_on_validation_and_reported_beside_the_scores_as_trained(tmp_path: Path) -> None:
    world = World(tmp_path, settings=SETTINGS.model_copy(update={"temperature_scaling": True}))
    evaluation = world.evaluate()
    reports, _ = world.report(evaluation)
    found = read_json(reports / "calibration.json")
    assert found["model"] == folder_digest(world.folder / "model")
    assert found["fitted_on"] == "validation"
    validation, test = evaluation.splits
    assert found["temperature"] == fit_temperature(Choices.of_classes(validation.logits, validation.targets))
    cooled = Choices.of_classes(test.logits, test.targets).at(found["temperature"])
    expected = {name: values[0] for name, values in calibration_scores(cooled, once(45)).items()}
    metrics = read_json(reports / "metrics.json")["test"]
    for name in ("ece", "mce", "brier"):
        assert metrics[f"{name}_scaled"] == found["splits"]["test"][f"{name}_scaled"] == pytest.approx(expected[name])
        assert metrics[f"{name}_scaled_low"] <= metrics[f"{name}_scaled_high"]
    assert metrics["loss_scaled"] == pytest.approx(row_losses(cooled.logits, cooled.labels).mean())
    assert found["splits"]["validation"]["loss_scaled"] < found["splits"]["validation"]["loss"]
    lines = (reports / "evaluation" / "reliability.csv").read_text().splitlines()
    assert {line.partition(",")[0] for line in lines[1:]} == {"as trained", f"temperature {found['temperature']:g}"}


def test_without_a_temperature_the_file_says_so(reported: Reported) -> None:
    found = read_json(reported[1] / "calibration.json")
    assert (found["temperature"], found["splits"]) == (None, {})
    assert not [name for name in read_json(reported[1] / "metrics.json")["test"] if "scaled" in name]


def test_curves_are_those_of_the_probabilities(reported: Reported) -> None:
    evaluation, reports, _ = reported
    test = evaluation.splits[-1]
    with (reports / "evaluation" / "roc.csv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert list(dict.fromkeys(line["class"] for line in lines)) == ["(all classes pooled)", *NAMES]
    for place, name in enumerate(NAMES):
        points = [
            (float(line["false_positive_rate"]), float(line["true_positive_rate"]))
            for line in lines
            if line["class"] == name
        ]
        expected = roc_auc_score(test.targets == place, probabilities(test.logits)[:, place])
        assert np.trapezoid(*list(zip(*points, strict=True))[::-1]) == pytest.approx(expected)


def test_the_surest_errors_are_shown(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.report(world.evaluate(), "shown")
    out = capsys.readouterr().out
    assert "most confident errors in test" in out
    surest = max(
        max(json.loads(line)["probabilities"].values())
        for line in (world.folder / "shown" / "errors.jsonl").read_text(encoding="utf-8").splitlines()
        if json.loads(line)["split"] == "test"
    )
    assert f"{surest:.3f}" in out


def test_multi_label_data_are_scored_by_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = [joined(NAMES[place] for place in range(3) if bits >> place & 1) for bits in range(8)]
    world = World(tmp_path, lambda index: sets[index % 8], task="multi_label_classification")
    evaluation = world.evaluate()
    reports, figures = world.report(evaluation)
    test = evaluation.splits[-1]
    chosen, wanted = test.logits >= 0, test.targets > 0
    metrics = read_json(reports / "metrics.json")["test"]
    assert metrics["f1_micro"] == pytest.approx(f1_score(wanted, chosen, average="micro"))
    assert metrics["roc_auc_micro"] == pytest.approx(roc_auc_score(wanted, test.logits, average="micro"))
    with (reports / "evaluation" / "classes.csv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [line["class"] for line in lines] == list(NAMES)
    assert [float(line["f1"]) for line in lines] == pytest.approx(f1_score(wanted, chosen, average=None))
    assert [int(line["support"]) for line in lines] == wanted.sum(axis=0).tolist()
    for other in ("confusion", "regression"):  # of other tasks: a header alone
        assert (reports / "evaluation" / f"{other}.csv").read_text() == "actual,predicted\n"
    assert {figure.stem for figure in figures} == {"curves", "f1_by_class", "lengths", "reliability", "slices"}
    errors = [json.loads(line) for line in (reports / "errors.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(set(error["predicted"]) != set(error["label"]) for error in errors)
    losses = [error["loss"] for error in errors if error["split"] == "test"]
    assert losses == sorted(losses, reverse=True)
    assert f"{(chosen != wanted).any(axis=1).sum()} of 45 in test" in capsys.readouterr().out


def test_numbers_are_scored_as_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path, lambda index: str(index % 7 / 2), task="regression")
    evaluation = world.evaluate()
    reports, figures = world.report(evaluation)
    test = evaluation.splits[-1]
    predicted = test.logits[:, 0].astype(float)
    metrics = read_json(reports / "metrics.json")["test"]
    assert metrics["pearson"] == pytest.approx(np.corrcoef(predicted, test.targets)[0, 1], abs=1e-6)
    assert metrics["mae_low"] <= metrics["mae"] <= metrics["mae_high"]
    assert "accuracy" not in metrics
    with (reports / "evaluation" / "regression.csv").open(encoding="utf-8", newline="") as stream:
        lines = [(float(line["actual"]), float(line["predicted"])) for line in csv.DictReader(stream)]
    assert lines == list(zip(test.targets, predicted, strict=True))
    assert {figure.stem for figure in figures} == {"lengths", "regression", "slices"}
    errors = [json.loads(line) for line in (reports / "errors.jsonl").read_text(encoding="utf-8").splitlines()]
    largest = np.sort(np.abs(predicted - test.targets))[::-1][:5]
    assert [error["absolute_error"] for error in errors if error["split"] == "test"] == pytest.approx(largest, abs=1e-5)
    assert "largest errors in test" in capsys.readouterr().out


def test_numbers_have_no_temperature(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"temperature_scaling": True})
    with pytest.raises(SeqtrackError, match="temperature_scaling: numbers have no temperature"):
        World(tmp_path, str, task="regression", settings=settings).evaluate()


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
