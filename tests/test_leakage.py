import csv
import dataclasses
import json
import random
from pathlib import Path

import pytest
from canonical import Row, changed, sentence, settings, table
from hypothesis import given
from hypothesis import strategies as st

from pipeline.duplicates import find_duplicates
from pipeline.leakage import Pair, list_pairs, rows_by_label, show, verify, write_reports
from pipeline.params import Split
from pipeline.splitting import divide


def pairs_of(rows: list[Row], options: Split | None = None) -> list[Pair]:
    options = options or settings(train=1.0, validation=0.0, test=0.0)
    rows_table = table(rows)
    duplicates = find_duplicates(rows_table, options)
    division = divide(rows_table, duplicates, options)
    pairs = list_pairs(rows_table, duplicates, division, options)
    assert verify(division, duplicates, pairs, options).passed
    return pairs


def lines(pairs: list[Pair]) -> list[tuple[int, int, str, str]]:
    return [(pair.first.line, pair.second.line, pair.kind, pair.action) for pair in pairs]


def test_each_kind_with_its_action() -> None:
    near = sentence(1)
    rows = [
        Row("a b c"),
        Row("a b c"),
        Row("A b, c"),
        Row("A b, c"),
        Row("a b c", "b"),
        Row("a  b  c", "b"),
        Row(near),
        Row(changed(near), "b"),
        Row("alone"),
    ]
    pairs = pairs_of(rows)
    assert lines(pairs) == [
        (1, 2, "exact", "dropped"),
        (1, 3, "normalized", "dropped"),
        (1, 5, "exact", "kept_together"),
        (3, 4, "exact", "dropped"),
        (5, 6, "normalized", "dropped"),
        (7, 8, "near", "kept_together"),
    ]
    assert [pair.label_conflict for pair in pairs] == [False, False, True, False, False, True]
    assert pairs[-1].score == pytest.approx(27 / 29)


def test_exact_pairs_may_stand_in_either_order() -> None:
    assert lines(pairs_of([Row("a b", text_pair="c d"), Row("c d", text_pair="a b"), Row("A b", text_pair="c d")])) == [
        (1, 2, "exact", "dropped"),
        (1, 3, "normalized", "dropped"),
    ]


def test_a_leak_is_reported_with_the_row_it_leaks() -> None:
    near = sentence(1)
    rows = [
        Row("a b c", split="train"),
        Row("A b c", split="train"),
        Row("a b c", split="test", label=None),
        Row("A b c", split="test"),
        Row("A b c", split="validation", label="b"),
        Row(near, split="test"),
        Row(changed(near), split="train"),
        Row(changed(near, 29), split="validation"),
        Row("more", split="train"),
        Row("b more", "b", split="train"),
    ]
    pairs = pairs_of(rows)
    assert lines(pairs) == [
        (3, 4, "normalized", "kept"),
        (3, 1, "exact", "dropped_from_train"),
        (4, 5, "exact", "dropped_from_validation"),
        (4, 2, "exact", "dropped_from_train"),
        (6, 8, "near", "dropped_from_validation"),
        (6, 7, "near", "dropped_from_train"),
        (8, 7, "near", "dropped_from_train"),
    ]
    assert [pair.label_conflict for pair in pairs] == [False, False, True, False, False, False, False]
    assert [pair.crosses_given_splits for pair in pairs] == [False, True, True, True, True, True, True]


def test_a_content_of_n_rows_gives_n_less_one_pairs() -> None:
    assert len(pairs_of([Row("the same words")] * 1000)) == 999


