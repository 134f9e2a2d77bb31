import random
from itertools import combinations

import numpy as np
import pytest
from canonical import Row, changed, sentence, settings, table
from hypothesis import given
from hypothesis import strategies as st

from pipeline.duplicates import FAMILY, Duplicates, find_duplicates, similarity_of
from pipeline.errors import SeqtrackError
from pipeline.normalize import normalise

small = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=0, max_size=7).map(" ".join)


def near_rows(found: Duplicates) -> set[tuple[int, int]]:
    """Near pairs as row numbers, where each content is in one row only."""
    row = {content: number for number, content in enumerate(found.content.tolist())}
    return {tuple(sorted((row[a], row[b]))) for a, b in found.near.tolist()}


def test_equal_and_normalised_texts_are_one_content() -> None:
    found = find_duplicates(table([Row("A b, c!"), Row("a b c"), Row("A b, c!"), Row("a b d")]), settings())
    assert found.content[0] == found.content[1] == found.content[2] != found.content[3]
    assert found.near.shape == (0, 2)


def test_short_and_bare_texts_do_not_collapse() -> None:
    texts = ["good", "bad", "ok", "so so", "so bad", "😀", "😂", "!", "?", "好", "差", "很好", "a b", "b a"]
    found = find_duplicates(table(map(Row, texts)), settings(near_duplicate_threshold=0.3))
    assert len(set(found.content.tolist())) == len(texts)
    assert not len(found.near)


@given(
    st.lists(st.tuples(small, st.none() | small), min_size=1, max_size=8),
    st.sampled_from([0.4, 0.5, 0.8, 1.0]),
    st.integers(1, 3),
)
def test_no_pair_is_false_and_scores_are_exact(texts: list[tuple[str, str | None]], threshold: float, k: int) -> None:
    rows = table(Row(text, text_pair=pair) for text, pair in texts)
    found = find_duplicates(rows, settings(near_duplicate_threshold=threshold, shingle_size=k))
    for i, j in combinations(range(len(texts)), 2):
        (a, b), (c, d) = texts[i], texts[j]
        same = (b is None) == (d is None) and sorted([normalise(a), normalise(b or "")]) == sorted(
            [normalise(c), normalise(d or "")]
        )
        assert (found.content[i] == found.content[j]) == same
    first = {content: number for number, content in reversed(list(enumerate(found.content.tolist())))}
    for (x, y), score in zip(found.near.tolist(), found.similarity.tolist(), strict=True):
        assert x < y
        assert score == similarity_of(texts[first[x]], texts[first[y]], k) >= threshold


def test_planted_near_pairs_are_found() -> None:
    rng = random.Random(5)
    vocabulary = [f"v{number}" for number in range(5000)]
    originals = [" ".join(rng.choices(vocabulary, k=30)) for _ in range(3000)]
    copies = [changed(text, rng.choice([0, 1, 28, 29])) for text in originals]  # up to 3 shingles of 28 change
    found = find_duplicates(table(map(Row, [*originals, *copies])), settings())
    planted = {
        (number, number + len(originals))
        for number in range(len(originals))
        if similarity_of((originals[number], None), (copies[number], None), 3) >= 0.8
    }
    assert len(planted) > 2900
    assert len(planted & near_rows(found)) >= 0.99 * len(planted)
    assert near_rows(found) <= planted


def test_chinese_texts_are_compared_by_characters() -> None:
    text = "这家店的外卖送得非常快味道也很不错下次还会再来点一份推荐给大家"
    rows = table([Row(text), Row("　" + text[:-1] + "。"), Row(text[::-1]), Row(text + "！")])
    found = find_duplicates(rows, settings())
    assert found.content[0] == found.content[3]
    assert len(found.near) == 1
    assert set(found.near[0].tolist()) == {found.content[0], found.content[1]}


def test_pairs_count_in_either_order_and_only_when_both_sides_match() -> None:
    a, b, c = sentence(1), sentence(2), sentence(3)
    rows = table(
        [
            Row(a, text_pair=b),
            Row(b.upper(), text_pair=a),
            Row(changed(b), text_pair=changed(a)),
            Row(a, text_pair=c),
            Row(a),
            Row(f"{a} {b}"),
            Row(b, text_pair=b),
        ]
    )
    found = find_duplicates(rows, settings())
    assert found.content[0] == found.content[1]
    assert len(set(found.content.tolist())) == 6
    assert set(map(tuple, found.near.tolist())) == {tuple(sorted((found.content[0], found.content[2])))}


