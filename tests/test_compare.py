"""Two trainings compared: each test against a plain computation, each kind of name, each task."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, mean_absolute_error

from pipeline import revisions
from pipeline.comparing import Comparison, Settings, compare
from pipeline.comparison_report import LOWER_IS_BETTER, better, show, write_page
from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet, joined
from pipeline.metrics import LOWER_IS_BETTER as KNOWN_LOWER
from pipeline.outputs import write_json
from pipeline.revisions import Side, SplitRows, lock_params, open_side, open_sides
from pipeline.row_predictions import FILE, RowPredictions, SplitPredictions, read_predictions, write_predictions
from pipeline.rows import SCHEMA, row_id, write_parquet
from pipeline.significance import Outputs, differences, mcnemar
from pipeline.targets import Targets
from pipeline.tracking import tracked_run
from stages import compare as stage
from tests.clone import clean_environment

HOME = Path(__file__).parent.parent
BINARY = LabelSet(problem_type="single_label_classification", names=("bad", "good"))
CLASSES = LabelSet(problem_type="single_label_classification", names=("a", "b", "c"))
SETS = LabelSet(problem_type="multi_label_classification", names=("x", "y", "z"))
NUMBERS = LabelSet(problem_type="regression", names=())
TASKS = [BINARY, CLASSES, SETS, NUMBERS]
JUDGED = Settings(samples=200, confidence=0.9, seed=3, permutations=99, limit=4)


def made_up(labels: LabelSet, rows: int, seed: int, skill: float) -> tuple[Targets, Outputs]:
    """Targets of rows that depend on their number alone, and a model that knows them to a degree."""
    truth, noise = np.random.default_rng(rows), np.random.default_rng(seed)
    targets: Any
    if labels.problem_type == "regression":
        targets = truth.normal(size=rows).round(2)
        logits = targets[:, None] * skill + noise.normal(size=(rows, 1))
    elif labels.problem_type == "multi_label_classification":
        targets = truth.integers(2, size=(rows, 3)).astype(np.float32)
        logits = (2 * targets - 1) * skill + noise.normal(size=(rows, 3))
    else:
        targets = truth.integers(labels.width, size=rows)
        logits = skill * np.eye(labels.width)[targets] + noise.normal(size=(rows, labels.width))
    return targets, Outputs(logits=logits.astype(np.float32))


def judged(labels: LabelSet, a: Outputs, b: Outputs, targets: Targets, **changes: int) -> dict[str, Any]:
    chosen: dict[str, Any] = {"samples": 100, "permutations": 99, "seed": 5, **changes}
    return differences(labels, a, b, targets, confidence=0.9, **chosen)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_the_binomial_of_the_rows_that_one_side_alone_gets_right(pairs: list[tuple[bool, bool]]) -> None:
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    only_a, only_b = sum(x and not y for x, y in pairs), sum(y and not x for x, y in pairs)
    total, tail = only_a + only_b, min(only_a, only_b)
    by_hand = min(1.0, 2 * sum(math.comb(total, k) for k in range(tail + 1)) / 2**total)
    assert mcnemar(a, b) == pytest.approx(by_hand)


def test_intervals_are_those_of_resamples_drawn_one_by_one() -> None:
    targets, a = made_up(CLASSES, 50, 1, 1.0)
    _, b = made_up(CLASSES, 50, 2, 2.0)
    found = judged(CLASSES, a, b, targets)
    generator = np.random.default_rng(5)
    apart = []
    for _ in range(100):
        rows = generator.integers(50, size=50)
        scores = [
            f1_score(targets[rows], each.logits[rows].argmax(1), average="macro", zero_division=0) for each in (a, b)
        ]
        apart.append(scores[1] - scores[0])
    low, high = np.quantile(apart, [0.05, 0.95])
    assert (found["f1_macro"].low, found["f1_macro"].high) == pytest.approx((low, high))


def by_hand(score: Any, a: np.ndarray, b: np.ndarray, permutations: int, seed: int) -> float:
    """The p-value of a paired permutation test, a swap at a time."""
    generator = np.random.default_rng(seed)
    observed, count = abs(score(a) - score(b)), 0
    for _ in range(permutations):
        kept = generator.integers(2, size=len(a)).astype(bool).reshape(-1, *[1] * (a.ndim - 1))
        gap = abs(score(np.where(kept, a, b)) - score(np.where(kept, b, a)))
        count += gap >= observed - 1e-9
    return (1 + count) / (1 + permutations)


def test_permutations_of_classes_are_those_made_one_by_one() -> None:
    targets, a = made_up(CLASSES, 40, 1, 1.0)
    _, b = made_up(CLASSES, 40, 2, 1.6)
    expected = by_hand(
        lambda said: f1_score(targets, said, average="macro", zero_division=0),
        *(each.logits.argmax(1) for each in (a, b)),
        99,
        5,
    )
    assert judged(CLASSES, a, b, targets)["f1_macro"].p_value == pytest.approx(expected)


def test_permutations_of_sets_keep_each_sides_thresholds() -> None:
    targets, a = made_up(SETS, 40, 1, 0.5)
    _, b = made_up(SETS, 40, 2, 1.0)
    a = replace(a, thresholds=np.array([0.3, 0.5, 0.7]))
    said = [
        1 / (1 + np.exp(-each.logits.astype(float))) >= (0.5 if each.thresholds is None else each.thresholds)
        for each in (a, b)
    ]
    found = judged(SETS, a, b, targets)
    expected = by_hand(lambda chosen: f1_score(targets, chosen, average="micro"), *said, 99, 5)
    assert found["f1_micro"].p_value == pytest.approx(expected)
    assert found["f1_micro"].a == pytest.approx(f1_score(targets, said[0], average="micro"))
    right = [(each == (targets > 0)).all(axis=1) for each in said]
    assert found["subset_accuracy"].p_value == mcnemar(*right)


def test_permutations_of_numbers_are_those_made_one_by_one() -> None:
    targets, a = made_up(NUMBERS, 40, 1, 0.7)
    _, b = made_up(NUMBERS, 40, 2, 1.0)
    found = judged(NUMBERS, a, b, targets)
    said = [each.logits[:, 0].astype(float) for each in (a, b)]
    expected = by_hand(lambda numbers: mean_absolute_error(targets, numbers), *said, 99, 5)
    assert found["mae"].p_value == pytest.approx(expected)
    assert found["mae"].difference == pytest.approx(
        mean_absolute_error(targets, said[1]) - mean_absolute_error(targets, said[0])
    )


@pytest.mark.parametrize("labels", TASKS, ids=lambda labels: f"{labels.problem_type}-{labels.width}")
@settings(max_examples=8)
@given(rows=st.integers(2, 30), seed=st.integers(0, 99))
def test_equal_models_do_not_differ_and_sides_may_be_swapped(labels: LabelSet, rows: int, seed: int) -> None:
    targets, a = made_up(labels, rows, seed, 1.0)
    for found in judged(labels, a, a, targets, samples=20, permutations=19).values():
        assert (found.difference, found.p_value) == (0, 1)
        assert (found.low, found.high) in ((0, 0), (None, None))
        assert not found.clear(0.9)
    _, b = made_up(labels, rows, seed + 100, 1.0)
    there = judged(labels, a, b, targets, samples=20, permutations=19)
    back = judged(labels, b, a, targets, samples=20, permutations=19)
    for name, found in there.items():
        assert back[name].difference == pytest.approx(-found.difference, abs=1e-12)
        assert back[name].p_value == found.p_value
        assert 1 / 20 <= found.p_value <= 1 or found.test == "mcnemar"


def test_a_better_model_is_called_better() -> None:
    targets, a = made_up(BINARY, 200, 1, 0.5)
    _, b = made_up(BINARY, 200, 2, 4.0)
    found = judged(BINARY, a, b, targets)
    comparison = compared(BINARY, {}, {})
    assert found["accuracy"].clear(0.9)
    assert found["loss"].difference < 0
    assert {better(name, found[name], comparison) for name in ("accuracy", "f1", "loss", "brier")} == {"B"}
    assert set(KNOWN_LOWER) < set(LOWER_IS_BETTER)


# ---- sides made by hand


def rows_of(labels: LabelSet, rows: int) -> list[dict[str, Any]]:
    targets = made_up(labels, rows, 0, 1.0)[0]
    found = []
    for place, target in enumerate(targets):
        if labels.problem_type == "regression":
            label = str(target)
        elif labels.problem_type == "multi_label_classification":
            label = joined(labels.names[each] for each in np.flatnonzero(target))
        else:
            label = labels.names[target]
        text = f"<script>alert({place})</script> text {place}"
        found.append(
            {
                "row_id": row_id(text, None, label, None, 0),
                "text": text,
                "label": label,
                "source": "a",
                "line": place + 1,
            }
        )
    return found


def side(
    labels: LabelSet, name: str, chosen: range, *, seed: int, skill: float, total: int = 60, **changes: Any
) -> Side:
    whole = rows_of(labels, total)
    outputs = made_up(labels, total, seed, skill)[1]
    scored = SplitPredictions(
        split="test",
        row_ids=pa.array([whole[place]["row_id"] for place in chosen]),
        labels=pa.array([whole[place]["label"] for place in chosen]),
        logits=outputs.logits[list(chosen)],
    )
    return Side(
        **{
            "name": name,
            "described": "made up",
            "kind": "revision",
            "params": {},
            "splits": {"test": SplitRows(rows=len(chosen), digest=f"{name}{chosen}", row_ids=scored.row_ids)},
            "metrics": {"test": {"own": 1.0}},
            "predictions": RowPredictions(labels=labels, thresholds=None, splits={"test": scored}),
            "missing": (),
            "rows": lambda: None,
            **changes,
        }
    )


def compared(labels: LabelSet, a: dict[str, Any], b: dict[str, Any]) -> Comparison:
    one = side(labels, "old", **{"chosen": range(60), "seed": 1, "skill": 0.6, **a})
    other = side(labels, "new", **{"chosen": range(60), "seed": 2, "skill": 1.5, **b})
    return compare(one, other, JUDGED)


@pytest.mark.parametrize("labels", TASKS, ids=lambda labels: f"{labels.problem_type}-{labels.width}")
def test_only_rows_that_both_scored_count_in_whatever_order(labels: LabelSet) -> None:
    whole = compared(labels, {"chosen": range(10, 50)}, {"chosen": range(10, 50)}).splits[0]
    apart = compared(labels, {"chosen": range(0, 50)}, {"chosen": range(59, 9, -1)})
    (split,) = apart.splits
    assert (split.rows, split.only_a, split.only_b) == (40, 10, 10)
    for name, found in split.metrics.items():
        assert found.a == pytest.approx(whole.metrics[name].a)
        assert found.b == pytest.approx(whole.metrics[name].b)
    assert "own" not in split.metrics  # recorded of other rows on each side
    difference = next(each for each in apart.rows if each.split == "test")
    assert (difference.only_a, difference.only_b, len(difference.shown_a)) == (10, 10, 4)


def test_flips_are_the_rows_that_changed_sides_surest_first() -> None:
    (split,) = compared(CLASSES, {}, {}).splits
    targets, a = made_up(CLASSES, 60, 1, 0.6)
    _, b = made_up(CLASSES, 60, 2, 1.5)
    said_a, said_b = a.logits.argmax(1), b.logits.argmax(1)
    assert split.flips is not None
    assert split.flips.fixed == ((said_a != targets) & (said_b == targets)).sum() > 4
    assert split.flips.broken == ((said_a == targets) & (said_b != targets)).sum()
    assert split.flips.other == ((said_a != targets) & (said_b != targets) & (said_a != said_b)).sum()
    shown = split.flips.shown_fixed
    assert len(shown) == JUDGED.limit
    assert [flip.weight for flip in shown] == sorted((flip.weight for flip in shown), reverse=True)
    assert all(flip.b == flip.label != flip.a for flip in shown)
    net = split.flips.fixed - split.flips.broken
    assert split.metrics["accuracy"].difference == pytest.approx(net / 60)
    assert split.metrics["own"].low is None


def test_flips_of_numbers_are_changes_of_the_error() -> None:
    (split,) = compared(NUMBERS, {}, {}).splits
    assert split.flips is not None
    assert split.flips.fixed + split.flips.broken == 60
    flip = split.flips.shown_broken[0]
    change = abs(float(flip.b) - float(flip.label)) - abs(float(flip.a) - float(flip.label))
    assert flip.weight == pytest.approx(change, abs=1e-3)


def test_classes_in_another_order_are_the_same_classes() -> None:
    turned = [2, 0, 1]
    other = side(CLASSES, "new", range(60), seed=1, skill=0.6)
    assert other.predictions is not None
    test = other.predictions.splits["test"]
    names = tuple(CLASSES.names[place] for place in turned)
    predictions = RowPredictions(
        labels=LabelSet(problem_type="single_label_classification", names=names),
        thresholds=None,
        splits={"test": replace(test, logits=test.logits[:, turned])},
    )
    (split,) = compared(CLASSES, {}, {"predictions": predictions}).splits
    assert {found.difference for found in split.metrics.values()} == {0}
    assert split.flips is not None
    assert (split.flips.fixed, split.flips.broken, split.flips.other) == (0, 0, 0)


def test_other_tasks_and_missing_predictions_are_said_and_the_rest_still_compared() -> None:
    numbers = side(NUMBERS, "new", range(60), seed=1, skill=0.6)
    for changes, said in [
        ({"predictions": numbers.predictions}, "A does single_label_classification, B regression"),
        ({"predictions": None, "missing": ("new: no predictions by row",)}, "no predictions by row"),
    ]:
        found = compared(
            CLASSES,
            {"metrics": {"test": {"accuracy": 0.5}}, "params": {"train.seed": "1"}},
            {"metrics": {"test": {"accuracy": 0.75}}, "params": {"train.seed": "2"}, **changes},
        )
        assert any(said in note for note in found.notes)
        (split,) = found.splits
        assert (split.metrics["accuracy"].difference, split.metrics["accuracy"].p_value) == (0.25, None)
        assert split.flips is None
        assert [(each.key, each.a, each.b) for each in found.params] == [("train.seed", "1", "2")]


def test_params_of_a_run_and_of_a_lock_file_are_the_same_when_they_mean_the_same() -> None:
    lock = """