def test_verification_sees_a_duplicate_that_crosses() -> None:
    options = settings(train=1.0, validation=0.0, test=0.0)
    near = sentence(1)
    rows = table([Row("a b c"), Row("a b c", "b"), Row(near), Row(changed(near)), Row("alone")])
    duplicates = find_duplicates(rows, options)
    division = divide(rows, duplicates, options)
    pairs = list_pairs(rows, duplicates, division, options)
    for row, crossing in ((0, 1), (1, 1), (2, 1), (3, 1), (4, 0)):
        moved = division.split.copy()
        moved[row] = 2
        found = verify(dataclasses.replace(division, split=moved), duplicates, pairs, options)
        assert (found.pairs_crossing_splits, found.passed) == (crossing, not crossing)
    stricter = options.model_copy(update={"near_duplicate_threshold": 0.95})
    assert verify(division, duplicates, pairs, stricter).near_pairs_refuted == 1


def write(rows: list[Row], folder: Path) -> None:
    options = settings()
    rows_table = table(rows)
    rows_table = rows_table.set_column(  # lines and sources belong to rows, whatever their order
        6, rows_table.schema.field("line"), [[sum(map(ord, row.text + str(row.label))) for row in rows]]
    )
    duplicates = find_duplicates(rows_table, options)
    division = divide(rows_table, duplicates, options)
    pairs = list_pairs(rows_table, duplicates, division, options)
    write_reports(folder, division, duplicates, pairs, verify(division, duplicates, pairs, options), options)


