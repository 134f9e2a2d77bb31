from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import validation
from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet
from pipeline.outputs import output_folder, read_manifest
from pipeline.params import Data, Validate
from pipeline.rows import read_rows, row_id, write_parquet
from pipeline.validation_report import SplitLabelCount
from tests.test_reading_formats import WRITE

WriteFiles = Callable[..., Path]
Run = Callable[..., "Outcome"]

SHARED = Path(os.environ.get("SEQTRACK_DATA", Path(__file__).parents[2] / "shared" / "data"))


class Outcome:
    """What validate made of a path: the report and the files it wrote."""

    def __init__(self, path: Path, folder: Path, max_rejected_ratio: float = 0.0, **mapped: Any) -> None:
        keys = {"path": str(path), "text": None, "text_pair": None, "label": None, "label_names": None}
        with output_folder(folder) as temporary:
            self.report = validation.validate(
                Data(**{**keys, **mapped}), Validate(max_rejected_ratio=max_rejected_ratio), temporary
            )
        self.folder = folder
        self.rows = read_rows(folder / "rows.parquet").to_pylist()
        self.names = LabelSet.read(folder / "labels.json").names
        self.rejected = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]


@pytest.fixture
def files(tmp_path: Path) -> WriteFiles:
    """A function that fills a folder with files and returns it."""

    def write(**contents: str | bytes) -> Path:
        folder = tmp_path / "given"
        folder.mkdir(exist_ok=True)
        for name, content in contents.items():
            stem, _, suffix = name.rpartition("_")
            data = content if isinstance(content, bytes) else content.encode()
            (folder / f"{stem}.{suffix}").write_bytes(data)
        return folder

    return write


@pytest.fixture
def run(tmp_path: Path, files: WriteFiles) -> Run:
    """A function that validates files given as `name_suffix="content"`."""

    def run(*, limit: float = 0.0, mapped: Any = None, **contents: str | bytes) -> Outcome:
        return Outcome(files(**contents), tmp_path / "validated", limit, **(mapped or {}))

    return run


def test_rows_in_canonical_form(run: Run) -> None:
    outcome = run(
        train_csv='text,label\n" a ""b""\n",yes\nc,no\n',
        dev_jsonl='{"text": "d", "label": "no"}\n',
        test_tsv="text\nc\n",
    )
    fields = ("text", "text_pair", "label", "split", "source", "line")
    assert [tuple(row[name] for name in fields) for row in outcome.rows] == [
        ("d", None, "no", "validation", "dev.jsonl", 1),
        ("c", None, None, "test", "test.tsv", 2),
        (' a "b"\n', None, "yes", "train", "train.csv", 2),
        ("c", None, "no", "train", "train.csv", 4),
    ]
    assert outcome.names == ("no", "yes")
    assert outcome.rejected == []
    assert len({row["row_id"] for row in outcome.rows}) == 4


def test_the_report_says_what_was_found(run: Run) -> None:
    outcome = run(
        limit=0.5,
        train_csv='id,review,sentiment\n1,abc,10\n2,abcde,9\n3,,9\n4,"a\nb",9\n',
        test_csv="id,review\n5,abcdefg\n",
    )
    report = outcome.report.as_json()
    assert report["rows"] == 4
    assert report["rejected"] == {"empty_text": 1}
    assert report["classes"] == ("9", "10")
    assert report["columns"] == {"text": "review", "text_pair": None, "label": "sentiment", "split": None}
    assert report["lengths"] == {"text": {"shortest": 3, "mean": 4.5, "median": 3, "p95": 7, "longest": 7}}
    assert {(c["split"], c["label"]): c["rows"] for c in report["counts"]} == {
        ("train", "9"): 2,
        ("train", "10"): 1,
        ("test", None): 1,
    }
    assert [(f["source"], f["split"], f["rows"], f["rejected"]) for f in report["files"]] == [
        ("test.csv", "test", 1, 0),
        ("train.csv", "train", 3, 1),
    ]
    assert report["files"][1]["rows_over_several_lines"] == 1
    assert "text is column 'review': found by its name" in report["inferred"]
    assert "columns not used: id" in report["inferred"]
    assert "train.csv: 1 rows take several lines, their line ends quoted" in report["inferred"]
    first, second = outcome.report.summary()
    assert first.startswith("4 rows of 2 classes, text from column review, label from column sentiment: ")
    assert "empty_text 1" in second


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "", "label": 1}', "empty_text"),
        ('{"text": " \\u3000\\n", "label": 1}', "empty_text"),
        ('{"text": null, "label": 1}', "empty_text"),
        ('{"label": 1}', "empty_text"),
        ('{"text": 5, "label": 1}', "wrong_type"),
        ('{"text": ["a"], "label": 1}', "wrong_type"),
        ('{"text": "a", "label": [[1]]}', "wrong_type"),
        ('{"text": "a", "label": {"a": 1}}', "wrong_type"),
        ('{"text": "a", "label": null}', "missing_label"),
        ('{"text": "a", "label": " "}', "missing_label"),
        ('{"text": "a"}', "missing_label"),
        ('{"text": "a", "label": 3}', "unknown_label"),
        ('{"text": "a", "label": 1', "invalid_json"),
        ("[]", "not_an_object"),
        (b'{"text": "\xe9 \xc3\xa4", "label": 1}', "undecodable"),
    ],
)
def test_unfit_rows_are_rejected_with_file_line_and_reason(run: Run, line: bytes | str, reason: str) -> None:
    good = '{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n'
    line = line if isinstance(line, bytes) else line.encode()
    outcome = run(limit=0.4, mapped={"label_names": ("0", "1")}, all_jsonl=good.encode() + line + b"\n")
    (entry,) = outcome.rejected
    assert (entry["source"], entry["line"], entry["reason"]) == ("all.jsonl", 3, reason)
    assert entry["detail"]
    assert [row["line"] for row in outcome.rows] == [1, 2]


