import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

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


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["hash", "exact", "time"]),
    st.sampled_from([None, 4]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_row_and_file_order_change_nothing(
    seed: int, assignment: str, folds: int | None, grouped: bool, rng: random.Random
) -> None:
    rows = [*corpus(30, "a"), *corpus(30, "b")]
    rows += [Row(changed(row.text, word="nearly"), label="b") for row in rows[:10]]
    rows += [Row(row.text.upper(), label="a") for row in rows[5:15]]
    rows = [
        replace(row, time=str(place % 17), group=f"user {place % 23}" if grouped else None)
        for place, row in enumerate(rows)
    ]
    folds = None if assignment == "time" else folds
    options = settings(seed=seed, assignment=assignment, near_duplicate_threshold=0.5, folds=folds)
    shuffled = list(rows)
    rng.shuffle(shuffled)
    renamed = [replace(row, source=f"{rng.randrange(3)}.csv") for row in shuffled]
    expected = in_kept_texts(rows, split(rows, options))
    assert in_kept_texts(renamed, split(renamed, options)) == expected


def in_kept_texts(rows: list[Row], division: Division) -> set[tuple[str, str | None, int]]:
    """What each split holds, up to which of several repeats was kept."""
    return {
        (row.text.casefold(), row.label, place)
        for row, place in zip(rows, division.split.tolist(), strict=True)
        if place >= 0
    }


@hypothesis_settings(max_examples=30, deadline=None)
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
@hypothesis_settings(max_examples=40, deadline=None)
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
        Row(changed(twin, 29), split="train", label="b"),
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


def test_groups_of_the_user_never_straddle_and_grow_in_place() -> None:
    rows = [Row(f"text {number} of some user", group=f"user {number % 40}") for number in range(400)]
    rows += [Row(sentence(1), group="user 1"), Row(changed(sentence(1)), group="user 2")]
    for assignment in ("hash", "exact"):
        division = split(rows, settings(assignment=assignment))
        homes = {(row.group, place) for row, place in zip(rows, division.split.tolist(), strict=True)}
        assert len(homes) == 40
        assert dict(homes)["user 1"] == dict(homes)["user 2"]
        assert len({place for _, place in homes}) == 3
    grown = [*(Row(f"a new text {number}", group=f"user {number % 50}") for number in range(500)), *rows]
    assert by_text(rows, split(rows)).items() <= by_text(grown, split(grown)).items()


def test_texts_that_many_groups_repeat_do_not_join_them() -> None:
    rows = [Row(f"text {number} of some user", group=f"user {number}") for number in range(300)]
    rows += [Row("good", group=f"user {number}") for number in range(300)]
    division = split(rows)
    assert division.counts()[0] / 301 == pytest.approx([0.8, 0.1, 0.1], abs=0.06)
    random.Random(0).shuffle(rows)
    assert split(rows).counts().tolist() == division.counts().tolist()


def test_groups_shared_by_given_splits_leave_train() -> None:
    rows = [
        Row("one text", group="x", split="train"),
        Row("two texts", group="x", split="test"),
        Row("three texts", group="y", split="train"),
        Row("four texts", split="train"),
        Row("five texts", split="test"),
        Row("six texts", group="x", split="validation"),
    ]
    division = split(rows)
    assert np.flatnonzero(division.fate).tolist() == [0, 5]
    assert division.group_leaks.tolist() == [[1, 5], [1, 0]]


@pytest.mark.parametrize("write", [str, lambda day: f"2024-{1 + day // 28:02}-{1 + day % 28:02}"])
def test_time_keeps_the_past_in_train_and_ties_together(write: Callable[[int], str]) -> None:
    rng = random.Random(0)
    days = [rng.randrange(300) for _ in range(1000)]
    rows = [Row(f"text number {number} of many", time=write(day)) for number, day in enumerate(days)]
    division = split(rows, settings(assignment="time"))
    by_split = [[day for day, place in zip(days, division.split, strict=True) if place == part] for part in range(3)]
    assert max(by_split[TRAIN]) < min(by_split[VALIDATION])
    assert max(by_split[VALIDATION]) < min(by_split[TEST])
    assert division.counts()[0] / 1000 == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_time_moves_duplicates_as_one_and_never_trains_on_what_came_later() -> None:
    rows = [Row(f"text number {number} of many", time=str(number)) for number in range(100)]
    old, new = sentence(1), changed(sentence(1))
    everything = [
        *rows,
        Row(old, time="0"),
        Row(new, time="99"),
        Row("said again", time="99"),
        Row("said again", time="0"),
    ]
    for order in (everything, everything[::-1]):
        division = split(order, settings(assignment="time"))
        home = by_text(order, division)
        assert home[old] == home[new] == "test"
        assert division.split[[row.time == "0" and row.text == "said again" for row in order]].tolist() == [TRAIN]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["1", None], r"rows.csv:2: a row without a time"),
        (["2024-01-01", "05/06/2024"], "not a time.*05/06/2024.*ISO 8601"),
        (["nan", "1"], "not a time"),
    ],
)
def test_rows_without_a_time_are_an_error(times: list[str | None], message: str) -> None:
    with pytest.raises(SeqtrackError, match=message):
        split([Row(f"text {time}", time=time) for time in times], settings(assignment="time"))


