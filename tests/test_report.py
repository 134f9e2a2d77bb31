"""The report: any rows shown as text, equal bytes, each task; weights that add up; planted label errors found."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from captum.attr import LayerIntegratedGradients

from pipeline import label_errors, params
from pipeline.attributions import explain, merged
from pipeline.errors import SeqtrackError
from pipeline.label_errors import FOLDS, find_label_errors, require_cleanlab
from pipeline.labels import LabelSet
from pipeline.outputs import write_json
from pipeline.params import load_params
from pipeline.report import Report, build_report
from pipeline.report_charts import ticks
from pipeline.report_inputs import MOST_PAIRS, Inputs, Outputs, read_inputs
from pipeline.report_rows import FoundSuspects, explain_errors, target_of
from pipeline.report_run import Measured, Weights
from tests.report_world import EVIL, ReportWorld
from tests.toy import REPOSITORY
from tests.world import NAMES, World

SETS = LabelSet(problem_type="multi_label_classification", names=NAMES)
TASKS = ("single_label_classification", "multi_label_classification", "regression")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ReportWorld]:
    """All that the report reads, of a run of each task."""
    return {task: ReportWorld.make(tmp_path_factory.mktemp(task), task) for task in TASKS}


@pytest.fixture(params=TASKS)
def made(request: pytest.FixtureRequest, worlds: dict[str, ReportWorld]) -> ReportWorld:
    return worlds[request.param]


@pytest.fixture
def single(worlds: dict[str, ReportWorld]) -> ReportWorld:
    return worlds[TASKS[0]]


@pytest.fixture
def copied(single: ReportWorld, tmp_path: Path) -> Outputs:
    """The outputs with reports that a test may spoil."""
    shutil.copytree(single.outputs.reports, tmp_path / "reports")
    return replace(single.outputs, reports=tmp_path / "reports")


class Elements(HTMLParser):
    """The elements and texts of a page, and whether each is closed."""

    EMPTY = ("meta", "link", "br", "img", "line", "circle", "rect", "polyline")

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.seen if tag == name]


def test_rows_are_shown_as_text_whatever_stands_in_them(made: ReportWorld) -> None:
    page = made.report(attributions=2).html()
    found = Elements(page)
    assert found.open == []  # every element is closed where it ought to be
    assert not found.tags("script") + found.tags("img") + found.tags("iframe") + found.tags("form")
    assert not [name for _, attributes in found.seen for name in attributes if name.startswith("on")]
    assert EVIL in found.text
    assert "\x08" not in page


def test_the_page_allows_itself_nothing(single: ReportWorld) -> None:
    found = Elements(single.report().html())
    (policy,) = [meta for meta in found.tags("meta") if "http-equiv" in meta]
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy["content"]).split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["style-src"].startswith("'sha256-")  # no other style, and none in attributes
    assert not [1 for _, attributes in found.seen if "style" in attributes]
    addresses = [value for _, attributes in found.seen for name in ("href", "src") if (value := attributes.get(name))]
    assert all(address.startswith(("#", "data:")) for address in addresses)
    ids = {attributes["id"] for _, attributes in found.seen if "id" in attributes}
    assert {address[1:] for address in addresses if address.startswith("#")} <= ids


def test_headings_are_in_order_and_sections_have_names(made: ReportWorld) -> None:
    found = Elements(made.report(attributions=1).html())
    levels = [int(tag[1]) for tag, _ in found.seen if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all("aria-labelledby" in section for section in found.tags("section"))
    assert len(found.tags("main")) == len(found.tags("nav")) == 1
    passages = [paragraph for paragraph in found.tags("p") if paragraph.get("class") == "passage"]
    assert passages
    assert all((paragraph["dir"], paragraph["lang"]) == ("auto", "") for paragraph in passages)


def test_equal_runs_give_equal_bytes_that_tell_no_time_and_no_place(made: ReportWorld) -> None:
    first, again = made.report(attributions=2).html(), made.report(attributions=2).html()
    assert first == again
    assert str(made.folder) not in first
    assert "wall time" not in first


def test_what_was_measured_is_on_the_copy_alone(single: ReportWorld) -> None:
    metrics = {
        "stage_seconds/train": 3723.0,
        "stage_peak_memory_bytes/train": 3 * 2**30,
        "train/samples_per_second": 99,
    }
    told = Elements(single.report().html(Measured.of(metrics, "abc123"))).text
    for text in ("1 h 2 min", "3.0 GiB", "99.0", "abc123"):
        assert text in told
        assert text not in Elements(single.report().html()).text


def test_the_numbers_are_those_of_the_reports(made: ReportWorld) -> None:
    results = json.loads((made.outputs.reports / "all_results.json").read_text(encoding="utf-8"))
    text = Elements(made.report().html()).text
    test = results["splits"]["test"]
    for name, value in test["metrics"].items():
        low, high = test["intervals"][name]
        told = [f"{number:.4f}" if abs(number) < 100 else f"{number:.6g}" for number in (value, low, high)]
        assert f"{told[0]} ({told[1]} to {told[2]})" in text, name
    assert ("Calibration" in text) == (made.task != "regression")
    assert ("Confusion matrix" in text) == (made.task == "single_label_classification")
    assert results["run_key"] in text


def test_pairs_of_duplicates_show_both_texts_and_conflicts_first(single: ReportWorld) -> None:
    inputs = read_inputs(single.outputs)
    assert len(inputs.pairs) == MOST_PAIRS  # of 60
    conflicts = [pair["label_conflict"] for pair in inputs.pairs]
    assert conflicts == sorted(conflicts, reverse=True)
    assert sum(conflicts) == 10
    text = Elements(single.report().html()).text
    assert f"{MOST_PAIRS} of 60 pairs" in text
    assert "first text 59" in text
    assert "second text 59" in text


def test_long_texts_are_cut_and_say_so(single: ReportWorld) -> None:
    text = Elements(single.report(attributions=0).html()).text
    assert "more characters]" in text
    assert "long " * 2000 not in text


def test_hundreds_of_classes_make_a_short_page(single: ReportWorld) -> None:
    """The matrix gives way to the most frequent confusions, tables tell of how many classes they show some."""
    inputs = read_inputs(single.outputs)
    names = [f"class {place}" for place in range(300)]
    matrix = np.zeros((300, 300), int)
    matrix[np.arange(300), np.arange(300)] = 5
    matrix[7, 8] = 99
    classes = [
        {"name": name, "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 5, "predicted": 5} for name in names
    ]
    results = {**inputs.results, "labels": names, "splits": {**inputs.results["splits"]}}
    results["splits"]["test"] = {**results["splits"]["test"], "confusion_matrix": matrix.tolist(), "classes": classes}
    labels = [{"label": name, "split": "train", "count": "5"} for name in names]
    page = _page(replace(inputs, results=results, labels=labels))
    text = Elements(page).text
    assert "The 30 largest of 300 classes" in text
    assert "lowest F1 of 300 classes" in text
    assert re.search(r"class 7\s+class 8\s+99", text)
    assert len(page) < 400_000


def test_an_unlabelled_test_split_leaves_validation(tmp_path: Path) -> None:
    world = ReportWorld.make(tmp_path, "single_label_classification", labelled_test=False)
    text = Elements(world.report(attributions=1).html()).text
    assert "Test has no labels" in text
    assert "Rows of validation with the highest loss" in text


def test_scores_of_another_model_are_refused(copied: Outputs) -> None:
    results = json.loads((copied.reports / "all_results.json").read_text(encoding="utf-8"))
    write_json(copied.reports / "all_results.json", {**results, "model": "0" * 64})
    with pytest.raises(SeqtrackError, match="the scores are those of another model"):
        read_inputs(copied)


def test_a_missing_report_is_named(copied: Outputs) -> None:
    (copied.reports / "history.csv").unlink()
    with pytest.raises(SeqtrackError, match=r"history\.csv: file not found; run `dvc repro`"):
        read_inputs(copied)


def _page(inputs: Inputs) -> str:
    weights = Weights(total=10, trained=4, adapters=None)
    return Report(inputs=inputs, weights=weights, explained=(), suspects=None).html()


def test_frozen_weights_are_not_counted_as_trained() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    assert Weights.of(model, {"freeze": ["0.*"], "lora": None}) == Weights(total=13, trained=4, adapters=None)
    assert "rank 8" in str(Weights.of(model, {"freeze": [], "lora": {"r": 8}}).adapters)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 17.0), (0.0, 1e-6), (1e5, 1e9), (2.0, 2.0)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 12
    assert all(low - 1e-9 * abs(high) <= tick <= high * (1 + 1e-9) for tick in found)


# attributions


@pytest.fixture
def world(single: ReportWorld) -> World:
    return single.world


@pytest.mark.parametrize("target", range(3))
def test_weights_add_up_to_the_difference_they_explain(world: World, target: int) -> None:
    text = "goal match, money bank $5 chip"
    found = explain(world.classifier, text, None, target)
    assert "".join(word.text for word in found.words) == text
    inputs = world.classifier.encoder.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = world.classifier.model(**inputs).logits[0]
    assert found.output == pytest.approx(logits[target].item(), abs=1e-5)
    total = sum(word.weight or 0 for word in found.words)
    difference = found.output - found.baseline
    assert abs(difference) > 0.01
    assert total == pytest.approx(difference, abs=max(0.005, 0.02 * abs(difference)))
    assert found.completeness_error == pytest.approx(total - difference)


def test_weights_are_those_of_captum_and_of_a_sum_by_hand(world: World) -> None:
    text, target = "goal match money", 1
    found = explain(world.classifier, text, None, target)
    weights = [word.weight for word in found.words if word.weight is not None]
    model: Any = world.classifier.model
    inputs = world.classifier.encoder.tokenizer(text, return_tensors="pt")
    ids = inputs["input_ids"]
    padding = ids.clone()
    padding[0, 1:-1] = 0

    plain = LayerIntegratedGradients(lambda ids: model(input_ids=ids).logits, model.get_input_embeddings())
    theirs = plain.attribute(ids, padding, target=target, n_steps=found.steps).sum(-1)[0, 1:-1]
    assert weights == pytest.approx(theirs.tolist(), abs=1e-4)

    embed = model.get_input_embeddings()
    start, end = embed(padding).detach(), embed(ids).detach()
    gradients = []
    for step in range(400):  # the midpoint rule
        at = (start + (end - start) * (step + 0.5) / 400).requires_grad_(True)
        model(inputs_embeds=at, attention_mask=inputs["attention_mask"]).logits[0, target].backward()
        gradients.append(at.grad)
    by_hand = ((end - start) * torch.stack(gradients).mean(0)).sum(-1)[0, 1:-1]
    assert weights == pytest.approx(by_hand.tolist(), abs=1e-3)


def test_pairs_of_texts_have_weights_on_both_sides(world: World) -> None:
    found = explain(world.classifier, "goal money", "bank code", 0)
    assert found.pair_words is not None
    for words, text in ((found.words, "goal money"), (found.pair_words, "bank code")):
        assert "".join(word.text for word in words) == text
        assert [word.weight is None for word in words] == [False, True, False]


def test_what_the_model_never_read_has_no_weight(world: World) -> None:
    text = "goal " * 40 + "end"
    found = explain(world.classifier, text, None, 0)
    assert "".join(word.text for word in found.words) == text
    assert sum(word.weight is not None for word in found.words) == 30  # of 32 tokens, two are special
    assert found.words[-1].weight is None
    assert found.words[-1].text.strip().endswith("end")


def test_pieces_of_words_are_joined_but_not_in_scripts_without_spaces() -> None:
    joined = merged(
        "unbelievable, 好吃!", [(0, 2, 1.0), (2, 9, 2.0), (9, 12, 3.0), (12, 13, 4.0), (14, 15, 5.0), (15, 16, 6.0)]
    )
    assert [(word.text, word.weight) for word in joined] == [
        ("unbelievable", 6.0),
        (",", 4.0),
        (" ", None),
        ("好", 5.0),
        ("吃", 6.0),
        ("!", None),
    ]
    # The space before a word as a part of it; two tokens of one character.
    spaced = merged("a bé", [(0, 1, 1.0), (1, 3, 2.0), (3, 4, 3.0), (3, 4, 4.0)])
    assert [(word.text, word.weight) for word in spaced] == [("a", 1.0), (" ", None), ("bé", 9.0)]


def test_the_surest_wrong_decision_is_explained() -> None:
    error = {"predicted": ["体育", "tech"], "label": ["体育", "business"]}
    chances = {"体育": 0.9, "business": 0.1, "tech": 0.8}
    assert target_of(SETS, {**error, "probabilities": chances}) == "business"
    assert target_of(replace(SETS, problem_type="single_label_classification"), {"predicted": "tech"}) == "tech"
    assert target_of(LabelSet(problem_type="regression", names=()), {"predicted": 1.5}) is None


def test_errors_are_explained_worst_first(made: ReportWorld) -> None:
    inputs = read_inputs(made.outputs)
    found = explain_errors(inputs, made.classifier(), 2)
    wanted = [error["row_id"] for error in inputs.errors if error["split"] == "test"][:2]
    assert [each.error["row_id"] for each in found] == wanted
    text = Elements(made.report(attributions=2).html()).text
    assert text.count("The weights add up to") == 2


# label errors


class Topics:
    """Stands for an encoder: a vector per text, near to that of its first word, far from it in a few texts."""

    def embed(self, texts: list[str], on_batch: Any = lambda _: None) -> np.ndarray:
        generator = np.random.default_rng(0)
        places = [sum(map(ord, text.split()[0])) % 8 for text in texts]
        noise = generator.exponential(0.05, (len(texts), 1)) * generator.normal(size=(len(texts), 8))
        vectors = (np.eye(8)[places] + noise).astype(np.float32)
        on_batch(len(texts))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _rows(labels: list[str], texts: list[str]) -> pa.Table:
    return pa.table({"text": texts, "text_pair": pa.nulls(len(texts), pa.string()), "label": labels})


def test_planted_wrong_labels_are_found() -> None:
    words = ("aa", "ab", "ac")
    texts = [f"{words[row % 3]} row {row}" for row in range(300)]
    labels = [NAMES[row % 3] for row in range(300)]
    flipped = np.random.default_rng(3).choice(300, 12, replace=False).tolist()
    for row in flipped:
        labels[row] = NAMES[(row + 1) % 3]
    known = LabelSet(problem_type="single_label_classification", names=NAMES)
    found = find_label_errors(known, _rows(labels, texts), Topics())  # type: ignore[arg-type]
    assert found.judged == 300
    assert sorted(suspect.row for suspect in found.suspects) == sorted(flipped)
    assert all(suspect.suggested == NAMES[suspect.row % 3] for suspect in found.suspects)
    assert all(suspect.label == labels[suspect.row] for suspect in found.suspects)
    assert all(suspect.chance < 0.5 for suspect in found.suspects)
    assert found == find_label_errors(known, _rows(labels, texts), Topics())  # type: ignore[arg-type]


def test_a_class_too_rare_is_not_judged() -> None:
    labels = [NAMES[row % 2] for row in range(40)] + [NAMES[2]] * (FOLDS - 1)
    texts = [f"{['aa', 'ab'][row % 2]} {row}" for row in range(len(labels))]
    known = LabelSet(problem_type="single_label_classification", names=NAMES)
    assert find_label_errors(known, _rows(labels, texts), Topics()).judged == 40  # type: ignore[arg-type]


def test_a_missing_and_a_superfluous_label_are_found() -> None:
    words = ("aa", "ab", "ac")
    texts = [f"{words[row % 3]} row {row}" for row in range(120)]
    sets = [[NAMES[row % 3]] for row in range(120)]
    sets[6], sets[10] = [], [NAMES[1], NAMES[2]]
    rows = _rows([json.dumps(names, ensure_ascii=False) for names in sets], texts)
    found = find_label_errors(SETS, rows, Topics())  # type: ignore[arg-type]
    assert {(suspect.row, suspect.label, suspect.suggested) for suspect in found.suspects} == {
        (6, NAMES[0], NAMES[0]),
        (10, NAMES[2], None),
    }


def test_suspects_are_on_the_page(single: ReportWorld) -> None:
    errors = label_errors.LabelErrors(
        judged=3, accuracy=0.5, suspects=(label_errors.Suspect(row=0, label="tech", suggested="体育", chance=0.01),)
    )
    row = {"text": EVIL, "text_pair": None, "label": "tech", "source": "a.csv", "line": 3, "split": "train"}
    report = replace(single.report(), suspects=FoundSuspects(encoder="some/encoder", errors=errors, rows=[row]))
    text = Elements(report.html()).text
    for told in ("some/encoder", "probably: 体育", "chance of tech: 1.0%", "a.csv:3", "1 of 1 suspects"):
        assert told in text
    assert "report.label_errors: true" in Elements(single.report().html()).text


def test_a_report_is_built_from_the_folders_alone(single: ReportWorld) -> None:
    split = load_params(REPOSITORY / "params.yaml").split.model_copy(
        update={"semantic_model": str(single.outputs.model)}  # any encoder will do
    )
    settings = params.Report(attributions=1, label_errors=True)
    built = build_report(single.outputs, settings, split)
    assert len(built.explained) == 1
    assert built.suspects is not None
    assert built.suspects.errors.judged == 60
    assert {row["split"] for row in built.suspects.rows} == {"validation", "test"}
    text = Elements(built.html()).text
    assert "It judged 60 of 60 labelled rows" in text
    assert built.html() == build_report(single.outputs, settings, split).html()


def test_without_cleanlab_the_command_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_errors.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SeqtrackError, match=r'cleanlab is not installed; install the extra: .*"\.\[label-errors\]"'):
        require_cleanlab()


def test_what_it_was_trained_on_is_told(single: ReportWorld) -> None:
    text = Elements(single.report().html()).text
    assert "cpu, 1 process(es) of 3 thread(s)" in text
    assert "torch 2.x" in text