def test_both_texts_of_a_pair_are_needed(run: Run) -> None:
    outcome = run(limit=0.5, all_tsv="premise\thypothesis\tlabel\na\tb\t0\nc\t\t1\n\td\t1\ne\tf\t1\n")
    assert [entry["reason"] for entry in outcome.rejected] == ["empty_text_pair", "empty_text"]
    assert [(row["text"], row["text_pair"]) for row in outcome.rows] == [("a", "b"), ("e", "f")]
    assert outcome.report.lengths.keys() == {"text", "text_pair"}


def test_only_test_rows_may_lack_a_label(run: Run) -> None:
    outcome = run(limit=0.5, all_csv="text,label,split\na,1,train\nb,0,train\nc,,dev\nd,,test\ne,1,test\nf,1,fold 3\n")
    assert [(row["text"], row["split"], row["label"]) for row in outcome.rows] == [
        ("a", "train", "1"),
        ("b", "train", "0"),
        ("d", "test", None),
        ("e", "test", "1"),
    ]
    assert [(entry["line"], entry["reason"]) for entry in outcome.rejected] == [
        (4, "missing_label"),
        (7, "unknown_split"),
    ]


def test_a_split_column_speaks_louder_than_the_file_name(run: Run) -> None:
    outcome = run(train_csv="text,label,split\na,1,train\nb,0,test\n")
    assert [row["split"] for row in outcome.rows] == ["train", "test"]


def test_a_split_column_without_any_value_means_no_splits(run: Run) -> None:
    outcome = run(all_jsonl='{"text": "a", "label": 1, "split": null}\n{"text": "b", "label": 0, "split": ""}\n')
    assert [row["split"] for row in outcome.rows] == [None, None]


def test_label_names_pin_set_and_order(run: Run) -> None:
    outcome = run(mapped={"label_names": ("pos", "neg", "none")}, all_csv="text,label\na,neg\nb,pos\n")
    assert outcome.names == outcome.report.classes == ("pos", "neg", "none")


def test_labels_are_the_same_from_every_format(run: Run) -> None:
    outcome = run(
        train_csv="text,label\na,1\nb,0\n",
        valid_tsv="text\tlabel\na\t 1 \nb\t0\n",
        test_jsonl='{"text": "a", "label": 1}\n{"text": "b", "label": "0"}\n',
    )
    assert outcome.names == ("0", "1")


def test_equal_rows_get_ids_that_do_not_hang_on_their_order(run: Run, tmp_path: Path) -> None:
    one = run(all_csv="text,label\na,1\nb,0\na,1\na,0\n")
    two = run(all_csv="text,label\na,0\na,1\na,1\nb,0\n")
    assert len({row["row_id"] for row in one.rows}) == 4
    assert {row["row_id"] for row in one.rows} == {row["row_id"] for row in two.rows}