@pytest.mark.parametrize("assignment", ["hash", "exact"])
def test_folds_test_every_row_once_and_leave_a_stable_rest(assignment: str) -> None:
    rows = [*corpus(300, "a"), *corpus(200, "b"), Row(sentence(1)), Row(changed(sentence(1)), label="b")]
    tested = []
    for fold in range(5):
        division = split(rows, settings(assignment=assignment, folds=5, fold=fold))
        tested.append(set(np.flatnonzero(division.split == TEST).tolist()))
        shares = division.counts()[:2] / division.counts()[:2].sum(axis=1, keepdims=True)
        assert shares[0] == pytest.approx([0.8 * 8 / 9, 0.8 / 9, 0.2], abs=0.07)
        assert division.split[-1] == division.split[-2]
    assert sum(map(len, tested)) == len(set().union(*tested)) == len(rows)


def test_folds_of_train_are_validation_where_test_is_given() -> None:
    train = [Row(row.text, split="train") for row in corpus(300)]
    test = [Row(f"test row {number}", split="test") for number in range(50)]
    held_out = []
    for fold in range(3):
        division = split(train + test, settings(folds=3, fold=fold))
        held_out += np.flatnonzero(division.split == VALIDATION).tolist()
        assert (division.split[300:] == TEST).all()
        assert (division.split[:300] != TEST).all()
    assert sorted(held_out) == list(range(300))
    validation = [Row(f"validation row {number}", split="validation") for number in range(50)]
    division = split(train + validation, settings(folds=3, fold=0))
    assert (division.split[300:] == VALIDATION).all()
    assert 60 < (division.split[:300] == TEST).sum() < 140
    with pytest.raises(SeqtrackError, match="folds would replace a split"):
        split(train + validation + test, settings(folds=3, fold=0))


def test_the_fold_must_exist() -> None:
    with pytest.raises(ValueError, match="fold must be below folds"):
        settings(folds=5, fold=5)
    with pytest.raises(ValueError, match="assignment time cuts once"):
        settings(folds=5, fold=0, assignment="time")


LEAKING = [
    Row("in test too", split="train"),
    Row("In TEST, too", split="test"),
    Row(sentence(1), split="train"),
    Row(changed(sentence(1)), split="validation"),
    Row(changed(sentence(1), 29), split="test"),
    Row("only here", split="train"),
    Row("only there", split="test"),
]


def test_leaks_can_leave_test_instead() -> None:
    division = split(LEAKING, settings(on_leak="drop_from_test"))
    assert {row: fate for row, fate in enumerate(division.fate.tolist()) if fate} == {
        1: Fate.DROPPED_FROM_TEST,
        3: Fate.DROPPED_FROM_VALIDATION,
        4: Fate.DROPPED_FROM_TEST,
    }


def test_leaks_can_be_refused() -> None:
    with pytest.raises(
        SeqtrackError, match=r"rows.csv:1: the splits given share rows.*3 such rows \(2 in train, 1 in val"
    ):
        split(LEAKING, settings(on_leak="fail"))
    clean = [row for number, row in enumerate(LEAKING) if number in (0, 4, 5, 6)]
    assert not split(clean, settings(on_leak="fail")).fate.any()


def test_all_of_a_family_too_large_to_compare_leaves_train() -> None:
    base = sentence(1, 40)
    # Neighbours in the chain are near each other; most of them are not near the row in test.
    family = [base]
    for place in range(36):
        family.append(changed(family[-1], place, f"new{place}"))
    crowd = [changed(base, 39, f"variant{number}") for number in range(60)]
    rows = [Row(text, split="train") for text in family + crowd] + [
        Row(changed(base, 38), split="test"),
        Row("apart", split="train"),
    ]
    division = split(rows)
    leaving = division.fate == Fate.DROPPED_FROM_TRAIN
    assert leaving[: len(family) + len(crowd)].all()
    assert not leaving[-2:].any()


PAIRED = [
    Row("a shared sentence", text_pair="train's own", split="train"),
    Row("something else", text_pair="A shared sentence!", split="test"),
    Row("a third one", text_pair="something else", split="validation"),
    Row("of train alone", text_pair="of train alone too", split="train"),
]


def test_sentences_shared_across_splits_are_found_and_kept_or_dropped() -> None:
    division = split(PAIRED)
    assert not division.fate.any()
    assert division.partial.tolist() == [[1, 0], [1, 2]]
    division = split(PAIRED, settings(partial_overlap="drop_from_train"))
    assert division.fate.tolist() == [Fate.DROPPED_FROM_TRAIN, 0, 0, 0]
    assert division.split.tolist() == [-1, TEST, VALIDATION, TRAIN]


def test_labels_that_are_no_classes_need_not_be_in_train() -> None:
    rows = table([Row(f"text {number}", label=str(number / 7)) for number in range(60)])
    division = divide(rows, find_duplicates(rows, settings()), settings(assignment="exact"), problem_type="regression")
    assert division.counts().sum(axis=0).tolist() == [48, 6, 6]
    assert missing_classes(division) == []