schema: '2.0'
stages:
  train:
    cmd:
    - python -m pipeline.params
    - python -m stages.launch --mixed_precision bf16 --config_file '' --use_cpu -m stages.train
    params:
      params.yaml:
        train: {learning_rate: 3e-05, num_train_epochs: 3, freeze: [a, b], lora: null, tune: true}
"""
    found = lock_params(lock)
    assert found["launch.mixed_precision"] == "bf16"
    assert found["launch.use_cpu"] == "True"
    logged = {
        "train.learning_rate": "3e-05",
        "train.num_train_epochs": "3.0",
        "train.freeze": "a, b",
        "train.lora": "None",
        "train.tune": "True",
        "launch.mixed_precision": "no",
        "launch.num_machines": "1",
    }
    comparison = compared(CLASSES, {"params": found}, {"params": logged, "kind": "run"})
    assert [(each.key, each.a, each.b) for each in comparison.params] == [("launch.mixed_precision", "bf16", "no")]
    assert any("3 params that only one side records" in note for note in comparison.notes)


def test_the_page_shows_texts_as_text_and_loads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_parquet(pa.Table.from_pylist(rows_of(CLASSES, 60), SCHEMA), tmp_path / "rows.parquet")
    found = compared(CLASSES, {"chosen": range(50)}, {"rows": lambda: tmp_path / "rows.parquet"})
    write_page(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(" in page
    assert "<script" not in page
    assert not re.findall(r"(?:src|href)=|url\(|https?:", page)
    write_page(compare(found.a, found.b, JUDGED), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == (tmp_path / "page.html").read_bytes()
    for labels in TASKS:  # every task has its page
        write_page(compared(labels, {}, {}), tmp_path / "other.html")


def test_the_terminal_says_what_matters(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    show(compared(BINARY, {"chosen": range(50)}, {}))
    out = capsys.readouterr().out
    assert "rows of test: A 50, B 60; 0 only in A, 10 only in B" in out
    assert "99 swaps; seed 3" in out
    assert re.search(r"test: accuracy 0\.\d+ \(A\), 0\.\d+ \(B\): \+0\.\d+ \(.* to .*\), p = ", out)
    assert "its text is not in data/validated/rows.parquet here" in out


def test_predictions_come_back_as_they_were(tmp_path: Path) -> None:
    for labels in TASKS:
        predictions = side(labels, "x", range(20), seed=1, skill=1.0).predictions
        assert predictions is not None
        thresholds = np.array([0.25, 0.5, 0.75]) if labels is SETS else None
        write_predictions(tmp_path / FILE, labels, thresholds, list(predictions.splits.values()))
        back = read_predictions(tmp_path / FILE, "here")
        assert back.labels == labels
        assert (back.thresholds is None) == (thresholds is None)
        assert np.array_equal(back.splits["test"].logits, predictions.splits["test"].logits)
        assert back.splits["test"].row_ids.equals(predictions.splits["test"].row_ids)
    write_parquet(pa.table({"row_id": ["a"]}), tmp_path / FILE)
    with pytest.raises(SeqtrackError, match="here: not the predictions that evaluate writes"):
        read_predictions(tmp_path / FILE, "here")


# ---- a repository with real DVC and MLflow


PIPELINE = """
stages:
  results:
    cmd: cp -r prepared/. data/
    deps: [prepared]
    params: [train]
    outs: [data/splits, data/validated, data/reports/all_results.json, data/reports/evaluation]