@pytest.mark.parametrize(
    ("contents", "mapped", "message"),
    [
        ({"train_csv": "text,label\na,1\n", "more_csv": "text,label\nb,0\n"}, {}, r"train\.csv does, more\.csv not"),
        ({"all_csv": "text,label,split\na,1,train\nb,0,\n"}, {}, r"all\.csv:3: some rows name a split"),
        ({"all_csv": "text,label\n"}, {}, "no rows found"),
        ({"all_csv": "text,label\na,1\nb,1\n"}, {}, "at least 2 classes; found only '1'"),
        ({"test_csv": "text\na\n"}, {}, "no row has a label; found no labelled row"),
        ({"train_csv": "text\na\n"}, {}, r"train\.csv: no column for the label"),
        ({"train_csv": "text,label\na,1\n", "dev_csv": "review,label\nb,0\n"}, {}, "dev.csv: review, train.csv: text"),
        ({"all_csv": "text,label\na,1\nb,1.0\nc,0\n"}, {}, r"all\.csv:3: labels '1' and '1\.0' mean the same"),
        ({"all_csv": "text,label\na,1\nb,0\n"}, {"label_names": ("0", "1", "0")}, r"data\.label_names has '0' twice"),
        ({"notes_md": "text"}, {}, "no data file in this folder"),
    ],
)
def test_data_that_cannot_be_used_as_a_whole(
    run: Run, tmp_path: Path, contents: dict[str, str], mapped: Any, message: str
) -> None:
    with pytest.raises(SeqtrackError, match=message):
        run(limit=1.0, mapped=mapped, **contents)
    assert [path.name for path in tmp_path.iterdir()] == ["given"]


def test_too_many_rejected_rows_name_the_commonest_reason(run: Run, tmp_path: Path) -> None:
    contents = "text,label\na,1\n,1\nb\n,0\nc,0\n"
    message = (
        r"all\.csv:3: 3 of 5 rows \(60\.0%\) are rejected, most of them \(2\) as empty_text.*column text: empty; "
        r"expected at most 59\.0% \(validate\.max_rejected_ratio\); found empty_text 2, ragged 1"
    )
    with pytest.raises(SeqtrackError, match=message):
        run(limit=0.59, all_csv=contents)
    assert not (tmp_path / "validated").exists()
    assert run(limit=0.6, all_csv=contents).report.rows == 2


def test_all_rows_rejected_is_an_error_at_any_limit(run: Run) -> None:
    with pytest.raises(SeqtrackError, match=r"2 of 2 rows \(100\.0%\)"):
        run(limit=1.0, all_csv="text,label\n,1\n,0\n")


def test_numbers_with_fractions_are_regression_unless_listed_as_classes(run: Run) -> None:
    scores = "text,score\n" + "".join(f"text {i},{i / 8:.3f}\n" for i in range(40))
    outcome = run(all_csv=scores)
    assert (outcome.report.problem_type, outcome.names) == ("regression", ())
    assert [row["label"] for row in outcome.rows] == [str(i / 8) for i in range(40)]
    assert [row["row_id"] for row in outcome.rows] == [
        row_id(row["text"], None, row["label"], None, 0) for row in outcome.rows
    ]
    assert outcome.report.counts == (SplitLabelCount(split=None, label="any number", rows=40),)
    names = tuple(f"{i / 8:.3f}" for i in range(40))
    listed = run(mapped={"label_names": names}, all_csv=scores)
    assert (listed.report.problem_type, listed.names) == ("single_label_classification", names)


def test_numbers_are_written_in_one_way_in_regression(run: Run) -> None:
    lines = "".join(f'{{"text": "t{n}", "label": {label}}}\n' for n, label in enumerate(['"5"', "5.0", '"1e-7"', 3]))
    outcome = run(mapped={"problem_type": "regression"}, all_jsonl=lines)
    assert [row["label"] for row in outcome.rows] == ["5.0", "5.0", "0.0000001", "3.0"]


def test_rows_that_do_not_fit_the_chosen_task_are_rejected(run: Run) -> None:
    lines = '{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n{"text": "c", "label": "x"}\n'
    outcome = run(limit=0.5, mapped={"problem_type": "regression"}, all_jsonl=lines)
    assert [(entry["line"], entry["reason"]) for entry in outcome.rejected] == [(3, "not_a_number")]
    lines = '{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n{"text": "c", "label": [1]}\n'
    outcome = run(limit=0.5, mapped={"problem_type": "single_label_classification"}, all_jsonl=lines)
    assert [(entry["line"], entry["reason"]) for entry in outcome.rejected] == [(3, "wrong_type")]


