"""The model card: metadata that the hub reads, numbers of the reports, an example that runs."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from pipeline.model_card import card
from pipeline.outputs import read_json, write_json
from pipeline.params import load_params
from pipeline.paths import MODEL, REPORTS
from pipeline.trained import read_trained
from stages.card import card as stage
from tests.whole_run import NAMES, enter_copy, set_params

FILE = REPORTS / "model_card.md"


@pytest.fixture(autouse=True)
def work(finished: Path, mlflow_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter_copy(finished, tmp_path / "work", mlflow_root, monkeypatch)
    return tmp_path


def written() -> str:
    return card(read_trained(MODEL, REPORTS), load_params().register_)


def test_the_hub_reads_scores_and_facts_from_it() -> None:
    stage(load_params())
    content = FILE.read_text(encoding="utf-8")
    data = ModelCard(content).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "text-classification"
    assert data.license is None
    metrics = read_json(REPORTS / "metrics.json")
    assert data.eval_results
    for result in data.eval_results:
        assert result.metric_value == metrics[result.dataset_split][result.metric_type]
    assert {result.dataset_split for result in data.eval_results} == {"test", "validation"}
    stage(load_params())
    assert FILE.read_text(encoding="utf-8") == content == written()


def test_what_a_reader_should_know_is_in_it() -> None:
    content, test = written(), read_json(REPORTS / "all_results.json")["splits"]["test"]
    low, high = test["intervals"]["accuracy"]
    assert f"| accuracy | {test['metrics']['accuracy']:.4f} | {low:.4f} to " in content
    assert high >= low
    for name in NAMES:
        assert f" | {name} |" in content
    for fact in ("| train | 45 |", "Texts are cut at 24 tokens", "Latin 100.0%", "Scores of test come from 24 rows"):
        assert fact in content
    assert "no verified duplicate crosses splits" in content
    assert read_trained(MODEL, REPORTS).manifest["inputs"]["splits"] in content
    assert str(Path.cwd()) not in content


def test_the_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", written(), re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(example, {})
    assert any(f"'label': '{name}'" in said.getvalue() for name in NAMES)


def test_where_the_licence_comes_from() -> None:
    assert "Base model: `encoder`, licence unknown. This model: licence unknown." in written()
    Path("encoder/README.md").write_text("---\nlicense: mit\n---\n# An encoder\n", encoding="utf-8")
    assert ModelCard(written()).data.license == "mit"
    set_params(register__license="apache-2.0")
    assert ModelCard(written()).data.license == "apache-2.0"
    assert "licence mit. This model: licence apache-2.0." in written()


def test_class_names_cannot_break_a_table() -> None:
    from pipeline.model_card import _table

    assert _table(["a"], [["x|y <b>\n`z`"]]).splitlines()[2] == "| x\\|y &lt;b&gt; 'z' |"


def test_data_of_the_hub_are_named() -> None:
    """Where validate read what fetch wrote; the user's own files are theirs, whatever fetch wrote."""
    fetched = read_json(Path("data/fetched/manifest.json"))
    rows = {"train.jsonl": next(iter(read_json(Path("data/validated/manifest.json"))["inputs"].values()))}
    params = {"source": "hub", "name": "team/reviews", "config": "stars", "revision": None}
    commit = "0123456789abcdef0123456789abcdef01234567"
    write_json(Path("data/fetched/manifest.json"), fetched | {"params": params, "files": rows, "commit": commit})
    content = written()
    data = ModelCard(content).data
    assert data.datasets == ["team/reviews"]
    assert data.eval_results
    assert {(each.dataset_type, each.dataset_config) for each in data.eval_results} == {("team/reviews", "stars")}
    assert f"Source: `team/reviews`, stars, revision `{commit}`" in content
    write_json(Path("data/fetched/manifest.json"), fetched | {"params": params, "files": {"train.jsonl": "0" * 64}})
    assert ModelCard(written()).data.datasets is None