def test_reports_are_complete_and_equal_whatever_the_order_of_rows(tmp_path: Path) -> None:
    near = sentence(1)
    rows = [Row("a b c"), Row("A b c"), Row("a b c", "b"), Row(near), Row(changed(near))]
    rows += [Row(f"filler row {number}", label) for number in range(60) for label in "ab"]
    shuffled = list(rows)
    random.Random(3).shuffle(shuffled)
    write(rows, tmp_path / "one")
    write(shuffled, tmp_path / "two")
    names = ["duplicates.jsonl", "label_distribution.csv", "leakage.json"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()

    records = [json.loads(line) for line in (tmp_path / "one" / "duplicates.jsonl").read_text().splitlines()]
    record = next(record for record in records if record["kind"] == "near")
    assert {record["first"]["text"], record["second"]["text"]} == {near, changed(near)}
    assert record["first"]["split"] == record["second"]["split"]
    assert record["score"] == round(27 / 29, 6)
    assert set(record["first"]) >= {"row_id", "source", "line", "text", "text_pair", "label", "split", "given_split"}

    summary = json.loads((tmp_path / "one" / "leakage.json").read_text())
    with (tmp_path / "one" / "label_distribution.csv").open() as stream:
        distribution = list(csv.DictReader(stream))
    assert summary["pairs"]["total"] == len(records)
    actions = [record["action"] for record in records]
    assert summary["pairs"]["by_action"] == {action: actions.count(action) for action in set(actions)}
    assert set(actions) == {"dropped", "kept_together"}
    assert summary["rows"]["input"] == len(rows)
    assert sum(summary["rows"]["kept"].values()) + sum(summary["rows"]["dropped"].values()) == len(rows)
    assert {line["bar"] for line in distribution} == {f"{line['label']} ({line['split']})" for line in distribution}
    assert sum(int(line["count"]) for line in distribution) == sum(summary["rows"]["kept"].values())
    assert summary["verification"]["pairs_crossing_splits"] == 0


def test_the_terminal_tells_sizes_duplicates_and_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    options = settings(train=1.0, validation=0.0, test=0.0)
    rows = table([Row("a b c", f"label {number}") for number in range(40)] + [Row("a b c", "label 1")])
    duplicates = find_duplicates(rows, options)
    division = divide(rows, duplicates, options)
    pairs = list_pairs(rows, duplicates, division, options)
    show(division, pairs, verify(division, duplicates, pairs, options))
    out = capsys.readouterr().out
    assert "label 2 " in out
    assert "... 10 more" in out
    assert "rows: 41 read, 40 kept, 1 dropped" in out
    assert out.splitlines()[-1].startswith("no verified duplicate crosses splits")


def test_a_large_family_is_reported_row_by_row() -> None:
    size = 300
    rows = [Row(changed(sentence(1, 40), 39, f"variant{number}")) for number in range(size)]
    pairs = pairs_of(rows)
    assert size - 1 <= len(pairs) <= 1.1 * size
    assert {line for pair in pairs for line in (pair.first.line, pair.second.line)} == set(range(1, size + 1))
    assert {pair.kind for pair in pairs} == {"near"}


def test_shared_sentences_are_partial_and_shared_groups_are_named() -> None:
    rows = [
        Row("a shared sentence", text_pair="train's own", split="train"),
        Row("something else", text_pair="A shared sentence!", split="test", label="b"),
        Row("of train alone", text_pair="of train alone too", split="train", label="b"),
        Row("of user 1", text_pair="in train", split="train", group="user 1"),
        Row("of user 1 again", text_pair="in test", split="test", group="user 1"),
        Row("kept", text_pair="in train too", split="train"),
    ]
    report = pairs_of(rows)
    assert lines(report) == [(2, 1, "partial", "reported"), (5, 4, "group", "dropped_from_train")]
    assert [pair.label_conflict for pair in report] == [False, False]
    dropping = settings(train=1.0, validation=0.0, test=0.0, partial_overlap="drop_from_train")
    assert lines(pairs_of(rows, dropping))[0] == (2, 1, "partial", "dropped_from_train")


def test_rows_dropped_from_test_are_reported_so() -> None:
    rows = [Row("a b c", split="train"), Row("A b c", split="test"), Row("d", split="test")]
    options = settings(train=1.0, validation=0.0, test=0.0, on_leak="drop_from_test")
    assert lines(pairs_of(rows, options)) == [(2, 1, "normalized", "dropped_from_test")]


def test_verification_sees_shared_groups_and_sentences() -> None:
    options = settings(train=1.0, validation=0.0, test=0.0, partial_overlap="drop_from_train")
    rows = table(
        [
            Row("one", text_pair="two", group="x"),
            Row("three", text_pair="four", group="x"),
            Row("five", text_pair="six"),
            Row("six", text_pair="seven"),
        ]
    )
    duplicates = find_duplicates(rows, options)
    division = divide(rows, duplicates, options)
    assert verify(division, duplicates, [], options).passed
    for row, groups, sides in ((0, 1, 0), (3, 0, 1)):
        moved = division.split.copy()
        moved[row] = 2
        found = verify(dataclasses.replace(division, split=moved), duplicates, [], options)
        assert (found.groups_crossing_splits, found.sides_shared_with_train, found.passed) == (groups, sides, False)


@given(st.lists(st.floats(-1000, 1000).map(lambda value: round(value, 3)), min_size=12, max_size=80, unique=True))
def test_numbers_are_told_in_ranges_that_hold_every_row(values: list[float]) -> None:
    options = settings(train=1.0, validation=0.0, test=0.0)
    rows = table([Row(f"text number {place}", str(value)) for place, value in enumerate(values)] + [Row("none", None)])
    division = divide(rows, find_duplicates(rows, options), options, problem_type="regression")
    names, counts = rows_by_label(division)
    assert len(names) == len(counts) <= 11
    assert counts.sum() == (division.split >= 0).sum()
    assert counts[-1].sum() == 1
    for name, count in zip(names[:-1], counts[:-1].sum(axis=1), strict=True):
        low, high = (float(part) for part in name.split(" to "))
        assert low <= high
        assert count <= sum(low - 0.01 <= value <= high + 0.01 for value in values)


def test_a_few_numbers_are_told_one_by_one() -> None:
    options = settings(train=1.0, validation=0.0, test=0.0)
    rows = table([Row(f"text number {place}", str(place % 5)) for place in range(20)])
    names, counts = rows_by_label(divide(rows, find_duplicates(rows, options), options, problem_type="regression"))
    assert names[:-1] == ("0", "1", "2", "3", "4")
    assert counts[:-1, 0].tolist() == [4] * 5