"""


def prepare(folder: Path, labels: LabelSet, *, seed: int, skill: float, test: range) -> None:
    """Write what the stages would, into `prepared`."""
    prepared = folder / "prepared"
    whole = rows_of(labels, 60)
    made = side(labels, "x", test, seed=seed, skill=skill)
    assert made.predictions is not None
    for name in ("splits", "validated", "reports/evaluation"):
        (prepared / name).mkdir(parents=True, exist_ok=True)
    write_parquet(pa.Table.from_pylist(whole, SCHEMA), prepared / "validated/rows.parquet")
    for name, ids in {"train": [], "validation": [], "test": [whole[place]["row_id"] for place in test]}.items():
        write_parquet(pa.table({"row_id": pa.array(ids, pa.string())}), prepared / f"splits/{name}.parquet")
    write_predictions(prepared / "reports/evaluation" / FILE, labels, None, list(made.predictions.splits.values()))
    write_json(prepared / "reports/all_results.json", {"splits": {"test": {"metrics": {"own": skill}}}})


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two commits with results, an experiment on the second, and a workspace that differs from all."""
    folder = tmp_path_factory.mktemp("repository")

    def run(*command: str) -> None:
        done = subprocess.run(command, cwd=folder, env=clean_environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    run("git", "init", "-q", "-b", "main")
    run("git", "config", "user.email", "test@example.com")
    run("git", "config", "user.name", "test")
    run("dvc", "init", "-q")
    (folder / "dvc.yaml").write_text(PIPELINE)
    params = (HOME / "params.yaml").read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(params, encoding="utf-8")
    (folder / "data/reports").mkdir(parents=True)
    prepare(folder, CLASSES, seed=1, skill=0.6, test=range(50))
    run("dvc", "repro", "-q")
    run("git", "add", "-A")
    run("git", "commit", "-qm", "first")
    run("git", "tag", "v1")
    prepare(folder, CLASSES, seed=2, skill=1.5, test=range(60))
    run("dvc", "repro", "-q")
    run("git", "commit", "-qam", "second")
    run("dvc", "exp", "run", "-q", "-n", "steep", "-S", "train.learning_rate=0.5")
    run("git", "checkout", "-q", "--force", ".")
    (folder / "data/reports/all_results.json").unlink()
    return folder


@pytest.fixture
def inside(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(repository)
    return repository


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(file): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and ".dvc" not in file.parts and ".git" not in file.parts
    }


def test_commits_tags_and_experiments_are_found_without_touching_the_folder(inside: Path) -> None:
    before = tree(inside)
    with open_sides("v1", "steep") as (a, b):
        assert a.described.startswith("commit ")
        assert b.described.startswith("DVC experiment, commit ")
        found = compare(a, b, JUDGED)
        rates = next(each for each in found.params if each.key == "train.learning_rate")
        assert rates.b == "0.5"
        assert [each.key for each in found.params] == ["train.learning_rate"]
        difference = next(each for each in found.rows if each.split == "test")
        assert (difference.rows_a, difference.rows_b, difference.only_b) == (50, 60, 10)
        assert difference.shown_b[0].text is not None
        (split,) = found.splits
        assert (split.rows, split.only_b) == (50, 10)
        expected = compared(CLASSES, {"chosen": range(50)}, {}).splits[0].metrics["accuracy"]
        assert split.metrics["accuracy"] == expected
    assert tree(inside) == before


def test_the_workspace_is_a_side_of_its_own(inside: Path) -> None:
    with open_sides("workspace", "HEAD") as (a, b):
        assert a.described == "the files in data/ as they are"
        assert any(
            "workspace: not there: data/reports/all_results.json (recorded scores); run `dvc repro`" in each
            for each in a.missing
        )
        assert compare(a, b, JUDGED).splits[0].flips is not None


def test_an_output_that_is_nowhere_is_named_with_what_to_do(inside: Path, tmp_path: Path) -> None:
    other = tmp_path / "clone"  # as a colleague has it: without the cache
    subprocess.run(["git", "clone", "-q", str(inside), str(other)], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(other)
        with pytest.raises(SeqtrackError) as raised:
            open_side("v1", tmp_path)
    assert "v1: neither in git nor in DVC's cache: data/splits/train.parquet (rows of train)" in str(raised.value)
    assert "data/reports/evaluation/predictions.parquet (predictions by row" in str(raised.value)
    assert "dvc fetch --all-commits" in str(raised.value)


def test_a_name_that_means_nothing_is_told_in_one_line_with_a_near_one(inside: Path, tmp_path: Path) -> None:
    with pytest.raises(SeqtrackError, match=r"steap: neither an experiment or commit.*did you mean steep\?") as raised:
        open_side("steap", tmp_path)
    assert "\n" not in str(raised.value)
    assert not (inside / "mlflow.db").exists()


@pytest.fixture
def run_id(mlflow_root: Path, inside: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run with everything that train and evaluate log, in a store elsewhere."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{mlflow_root / 'mlflow.db'}")
    monkeypatch.setattr("pipeline.tracking.state", lambda: mlflow_root / ".seqtrack")
    with tracked_run("7" * 64, "texts") as run:
        run.log_params({"train.learning_rate": 0.25})
        run.log_files(
            [inside / "prepared/reports/all_results.json", inside / "prepared/reports/evaluation" / FILE], "reports"
        )
    return run.run_id


def test_an_mlflow_run_is_compared_by_what_it_logged(run_id: str, inside: Path) -> None:
    for name in (run_id, f"runs:/{run_id}", "7" * 10):
        with open_sides("v1", name) as (a, b):
            assert b.described.startswith(f"MLflow run 7777777777 ({run_id}) in texts")
            found = compare(a, b, JUDGED)
    assert ("train.learning_rate", "0.25") in [(each.key, each.b) for each in found.params]
    assert found.splits[0].rows == 50
    assert found.splits[0].flips is not None
    difference = next(each for each in found.rows if each.split == "test")
    assert (difference.scored, difference.only_b) == (True, 10)


def test_a_run_without_predictions_says_which_file_it_lacks(
    run_id: str, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revisions, "list_artifacts", lambda *_: ["all_results.json"])
    with open_sides("v1", run_id) as (a, b):
        found = compare(a, b, JUDGED)
    assert any("has logged no reports/predictions.parquet, so no predictions by row" in note for note in found.notes)
    assert found.splits[0].metrics["own"].difference == pytest.approx(1.5 - 0.6)
    with pytest.raises(SeqtrackError, match="nor an MLflow run"):
        open_side("runs:/" + "f" * 32, inside)


def test_the_command_prints_and_writes_the_page(
    inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "out.html"
    monkeypatch.setattr(sys, "argv", ["compare", "v1", "steep", "--html", str(page), "--permutations", "50"])
    stage.main()
    out = capsys.readouterr().out
    assert "params that differ" in out
    assert "fixed by B" in out
    assert "<!doctype html>" in page.read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["compare", "v1", "nothing-like-it"])
    with pytest.raises(SystemExit, match=r"^error: nothing-like-it: neither"):
        stage.main()
