import random
from collections import Counter

import numpy as np
import pytest
from canonical import Row, changed, sentence, settings, table
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.duplicates import find_duplicates, similarity_of
from pipeline.errors import SeqtrackError
from pipeline.params import Split
from pipeline.paths import SPLIT_NAMES
from pipeline.splitting import Division, Fate, divide, missing_classes

TRAIN, VALIDATION, TEST = range(3)


def split(rows: list[Row], options: Split | None = None) -> Division:
    options = options or settings()
    rows_table = table(rows)
    return divide(rows_table, find_duplicates(rows_table, options), options)


def by_text(rows: list[Row], division: Division) -> dict[str, str | None]:
    names = [*SPLIT_NAMES, None]
    return {row.text: names[place] for row, place in zip(rows, division.split.tolist(), strict=True)}


def corpus(n: int, label: str = "a") -> list[Row]:
    return [Row(f"text number {label} {number} of many", label=label) for number in range(n)]


def test_ratios_hold_in_expectation() -> None:
    counts = split(corpus(4000)).counts()[0] / 4000
    assert counts == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_the_seed_changes_the_assignment_and_nothing_else_does() -> None:
    rows = corpus(300)
    assert np.array_equal(split(rows).split, split(rows).split)
    assert not np.array_equal(split(rows).split, split(rows, settings(seed=14)).split)


@hypothesis_settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["hash", "exact"]), st.randoms(use_true_random=False))
def test_row_and_file_order_change_nothing(seed: int, assignment: str, rng: random.Random) -> None:
    rows = [*corpus(30, "a"), *corpus(30, "b")]
    rows += [Row(changed(row.text, word="nearly"), label="b") for row in rows[:10]]
    rows += [Row(row.text.upper(), label="a") for row in rows[5:15]]
    options = settings(seed=seed, assignment=assignment, near_duplicate_threshold=0.5)
    shuffled = list(rows)
    rng.shuffle(shuffled)
    renamed = [Row(row.text, label=row.label, source=f"{rng.randrange(3)}.csv") for row in shuffled]
    expected = in_kept_texts(rows, split(rows, options))
    assert in_kept_texts(renamed, split(renamed, options)) == expected


def in_kept_texts(rows: list[Row], division: Division) -> set[tuple[str, str | None, int]]:
    """What each split holds, up to which of several repeats was kept."""
    return {
        (row.text.casefold(), row.label, place)
        for row, place in zip(rows, division.split.tolist(), strict=True)
        if place >= 0
    }


@hypothesis_settings(max_examples=30)
@given(st.sets(st.integers(0, 10_000), min_size=30, max_size=60), st.sets(st.integers(0, 10_000), max_size=60))
def test_rows_added_later_move_no_old_row(old: set[int], new: set[int]) -> None:
    before = [Row(f"text number {number} of many") for number in sorted(old)]
    added = [Row(f"text number {number} of many") for number in sorted(new - old)]
    everything = [*added, *before]
    assert by_text(before, split(before)).items() <= by_text(everything, split(everything)).items()


def test_groups_are_components_and_stay_together() -> None:
    rows = corpus(200)
    chain = [sentence(1)]
    for place in range(0, 30, 3):
        chain.append(changed(chain[-1], place, "new"))
    everything = rows + [Row(text) for text in chain]
    for seed in range(8):
        division = split(everything, settings(seed=seed))
        assert len(set(division.split[len(rows) :].tolist())) == 1


def test_repeats_are_dropped_but_for_the_first_of_each_label() -> None:
    rows = [Row("x y z", "a"), Row("X, y z!", "a"), Row("x y z", "b"), Row("x y z", "b"), Row("p q r", "a")]
    division = split([*rows, *corpus(30, "a"), *corpus(30, "b")], settings(assignment="exact"))
    assert division.fate[:5].tolist() == [Fate.KEPT, Fate.DROPPED, Fate.KEPT, Fate.DROPPED, Fate.KEPT]
    assert division.split[0] == division.split[2]
    assert division.split[1] == -1


@given(
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from("abc")), min_size=9, max_size=60),
    st.sampled_from([(0.8, 0.1, 0.1), (0.6, 0.2, 0.2), (0.5, 0.5, 0.0), (0.98, 0.01, 0.01), (1.0, 0.0, 0.0)]),
)
@hypothesis_settings(max_examples=40)
def test_exact_assignment_keeps_each_class_within_one_group(
    groups: list[tuple[int, str]], ratios: tuple[float, float, float]
) -> None:
    rows = [
        Row(changed(sentence(number), 0, f"variant{copy}"), label=label)
        for number, (size, label) in enumerate(groups)
        for copy in range(size)
    ]
    train, validation, test = ratios
    options = settings(assignment="exact", train=train, validation=validation, test=test)
    division = split(rows, options)
    wanted = [ratio for ratio in ratios if ratio]
    for row, label in enumerate(division.label_names):
        sizes = [size for size, of in groups if of == label]
        counts = division.counts()[row]
        assert counts.sum() == sum(sizes)
        assert all(count == 0 for count, ratio in zip(counts, ratios, strict=True) if not ratio)
        if len(sizes) >= len(wanted):
            assert all(count > 0 for count, ratio in zip(counts, ratios, strict=True) if ratio)
        # The guarantee of one group in each split can cost a split up to one group for each other split.
        slack = max(sizes) * (1 if min(wanted) * sum(sizes) >= max(sizes) else len(wanted))
        assert counts == pytest.approx(np.array(ratios) * sum(sizes), abs=slack)


