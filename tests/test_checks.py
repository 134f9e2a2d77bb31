"""Each check, and each policy, seen through validate: a corpus that has the defect and one that has not."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import validation
from pipeline.checks import MOST_EXAMPLES, NAMES, CheckResult
from pipeline.errors import SeqtrackError
from pipeline.outputs import canonical_json, output_folder
from pipeline.params import Data, Policy, Validate
from pipeline.rows import read_rows
from pipeline.validation_report import ChecksFailedError, ValidationReport

RowOf = tuple[str, str, str]  # text, label, split
DoubtfulChecks = ("mojibake", "characters")


def sentence(number: int, words: int = 12) -> str:
    """A text unlike that of any other number, of words that all of them draw from."""
    chosen = np.random.default_rng(number).integers(0, 300, words)
    return " ".join("".join(chr(97 + int(digit)) for digit in f"{word:03}") for word in chosen)


def clean(rows: int = 240) -> list[RowOf]:
    """Two balanced classes in three splits, nothing wrong with them."""
    splits = ["train", "train", "train", "train", "validation", "validation", "test", "test"]
    return [
        (sentence(number, 8 + number % 11), ("good", "bad")[number % 2], splits[number % len(splits)])
        for number in range(rows)
    ]


class Checked:
    """What validate made of rows in one CSV file with the columns text, label and split."""

    def __init__(
        self, folder: Path, rows: Sequence[RowOf], *, policy: dict[str, str] | None = None, **data: Any
    ) -> None:
        folder.mkdir(exist_ok=True)
        with (folder / "all.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("text", "label", "split"), *rows])
        settings = {"path": str(folder), "text": None, "text_pair": None, "label": None, "label_names": None, **data}
        limits = Validate(max_rejected_ratio=0.5, policy=Policy(**(policy or {})))
        self.output = folder.parent / "validated"
        self.failure: ChecksFailedError | None = None
        try:
            with output_folder(self.output) as temporary:
                self.report: ValidationReport = validation.validate(Data(**settings), limits, temporary)
        except ChecksFailedError as failure:
            self.failure, self.report = failure, failure.report

    def __getitem__(self, name: str) -> CheckResult:
        return next(check for check in self.report.checks if check.name == name)


Check = Callable[..., Checked]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    def run(rows: Sequence[RowOf], **settings: Any) -> Checked:
        return Checked(tmp_path / "given", rows, **settings)

    return run


def replaced(column: int, change: Callable[[int, RowOf], str | None]) -> list[RowOf]:
    """The clean rows with values of one column changed where `change` gives one."""
    rows = []
    for number, row in enumerate(clean()):
        values = list(row)
        value = change(number, row)
        values[column] = row[column] if value is None else value
        rows.append((values[0], values[1], values[2]))
    return rows


def on(*numbers: int, value: str) -> Callable[[int, RowOf], str | None]:
    return lambda number, _: value if number in numbers else None


PLANTED: dict[str, tuple[list[RowOf], int]] = {
    "schema": (replaced(2, on(7, 9, value="fold 3")), 2),
    "empty_text": (replaced(0, on(5, value=" \u3000 ")), 1),
    "missing_label": (replaced(1, on(0, 8, value="")), 2),
    "mojibake": (replaced(0, on(3, 4, value="Das ist schÃ¶n und gÃ¼nstig")), 2),
    "characters": (replaced(0, on(3, value="an in\u200bvisible character")), 1),
    "length": (replaced(0, on(11, value="word " * 3000)), 1),
    "scripts": (replaced(0, lambda number, _: f"Привет, мир {number}" if number % 10 == 0 else None), 24),
    "small_classes": (replaced(1, on(0, 1, 2, value="rare")), 1),
    "imbalance": (replaced(1, lambda number, _: "bad" if number % 24 == 0 else "good"), 1),
    "exact_duplicates": ([*clean(), (f"{sentence(4, 12).upper()}!", "good", "train")], 1),
    "conflicting_labels": ([*clean(), (f"{sentence(4, 12)}.", "bad", "train")], 1),
    "label_in_text": (replaced(0, lambda _, row: f"{row[0]} Good:" if row[1] == "good" else None), 1),
    "length_shift": (replaced(0, lambda _, row: f"{row[0]} {row[0]}" if row[2] == "test" else None), 1),
    "label_shift": (replaced(1, lambda _, row: "good" if row[2] == "test" else None), 1),
    "vocabulary_shift": (
        [(f"{sentence(n, 40)}" if s != "test" else " ".join(f"new{n}x{w}" for w in range(40)), y, s)
         for n, (_, y, s) in enumerate(clean(480))],
        1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_defect_is_found_by_its_check(check: Check, name: str) -> None:
    rows, count = PLANTED[name]
    result = check(rows)[name]
    assert (result.status, result.count) == ("warn", count)
    assert result.message
    assert result.fix
    assert len(result.examples) <= MOST_EXAMPLES
    if name not in {"small_classes", "imbalance", "length_shift", "label_shift", "vocabulary_shift"}:
        for example in result.examples:
            assert example.source == "all.csv"
            assert 2 <= example.line <= len(rows) + 1
        assert result.examples


def test_clean_rows_pass_every_check(check: Check) -> None:
    checked = check(clean())
    assert [result.name for result in checked.report.checks] == list(NAMES)
    assert {result.name: result.message for result in checked.report.checks if result.status != "pass"} == {}
    assert all(result.count == 0 and not result.fix and not result.examples for result in checked.report.checks)


@pytest.mark.parametrize("name", PLANTED)
def test_error_fails_and_leaves_nothing(check: Check, name: str) -> None:
    rows, count = PLANTED[name]
    checked = check(rows, policy={name: "error"})
    assert checked.failure is not None
    assert f"1 check fails: {name} ({count:,})" in str(checked.failure)
    assert f"validate.policy.{name}: " in str(checked.failure)
    assert checked[name].status == "fail"
    assert not checked.output.exists()


def test_error_passes_where_there_is_nothing_to_find(check: Check) -> None:
    checked = check(clean(), policy=dict.fromkeys(NAMES, "error"))
    assert checked.failure is None
    assert (checked.output / "rows.parquet").is_file()


@pytest.mark.parametrize("name", [name for name in PLANTED if name not in {"schema", "empty_text", "missing_label"}])
def test_off_does_not_look(check: Check, name: str) -> None:
    result = check(PLANTED[name][0], policy={name: "off"})[name]
    assert (result.status, result.count, result.examples) == ("off", 0, ())


@pytest.mark.parametrize("name", DoubtfulChecks)
def test_drop_rejects_the_rows_by_line(check: Check, name: str) -> None:
    rows, count = PLANTED[name]
    checked = check(rows, policy={name: "drop"})
    assert (checked[name].status, checked[name].count) == ("warn", count)
    assert checked.report.rejected == {name: count}
    rejected = [json.loads(line) for line in (checked.output / "rejected.jsonl").read_text().splitlines()]
    lines = [number + 2 for number, (row, before) in enumerate(zip(rows, clean(), strict=True)) if row != before]
    assert [(entry["reason"], entry["line"]) for entry in rejected] == [(name, line) for line in lines]
    kept = read_rows(checked.output / "rows.parquet")
    assert kept["line"].to_pylist() == [line for line in range(2, len(rows) + 2) if line not in lines]
    assert checked.report.rows == kept.num_rows == sum(c.rows for c in checked.report.counts)


def test_dropped_rows_are_listed_among_others_in_file_order(check: Check) -> None:
    rows = replaced(0, lambda number, _: {3: "", 5: "schÃ¶n", 6: "", 7: "a\x07b"}.get(number))
    checked = check(rows, policy={"mojibake": "drop", "characters": "drop"})
    rejected = [json.loads(line) for line in (checked.output / "rejected.jsonl").read_text().splitlines()]
    assert [(entry["line"], entry["reason"]) for entry in rejected] == [
        (5, "empty_text"),
        (7, "mojibake"),
        (8, "empty_text"),
        (9, "characters"),
    ]


def test_unknown_labels_are_counted(check: Check) -> None:
    result = check(replaced(1, on(3, value="ugly")), label_names=("bad", "good"))["unknown_label"]
    assert (result.status, result.count) == ("warn", 1)
    assert result.examples[0].line == 5
    assert "ugly" in result.examples[0].snippet


def test_undecodable_rows_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    lines = [json.dumps({"text": row[0], "label": row[1], "split": row[2]}).encode() for row in clean()]
    lines[4] = b'{"text": "\xe9 \xc3\xa4", "label": "good", "split": "train"}'
    (folder / "all.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    data = Data(path=str(folder), text=None, text_pair=None, label=None, label_names=None)
    with output_folder(tmp_path / "validated") as temporary:
        report = validation.validate(data, Validate(max_rejected_ratio=0.1), temporary)
    (result,) = [check for check in report.checks if check.name == "encoding"]
    assert (result.status, result.count, result.examples[0].line) == ("warn", 1, 5)


def test_a_class_that_is_only_pinned_is_too_small(check: Check) -> None:
    result = check(clean(), label_names=("bad", "good", "ugly"))["small_classes"]
    assert (result.status, result.count) == ("warn", 1)
    assert "ugly 0" in result.message


def test_small_classes_are_told_from_train_where_it_is_given(check: Check) -> None:
    rows = replaced(1, lambda number, row: "rare" if row[2] == "test" and number % 8 == 6 else None)
    assert "rare 0" in check(rows)["small_classes"].message


def test_a_stand_in_for_secret_labels_is_no_class(check: Check) -> None:
    rows = replaced(1, lambda _, row: "-1" if row[2] == "test" else None)
    assert "if '-1' stands for no label, leave the label empty in the test file" in check(rows)["small_classes"].fix
    assert "stands for no label" not in check(PLANTED["small_classes"][0])["small_classes"].fix


def test_classes_of_one_size_are_not_compared(check: Check) -> None:
    assert check(clean())["imbalance"].message == "all classes have 60 rows in train"


def test_conflicts_show_both_rows_with_their_labels(check: Check) -> None:
    first, second = check(PLANTED["conflicting_labels"][0])["conflicting_labels"].examples
    assert (first.line, second.line) == (6, 242)
    assert first.snippet.startswith("good | ")
    assert second.snippet.startswith("bad | ")


def test_unlabelled_test_rows_contradict_nothing(check: Check) -> None:
    assert check([*clean(), (sentence(4, 12), "", "test")])["conflicting_labels"].status == "pass"


def test_pairs_are_compared_in_their_order(tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    pairs = [("a b", "c", "yes"), ("a", "b c", "no"), ("c", "a b", "no"), ("A b.", "C", "no"), ("x", "y", "yes")]
    (folder / "all.jsonl").write_text(
        "".join(json.dumps({"text": a, "text_pair": b, "label": y}) + "\n" for a, b, y in pairs)
    )
    data = Data(path=str(folder), text=None, text_pair=None, label=None, label_names=None)
    with output_folder(tmp_path / "validated") as temporary:
        report = validation.validate(data, Validate(max_rejected_ratio=0.1), temporary)
    counts = {check.name: check.count for check in report.checks}
    assert (counts["exact_duplicates"], counts["conflicting_labels"]) == (1, 1)


def test_splits_that_are_not_given_are_not_compared(check: Check) -> None:
    checked = check([(text, label, "") for text, label, _ in clean()])
    statuses = {result.name: result.status for result in checked.report.checks}
    assert {name for name, status in statuses.items() if status == "off"} == {
        "length_shift",
        "label_shift",
        "vocabulary_shift",
    }


def test_regression_is_not_asked_about_classes(check: Check) -> None:
    scores = replaced(1, lambda number, row: f"{np.random.default_rng(number).random() + (row[2] == 'test'):.3f}")
    checked = check(scores)
    off = {result.name for result in checked.report.checks if result.status == "off"}
    assert off == {"small_classes", "imbalance", "label_in_text"}
    assert (checked["label_shift"].status, checked["label_shift"].count) == ("warn", 1)
    assert "test differs from train" in checked["label_shift"].message


def test_classes_of_several_labels_are_counted_one_by_one(tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    rows = [
        {"text": sentence(number), "label": ["a", "b"] if number % 2 else ["a"] + ["rare"] * (number == 0)}
        for number in range(100)
    ]
    (folder / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Data(path=str(folder), text=None, text_pair=None, label=None, label_names=None)
    with output_folder(tmp_path / "validated") as temporary:
        report = validation.validate(data, Validate(max_rejected_ratio=0.1), temporary)
    results = {check.name: check for check in report.checks}
    assert "rare 1" in results["small_classes"].message
    assert results["imbalance"].status == "warn"


def test_texts_cut_at_one_length_are_noticed(check: Check) -> None:
    rows = replaced(0, lambda number, _: sentence(number, 40)[:120] if number % 4 == 0 else None)
    result = check(rows)["length"]
    assert (result.status, result.count) == ("warn", 60)
    assert "exactly 120 characters" in result.message


def test_too_many_rejected_rows_come_with_a_report(check: Check) -> None:
    checked = check(replaced(0, lambda number, _: "" if number % 3 else None))
    assert checked.failure is not None
    assert "160 of 240 rows" in str(checked.failure)
    assert checked["empty_text"].count == 160
    assert checked["imbalance"].status == "off"
    assert not checked.output.exists()


def test_the_report_is_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row for planted, _ in PLANTED.values() for row in planted]
    first = canonical_json(Checked(tmp_path / "one", rows).report.as_json())
    monkeypatch.setattr(validation, "BATCH", 7)
    again = canonical_json(Checked(tmp_path / "two", rows).report.as_json())
    assert first == again
    assert str(tmp_path) not in first


def test_a_policy_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="schema"):
        Policy(schema="warn")
    with pytest.raises(ValueError, match="imbalance"):
        Policy(imbalance="drop")


def test_failing_checks_are_no_other_error(check: Check) -> None:
    with pytest.raises(SeqtrackError, match="has 'bad' twice"):
        check(clean(), label_names=("bad", "good", "bad"))
