"""GLUE tasks from files as people have them, and from the hub: the same fields, all rows, GLUE's class names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from pipeline import sources_glue
from pipeline.code import HOME
from pipeline.errors import SeqtrackError
from pipeline.glue import TASKS, TEST_ROWS, find_task, submission_of
from pipeline.outputs import read_manifest
from pipeline.params import Fetch
from pipeline.sources import fetch

SHARED = Path(os.environ.get("SEQTRACK_DATA", Path(__file__).parents[2] / "shared" / "data"))
MNLI_HEADER = "index\tpromptID\tsentence1_parse\tsentence1\tsentence2\tlabel1\tgold_label"


def settings(path: Path, name: str) -> Fetch:
    return Fetch(source="glue", name=name, config=None, revision=None, path=str(path))


def write(folder: Path, **files: str) -> None:
    """Write files, `train` for train.tsv; other endings are given as `name__csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        stem, _, suffix = name.partition("__")
        (folder / f"{stem}.{suffix or 'tsv'}").write_bytes(content.encode())


def fetched(path: Path, name: str, out: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each file that fetch writes."""
    out.mkdir()
    rows = fetch(settings(path, name), out)
    found = {
        file.relative_to(out).as_posix(): [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for file in sorted(out.rglob("*.jsonl"))
    }
    assert rows == {file: len(lines) for file, lines in found.items()}
    assert list(rows) == sorted(rows)
    return found


def test_a_folder_in_glues_own_layout(tmp_path: Path) -> None:
    write(
        tmp_path / "glue_data" / "MRPC",
        train='\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t7\t8\tHe said "so\tSo\r\n0\t7\t8\tNo\tYes\r\n',
        dev="\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\ta\tb\n",
        test="index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t7\t8\tc\td\n1\t7\t8\te\tf",
        dev_ids="1\t2\n",
        msr_paraphrase_train__txt="not read",
    )
    assert fetched(tmp_path / "glue_data", "mrpc", tmp_path / "out") == {
        "train.jsonl": [
            {"text": 'He said "so', "text_pair": "So", "label": "equivalent", "idx": 0},
            {"text": "No", "text_pair": "Yes", "label": "not_equivalent", "idx": 1},
        ],
        "validation.jsonl": [{"text": "a", "text_pair": "b", "label": "equivalent", "idx": 0}],
        "test.jsonl": [
            {"text": "c", "text_pair": "d", "label": None, "idx": 0},
            {"text": "e", "text_pair": "f", "label": None, "idx": 1},
        ],
    }
    manifest = read_manifest(tmp_path / "out")
    assert sorted(manifest["inputs"]) == ["MRPC/dev.tsv", "MRPC/test.tsv", "MRPC/train.tsv"]
    assert manifest["glue_submissions"] == {"test.jsonl": "MRPC"}
    assert str(tmp_path) not in json.dumps(manifest)


@pytest.mark.parametrize("diagnostic", ["diagnostic/diagnostic.tsv", "MNLI/diagnostic.tsv", "AX/test.tsv"])
def test_mnli_keeps_matched_and_mismatched_apart_and_brings_the_diagnostic_set(tmp_path: Path, diagnostic: str) -> None:
    row = "{0}\t9\t(a)\tone\ttwo\tneutral\t{1}\n"
    write(
        tmp_path / "MNLI",
        train=f"{MNLI_HEADER}\n" + row.format(0, "neutral"),
        dev_matched=f"{MNLI_HEADER}\n" + row.format(5, "entailment"),
        dev_mismatched=f"{MNLI_HEADER}\n" + row.format(6, "contradiction") + row.format(7, "-"),
        test_matched="index\tsentence1\tsentence2\n3\tone\ttwo\n",
        test_mismatched="index\tsentence1\tsentence2\n4\tone\ttwo\n",
    )
    file = tmp_path / diagnostic
    write(file.parent, **{file.stem: "index\tsentence1\tsentence2\n0\tp\th\n"})
    found = fetched(tmp_path, "MNLI", tmp_path / "out")
    assert {name: [(row["idx"], row["label"]) for row in rows] for name, rows in found.items()} == {
        "ax/test_ax.jsonl": [(0, None)],
        "test_matched.jsonl": [(3, None)],
        "test_mismatched.jsonl": [(4, None)],
        "train.jsonl": [(0, "neutral")],
        "validation_matched.jsonl": [(5, "entailment")],
        "validation_mismatched.jsonl": [(6, "contradiction"), (7, None)],
    }
    assert read_manifest(tmp_path / "out")["glue_submissions"] == {
        "ax/test_ax.jsonl": "AX",
        "test_matched.jsonl": "MNLI-m",
        "test_mismatched.jsonl": "MNLI-mm",
    }


def test_a_row_that_is_not_like_the_others_is_left_out_and_listed(tmp_path: Path, capsys: Any) -> None:
    rows = "".join(f"{number}\t1\t2\tq{number}\tr\t{number % 2}\n" for number in range(300))
    write(tmp_path / "QQP", part=f"0\t1\t2\tfirst\tglued 0\n{rows}999\t1\t2\tq\tr\t7\n")
    found = fetched(tmp_path, "qqp", tmp_path / "out")
    assert list(found) == ["part.jsonl"]  # no split: the split stage divides it
    assert [row["idx"] for row in found["part.jsonl"]] == list(range(300))
    skipped = read_manifest(tmp_path / "out")["skipped"]
    assert [(row["file"], row["line"]) for row in skipped] == [("part.tsv", 1), ("part.tsv", 302)]
    assert "left out: part.tsv:1: ragged: 5 fields" in capsys.readouterr().out


def test_scores_are_numbers_and_extra_columns_are_left_out(tmp_path: Path) -> None:
    row = 'main\tMSRvid\t2012\t0001\t{0}\tA "plane.\tAn air plane.'
    lines = [row.format("5.000"), row.format("3.8") + "\tmore\tand more", row.format("0.25")]
    write(tmp_path / "stsb", **{"sts-train__csv": "\n".join(lines * 40) + "\n"})
    found = fetched(tmp_path, "STS-B", tmp_path / "out")
    assert [row["label"] for row in found["train.jsonl"][:3]] == [5.0, 3.8, 0.25]
    assert (len(found["train.jsonl"]), found["train.jsonl"][1]["text_pair"]) == (120, "An air plane.")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mprc", r"fetch\.name: no GLUE task 'mprc' \(did you mean MRPC\?\); expected one of CoLA, SST-2, "),
        ("ax", r"AX has no training rows: models of MNLI answer it; set fetch\.name to mnli"),
        ("what", r"no GLUE task 'what'.*expected one of CoLA"),
    ],
)
def test_a_task_that_is_none(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(SeqtrackError, match=message):
        fetch(settings(tmp_path, name), tmp_path)


@pytest.mark.parametrize("name", ["sst2", "SST-2", "Sst_2", "SST2"])
def test_names_however_they_are_spelled(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, train="good\t1\nbad\t0\n")
    assert find_task(name).name == "SST-2"
    assert fetched(tmp_path, "sst-2", tmp_path / "out")["train.jsonl"][0]["label"] == "positive"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes__md": "x"}, r"RTE: no data of RTE in this folder; expected train\.tsv, dev\.tsv and test\.tsv"),
        ({"train": "sentence\tlabel\nx\t1\n"}, r"rows are not as those of RTE|not a file of RTE"),
        ({"train": "index\tsentence1\tlabel\n0\tx\t1\n"}, r"train\.tsv: not a file of RTE; expected columns sentence1"),
        ({"train": "0\ta\tb\tmaybe\n1\ta\tb\tmaybe\n"}, r"train\.tsv:1: 2 of 2 rows .*'maybe' is none of the classes"),
        ({"train": "0\ta\tb\t1\n", "train__csv": "0\ta\tb\t1\n"}, r"two files for train: train\.csv and train\.tsv"),
    ],
)
def test_files_that_are_not_the_tasks(tmp_path: Path, files: dict[str, str], message: str) -> None:
    write(tmp_path / "RTE", **files)
    with pytest.raises(SeqtrackError, match=message):
        fetched(tmp_path, "rte", tmp_path / "out")


def hub_data(task: str) -> DatasetDict:
    """Return what nyu-mll/glue has, in small."""
    if task == "stsb":
        kinds = {"sentence1": Value("string"), "sentence2": Value("string"), "label": Value("float32")}
        columns: dict[str, list[Any]] = {"sentence1": ["a"], "sentence2": ["b"], "label": [3.8], "idx": [4]}
    elif task == "sst2":
        kinds = {"sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"])}
        columns = {"sentence": ["a"], "label": [1], "idx": [4]}
    else:
        classes = ClassLabel(names=["entailment", "neutral", "contradiction"])
        kinds = {"premise": Value("string"), "hypothesis": Value("string"), "label": classes}
        columns = {"premise": ["a"], "hypothesis": ["b"], "label": [2], "idx": [4]}
    features = Features({**kinds, "idx": Value("int32")})
    train = Dataset.from_dict(columns, features=features)
    test = Dataset.from_dict(columns | {"label": [-1]}, features=features)
    splits = {
        "mnli": {"train": train, "validation_matched": train, "test_mismatched": test},
        "ax": {"test": test},
    }
    return DatasetDict(splits.get(task, {"train": train, "test": test}))


@pytest.mark.parametrize(
    ("task", "label", "files"),
    [
        ("stsb", 3.8, ["test", "train"]),
        ("sst2", "positive", ["test", "train"]),
        ("mnli", "contradiction", ["ax/test_ax", "test_mismatched", "train", "validation_matched"]),
    ],
)
def test_the_hub_gives_the_same_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, label: object, files: list[str]
) -> None:
    monkeypatch.setattr(sources_glue, "resolve_commit", lambda name, revision: "c0ffee")
    monkeypatch.setattr(sources_glue, "load_hub", lambda name, config, commit: hub_data(config))
    found = fetched(tmp_path / "nothing", task, tmp_path / "out")
    assert list(found) == [f"{name}.jsonl" for name in files]
    text = {"text": "a"} if task == "sst2" else {"text": "a", "text_pair": "b"}
    for name, rows in found.items():
        assert rows == [{**text, "label": None if "test" in name else label, "idx": 4}]
        assert list(rows[0]) == [*text, "label", "idx"]
    assert read_manifest(tmp_path / "out")["commit"] == "c0ffee"


def test_all_eleven_files_are_somebodys() -> None:
    names = [name for task in TASKS for _, name in task.tests or (("test", task.name),)]
    assert sorted(names) == sorted(TEST_ROWS)
    assert submission_of(find_task("mnli"), "validation_matched") is None


def test_light() -> None:
    program = "import sys, stages.fetch; print([m for m in ('torch', 'datasets', 'pandas') if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", program], cwd=HOME, capture_output=True, text=True, check=True)
    assert process.stdout == "[]\n"


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data at {SHARED}; SEQTRACK_DATA names another folder")
@pytest.mark.parametrize(
    ("folder", "name", "expected"),
    [
        ("glue", "cola", {"train": 8_551, "validation_in_domain": 527, "validation_out_of_domain": 516}),
        ("glue", "sst2", {"train": 6_920, "validation": 872, "test": 1_821}),
        ("glue", "mrpc", {"train": 4_076, "test": 1_725}),
        ("glue", "stsb", {"train": 5_749, "validation": 1_500, "test": 1_379}),
        ("glue", "qnli", {"validation": 5_463, "test": 5_463}),
        ("glue", "rte", {"train": 2_490, "validation": 277, "test": 3_000}),
        ("glue", "wnli", {"train": 635, "validation": 71, "test": 146}),
        ("glue_official", "cola", {"train": 8_551, "validation": 1_043, "test": 1_063}),
        ("glue_official", "sst2", {"train": 67_349, "validation": 872, "test": 1_821}),
        ("glue_official", "mrpc", {"train": 3_668, "validation": 408, "test": 1_725}),
        ("glue_official", "mnli", {"validation_matched": 9_815}),
        ("glue_official", "qqp", {"part": 23_496}),  # of 23,497: the first line is malformed
    ],
)
def test_real_files_lose_no_row(tmp_path: Path, folder: str, name: str, expected: dict[str, int]) -> None:
    task, source = find_task(name), SHARED / folder
    rows = fetch(settings(source, name), tmp_path)
    assert rows == {f"{split}.jsonl": count for split, count in expected.items()}
    assert len(read_manifest(tmp_path)["skipped"]) == (1 if name == "qqp" else 0)
    labels = set()
    for file in rows:
        for number, line in enumerate((tmp_path / file).read_text(encoding="utf-8").splitlines()):
            row = json.loads(line)
            assert list(row) == ["text", *(["text_pair"] if len(task.texts) > 1 else []), "label", "idx"]
            assert row["text"]
            labels.add(row["label"])
            if file == "test.jsonl":
                assert row["idx"] == number
    labels.discard(None)
    assert labels == set(task.classes) if task.classes else all(0 <= label <= 5 for label in labels)