def test_sides_that_share_shingles_are_still_found() -> None:
    common = sentence(0, 26)
    first = Row(f"{common} one two", text_pair=f"{common} three four")
    second = Row(f"{common} five six", text_pair=f"{common} seven eight")
    pairs = [
        Row(row.text.replace("w0", f"n{number}"), text_pair=str(row.text_pair).replace("w0", f"n{number}"))
        for number in range(200)
        for row in (first, second)
    ]
    assert len(find_duplicates(table(pairs), settings()).near) >= 0.99 * 200


def test_word_repetition_does_not_disturb_the_score() -> None:
    texts = ["x y " * 10 + "z z z", "x y " * 11 + "z z z", "p q r"]
    found = find_duplicates(table(map(Row, texts)), settings())
    assert found.similarity.tolist() == [1.0]


def test_the_order_of_rows_changes_nothing() -> None:
    texts = [sentence(number) for number in range(40)] + [changed(sentence(number)) for number in range(20)]
    shuffled = list(texts)
    random.Random(1).shuffle(shuffled)
    results = [find_duplicates(table(map(Row, order)), settings()) for order in (texts, shuffled)]
    assert np.array_equal(results[0].digests, results[1].digests)
    assert np.array_equal(results[0].near, results[1].near)
    assert np.array_equal(results[0].similarity, results[1].similarity)


def test_many_repeats_are_searched_once() -> None:
    rows = table([Row(sentence(1))] * 5000 + [Row(changed(sentence(1)))] * 5000)
    found = find_duplicates(rows, settings())
    assert (found.candidates, len(found.near)) == (1, 1)


def test_texts_longer_than_a_chunk_and_no_rows_at_all() -> None:
    long = sentence(1, 300_000)
    found = find_duplicates(table([Row("first text here"), Row(long), Row(changed(long)), Row(long + ".")]), settings())
    assert found.content[1] == found.content[3]
    assert len(found.near) == 1
    assert len(find_duplicates(table([]), settings()).near) == 0


def test_too_few_permutations_are_an_error() -> None:
    with pytest.raises(SeqtrackError, match="num_perm"):
        find_duplicates(table([Row("a")]), settings(near_duplicate_threshold=0.1, num_perm=16))


def test_a_large_family_is_connected_in_linear_time() -> None:
    size = 2000
    # One word differs, so that any two are near each other: size * (size - 1) / 2 pairs.
    texts = [changed(sentence(1, 40), 39, f"variant{number}") for number in range(size)]
    rows = table(map(Row, [*texts, *(sentence(number) for number in range(2, 50))]))
    found = find_duplicates(rows, settings())
    family = found.families()[found.content]
    assert len(set(family[:size].tolist())) == 1
    assert not set(family[size:].tolist()) & {family[0]}
    assert found.crowded[found.content].tolist() == [True] * size + [False] * 48
    assert found.candidates < (FAMILY + 2) * size
    assert found.similarity.min() >= 0.8


def test_families_that_are_no_cluster_are_connected_as_well() -> None:
    rng = random.Random(3)
    texts = [sentence(1, 40)]
    while len(texts) < 1000:
        # Each grows out of an earlier one, so that most of them are not near each other.
        texts.append(changed(rng.choice(texts), rng.randrange(40), f"new{len(texts)}"))
    options = settings()
    found = find_duplicates(table(map(Row, texts)), options)
    family = found.families()[found.content]
    near = apart = 0
    for _ in range(20_000):
        one, other = rng.sample(range(1000), 2)
        if similarity_of((texts[one], None), (texts[other], None), 3) >= 0.8:
            near += 1
            apart += family[one] != family[other]
    assert near > 20
    assert apart <= 0.01 * near
    assert found.candidates < 3 * FAMILY * len(texts)


def test_a_small_family_among_many_look_alikes_gets_all_its_pairs() -> None:
    texts = [f"{sentence(1, 40)} {sentence(number, 25)}" for number in range(2, 60)]
    triple = [texts[0], changed(texts[0], 50), changed(texts[0], 60)]
    found = find_duplicates(table(map(Row, [*triple, *texts[1:]])), settings(near_duplicate_threshold=0.9))
    assert near_rows(found) == {(0, 1), (0, 2)} or near_rows(found) == {(0, 1), (0, 2), (1, 2)}
    assert not found.crowded.any()


def test_sides_are_numbered_across_both_columns() -> None:
    rows = table([Row("A b", text_pair="c"), Row("C!", text_pair="a b"), Row("c"), Row("d", text_pair="d")])
    found = find_duplicates(rows, settings())
    (a, b), (c, d), single, (e, f) = found.side.tolist()
    assert (a, b) == (d, c)
    assert single == [-1, -1]
    assert e == f
    assert len({a, b, e}) == 3
    assert find_duplicates(table([Row("c")]), settings()).side.shape == (0, 2)