def test_lists_of_labels_are_multi_label(run: Run) -> None:
    outcome = run(
        all_jsonl='{"text": "a", "label": ["y", "x"]}\n{"text": "b", "label": ["z"]}\n{"text": "c", "label": []}\n'
    )
    assert (outcome.report.problem_type, outcome.names) == ("multi_label_classification", ("x", "y", "z"))
    assert [row["label"] for row in outcome.rows] == ['["x","y"]', '["z"]', "[]"]
    assert {(count.label, count.rows) for count in outcome.report.counts} == {("x", 1), ("y", 1), ("z", 1)}
    mixed = '{"text": "a", "label": ["y", "x"]}\n{"text": "b", "label": "z"}\n'
    with pytest.raises(
        SeqtrackError, match=r"all\.jsonl:2: some labels are lists .*'z' here, a list at .*all\.jsonl:1"
    ):
        run(all_jsonl=mixed)
    outcome = run(mapped={"problem_type": "multi_label_classification"}, all_jsonl=mixed)
    assert [row["label"] for row in outcome.rows] == ['["x","y"]', '["z"]']


def test_group_and_time_are_carried_along(run: Run) -> None:
    outcome = run(mapped={"group_by": "user", "time": "year"}, all_csv="text,label,user,year\na,1,u1,2001\nb,0,,2002\n")
    assert [(row["group"], row["time"]) for row in outcome.rows] == [("u1", "2001"), (None, "2002")]
    with pytest.raises(SeqtrackError, match=r"all\.csv: data\.group_by names a column that is not there: 'usr'"):
        run(mapped={"group_by": "usr"})


@pytest.mark.parametrize("suffix", WRITE)
def test_columns_to_keep_are_carried_along_from_each_format(run: Run, suffix: str) -> None:
    contents = {
        "train": [{"text": "a", "label": "1", "shop": " north ", "stars": "5"}],
        "test": [{"text": "b", "label": "0", "stars": ""}],  # a file that lacks a column
    }
    stem, _, ending = suffix.rpartition(".")
    given = {f"{name}{stem}_{ending}": WRITE[suffix](rows) for name, rows in contents.items()}
    outcome = run(mapped={"keep_columns": ["stars", "shop"]}, **given)
    assert {row["text"]: row["kept"] for row in outcome.rows} == {
        "a": [("stars", "5"), ("shop", "north")],
        "b": [("stars", None), ("shop", None)],
    }
    without = run(**given)
    assert {row["kept"] for row in without.rows} == {None}
    assert [row["row_id"] for row in without.rows] == [row["row_id"] for row in outcome.rows]


def test_columns_to_keep_hold_one_value(run: Run) -> None:
    outcome = run(
        limit=0.5,
        mapped={"keep_columns": ["shop"]},
        all_jsonl='{"text": "a", "label": "1", "shop": 7}\n{"text": "b", "label": "0", "shop": true}\n'
        '{"text": "c", "label": "0", "shop": ["x"]}\n{"text": "d", "label": "1", "shop": {"x": 1}}\n',
    )
    assert [row["kept"] for row in outcome.rows] == [[("shop", "7")], [("shop", "true")]]
    assert [(row["line"], row["reason"], row["detail"]) for row in outcome.rejected] == [
        (3, "wrong_type", "data.keep_columns: column shop: a list, not one value"),
        (4, "wrong_type", "data.keep_columns: column shop: a JSON object, not one value"),
    ]


def test_columns_to_keep_that_no_file_has(run: Run) -> None:
    problem = r"data\.keep_columns names a column that no file has: 'shp'.*found columns text, .*did you mean 'shop'"
    with pytest.raises(SeqtrackError, match=problem):
        run(mapped={"keep_columns": ["shp"]}, a_csv="text,label\na,1\n", b_csv="text,label,shop\nb,0,x\n")


def test_columns_to_keep_outlive_labels_written_anew(run: Run) -> None:
    outcome = run(
        mapped={"problem_type": "regression", "keep_columns": ["shop"]}, all_csv="text,label,shop\na,1,x\nb,2.50,\n"
    )
    assert [(row["label"], row["kept"]) for row in outcome.rows] == [
        ("1.0", [("shop", "x")]),
        ("2.5", [("shop", None)]),
    ]


def test_many_whole_numbers_are_classes(run: Run) -> None:
    assert len(run(all_csv="text,label\n" + "".join(f"t,{i}.0\n" for i in range(40))).names) == 40


def test_a_file_instead_of_a_folder(files: WriteFiles, tmp_path: Path) -> None:
    folder = files(all_csv="text,label\na,1\nb,0\n", other_csv="x\n")
    assert {row["source"] for row in Outcome(folder / "all.csv", tmp_path / "out").rows} == {"all.csv"}