def test_a_class_without_a_training_row_is_an_error_that_names_it() -> None:
    rows = [*corpus(50, "common"), Row("the only one there is", label="rare")]
    failing = next(seed for seed in range(100) if rare_is_held_out(rows, seed))
    with pytest.raises(SeqtrackError, match=r"class 'rare' has no row in train.*1 rows.*split.assignment to exact"):
        split(rows, settings(seed=failing))
    division = split(rows, settings(seed=failing, assignment="exact"))
    assert missing_classes(division) == [
        "class 'rare' (1 rows) has no row in validation",
        "class 'rare' (1 rows) has no row in test",
    ]


def rare_is_held_out(rows: list[Row], seed: int) -> bool:
    try:
        split(rows, settings(seed=seed))
    except SeqtrackError:
        return True
    return False


def test_given_splits_are_cleaned_from_train_never_from_test() -> None:
    near, twin = sentence(1), sentence(2)
    rows = [
        Row("in test too", split="train"),
        Row("In TEST, too", split="test", label=None),
        Row(changed(near), split="train"),
        Row(near, split="test"),
        Row(twin, split="validation"),
        Row(changed(twin, 5), split="train", label="b"),
        Row("validation and test have it", split="validation"),
        Row("validation and test have it", split="test"),
        Row("repeat inside train", split="train"),
        Row("repeat inside train", split="train"),
        Row("repeat inside train", split="train", label="b"),
        Row("repeat inside test", split="test"),
        Row("repeat inside test", split="test"),
        Row("repeat inside validation", split="validation"),
        Row("repeat inside validation", split="validation"),
        Row("nothing like it", split="train"),
    ]
    division = split(rows)
    expected = {
        0: Fate.DROPPED_FROM_TRAIN,
        2: Fate.DROPPED_FROM_TRAIN,
        5: Fate.DROPPED_FROM_TRAIN,
        6: Fate.DROPPED_FROM_VALIDATION,
        9: Fate.DROPPED,
    }
    assert {row: fate for row, fate in enumerate(division.fate.tolist()) if fate} == expected
    kept = division.fate == Fate.KEPT
    assert np.array_equal(division.split[kept], division.given[kept])


def test_leaks_are_between_direct_neighbours() -> None:
    test_row = sentence(1)
    near = changed(changed(test_row, 0), 29)
    farther = changed(near, 2)
    assert similarity_of((near, None), (farther, None), 3) >= 0.8 > similarity_of((test_row, None), (farther, None), 3)
    base = [Row(test_row, split="test"), Row(farther, split="train"), Row("something else", split="train")]
    for middle, fate in (("train", Fate.DROPPED_FROM_TRAIN), ("validation", Fate.DROPPED_FROM_VALIDATION)):
        division = split([*base, Row(near, split=middle), Row("held out", split="validation")])
        # The row in the middle goes; the one that only it connected to test stays.
        assert division.fate.tolist() == [Fate.KEPT, Fate.KEPT, Fate.KEPT, fate, Fate.KEPT]


def test_a_missing_validation_split_is_taken_out_of_train() -> None:
    train = [Row(row.text, split="train") for row in corpus(900)]
    twins = [Row(sentence(number), split="train") for number in range(40)]
    twins += [Row(changed(row.text), split="train") for row in twins]
    test = [Row(f"test row {number}", split="test") for number in range(50)]
    for assignment in ("hash", "exact"):
        division = split(train + twins + test, settings(assignment=assignment))
        counts = division.counts()[0]
        assert counts[TEST] == 50
        assert counts[VALIDATION] / (counts[TRAIN] + counts[VALIDATION]) == pytest.approx(1 / 9, abs=0.03)
        places = division.split[900:980]
        assert np.array_equal(places[:40], places[40:])


def test_a_missing_test_split_stays_empty_and_train_alone_is_divided() -> None:
    train = [Row(row.text, split="train") for row in corpus(300)]
    validation = [Row(f"validation row {number}", split="validation") for number in range(9)]
    assert split(train + validation).counts()[0].tolist() == [300, 9, 0]
    assert np.array_equal(split(train).split, split(corpus(300)).split)


def test_no_validation_is_taken_where_its_ratio_is_zero() -> None:
    rows = [*(Row(row.text, split="train") for row in corpus(50)), Row("test row", split="test")]
    assert split(rows, settings(train=0.9, validation=0.0, test=0.1)).counts()[0].tolist() == [50, 0, 1]


def test_splits_for_some_rows_only_are_an_error() -> None:
    with pytest.raises(SeqtrackError, match=r"extra.csv: some rows name a split"):
        split([Row("one", split="train"), Row("two", source="extra.csv")])


def test_no_row_left_for_train_is_an_error() -> None:
    with pytest.raises(SeqtrackError, match="no row is in train"):
        split([Row("same", split="train"), Row("same", split="test")])
    with pytest.raises(SeqtrackError, match="no row is in train"):
        split([])


def test_label_order_is_natural_and_unlabelled_rows_are_counted_last() -> None:
    rows = [Row(f"text {label}", label=label, split="train") for label in ("10", "9")]
    division = split([*rows, Row("unlabelled", label=None, split="test")], settings(train=1, validation=0, test=0))
    assert division.label_names == ("9", "10")
    assert division.counts().tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert missing_classes(division) == []
    assert Counter(division.fate.tolist()) == {Fate.KEPT: 3}