def test_bytes_are_those_of_the_whole_table_and_of_every_run(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pipeline.row_store.ROW_GROUP", 2)
    monkeypatch.setattr(validation, "BATCH", 3)
    monkeypatch.setattr("pipeline.rows.ROW_GROUP", 2)
    kept = {"keep_columns": ["shop"]}
    outcome = run(mapped=kept, all_csv="text,label,shop\na,1,x\nb,0,y\nc,0,\nd,1,x\ne,1,x\n")
    first = {path.name: path.read_bytes() for path in outcome.folder.iterdir()}
    again = run(mapped=kept)
    assert {path.name: path.read_bytes() for path in again.folder.iterdir()} == first
    assert pq.ParquetFile(outcome.folder / "rows.parquet").num_row_groups == 3
    write_parquet(read_rows(outcome.folder / "rows.parquet"), tmp_path / "whole.parquet")
    assert (tmp_path / "whole.parquet").read_bytes() == first["rows.parquet"]


def test_the_manifest_names_inputs_but_not_where_they_lie(run: Run, tmp_path: Path) -> None:
    outcome = run(limit=0.5, all_csv="text,label\na,1\nb,0\n,1\n")
    manifest = read_manifest(outcome.folder)
    assert manifest["inputs"].keys() == {"all.csv"}
    assert manifest["rows"] == {"accepted": 2, "rejected": 1}
    assert str(tmp_path) not in (outcome.folder / "manifest.json").read_text()


TEXT = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: not text.isspace())
LABEL = st.sampled_from(["体育", 'a "b"', "c,d"])


@settings(deadline=None, max_examples=20)
@given(rows=st.lists(st.tuples(TEXT, TEXT, LABEL), min_size=2).filter(lambda rows: len({row[2] for row in rows}) > 1))
def test_rows_survive_every_format_unchanged(tmp_path_factory: pytest.TempPathFactory, rows: Any) -> None:
    folder = tmp_path_factory.getbasetemp()
    dicts = [dict(zip(("text", "text_pair", "label"), row, strict=True)) for row in rows]
    ids = []
    for kind, write in WRITE.items():
        file = folder / f"rows{kind}"
        file.write_bytes(write(dicts))
        outcome = Outcome(file, folder / "out")
        assert [(row["text"], row["text_pair"], row["label"]) for row in outcome.rows] == rows
        ids.append([row["row_id"] for row in outcome.rows])
    assert all(each == ids[0] for each in ids)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data at {SHARED}; SEQTRACK_DATA names another folder")
@pytest.mark.parametrize(
    ("path", "rows", "classes"),
    [
        ("glue/MRPC", {"train": 4076, "test": 1725}, 2),
        ("glue/RTE", {"train": 2490, "validation": 277, "test": 3000}, 2),
        ("glue/QNLI", {"validation": 5463, "test": 5463}, 2),
        ("glue/WNLI/train.tsv", {"train": 518}, 2),
        ("glue_official/MRPC", {"train": 3668, "validation": 408, "test": 1725}, 2),
        ("glue_official/SST-2/train.tsv", {"train": 67_349}, 2),
        ("glue_official/SST-2/dev.tsv", {"validation": 872}, 2),
        ("glue_official/MNLI", {"validation": 9815}, 3),
        ("zh/waimai", {None: 11_987}, 2),
        ("glue/SST-2", {"train": 6920, "validation": 872, "test": 1821}, 2),
        ("zh/afqmc", {"train": 34_334, "validation": 4316, "test": 3861}, 2),
        ("zh/tnews", {"train": 53_360, "validation": 10_000}, 15),
    ],
)
def test_real_files_load_whole(tmp_path: Path, path: Path, rows: Any, classes: int) -> None:
    outcome = Outcome(SHARED / path, tmp_path / "validated")
    found = {}
    for count in outcome.report.counts:
        found[count.split] = found.get(count.split, 0) + count.rows
    assert found == rows
    assert len(outcome.names) == classes


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real data at {SHARED}; SEQTRACK_DATA names another folder")
@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("glue/CoLA", r"\[column_1, label, column_3, text\]"),
        ("glue/STS-B", r"\[column_1, column_2, column_3, column_4, label, text, text_pair\]"),
    ],
)
def test_real_files_whose_columns_cannot_be_told_are_named(tmp_path: Path, path: str, names: str) -> None:
    with pytest.raises(SeqtrackError, match=rf"no header line.*data\.columns: {names}"):
        Outcome(SHARED / path, tmp_path / "validated")
