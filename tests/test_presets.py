"""Presets: each loads, changes what it names and nothing else, and the way back leads to the same bytes."""

from __future__ import annotations

import re
import shutil
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from pipeline import presets
from pipeline.code import HOME
from pipeline.errors import SeqtrackError
from pipeline.glue import TASKS
from pipeline.params import load_params

NAMES = sorted(file.stem for file in (HOME / "presets").glob("*.yaml"))
SHIPPED = (HOME / "params.yaml").read_text(encoding="utf-8")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml and the presets; returns the former."""
    shutil.copytree(HOME / "presets", tmp_path / "presets")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(SHIPPED, encoding="utf-8")
    return tmp_path / "params.yaml"


def values(path: Path) -> dict[str, Any]:
    return load_params(path).flat()


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_loads_and_says_what_it_changed(place: Path, name: str) -> None:
    before = values(place)
    changes = presets.apply(name, {})
    after = values(place)
    assert {key for key in before if before[key] != after.get(key, "a mapping now")} == {
        change.key for change in changes
    }
    assert {change.key for change in changes} <= set(presets.keys(name))
    assert bool(changes) == (name != "default")
    assert presets.apply(name, {}) == []


@pytest.mark.parametrize("name", NAMES)
def test_comments_and_order_stay(place: Path, name: str) -> None:
    changes = presets.apply(name, {})
    lines = zip(SHIPPED.splitlines(), place.read_text(encoding="utf-8").splitlines(), strict=True)
    changed = [(before, after) for before, after in lines if before != after]
    assert len(changed) == len(changes)
    for before, after in changed:
        assert before.partition(":")[0] == after.partition(":")[0]
        assert re.findall(r" (# .*)", before) == re.findall(r" (# .*)", after)


def test_the_way_back_leads_to_the_same_bytes(place: Path) -> None:
    for name in NAMES:
        presets.apply(name, {})
    presets.apply("default", {})
    assert place.read_text(encoding="utf-8") == SHIPPED


def test_one_preset_takes_back_another_but_not_what_the_user_chose(place: Path) -> None:
    presets.apply("stsb", {"model.name_or_path": "bert-base-uncased", "train.learning_rate": 2e-5})
    presets.apply("sst2", {})
    params = load_params(place)
    assert params.data.problem_type is None
    assert params.train.metric_for_best_model == "accuracy"
    assert (params.model.name_or_path, params.train.learning_rate) == ("bert-base-uncased", 2e-5)
    presets.apply("tnews", {})
    assert load_params(place).data.label_names is None
    presets.apply("cola", {})
    params = load_params(place)
    assert params.model.name_or_path.startswith("package:")  # tnews had put its Chinese one there
    assert (params.fetch.config, params.train.learning_rate) == (None, 2e-5)


def test_the_default_has_the_keys_of_all_presets_and_the_values_that_ship(place: Path) -> None:
    everything = {key for name in NAMES for key in presets.keys(name)}
    assert set(presets.keys("default")) == everything
    shipped = YAML(typ="safe").load(place)
    assert {key: reduce(getitem, key.split("."), shipped) for key in everything} == presets.keys("default")


def test_each_glue_task_has_a_preset_with_its_classes_in_glues_order(place: Path) -> None:
    found = {keys["fetch.name"]: keys for name in NAMES if (keys := presets.keys(name))["fetch.source"] == "glue"}
    assert set(found) == {task.config for task in TASKS}
    for task in TASKS:
        # Binary F1 is that of class id 1, in GLUE as here.
        assert tuple(found[task.config].get("data.label_names", ())) == task.classes


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("mprc", {}, r"no preset 'mprc' \(did you mean mrpc\?\); expected one of afqmc, "),
        ("STS-B", {}, r"did you mean stsb\?"),
        ("mrpc", {"fetch.pth": "x"}, r"params\.yaml: no key fetch\.pth; did you mean fetch\.path\?"),
        ("mrpc", {"train.learning_rate": "fast"}, r"params\.yaml:\d+: train\.learning_rate: invalid value"),
    ],
)
def test_a_mistake_changes_nothing(place: Path, name: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(SeqtrackError, match=message):
        presets.apply(name, overrides)
    assert place.read_text(encoding="utf-8") == SHIPPED


@pytest.mark.parametrize("name", NAMES)
def test_flags_mean_the_same_to_dvc(place: Path, name: str) -> None:
    presets.apply("stsb", {})
    flags = presets.flags(name, {"fetch.path": "/data/my-glue", "data.columns": ["*.text.*"]})
    assert flags[::2] == ["-S"] * (len(flags) // 2)
    assert not any(re.search(r"\s", flag) for flag in flags)  # so that $(...) in a shell parts them rightly
    apply_overrides(place, flags[1::2])
    by_flags = values(place)
    place.write_text(SHIPPED, encoding="utf-8")
    presets.apply("stsb", {})
    presets.apply(name, {"fetch.path": "/data/my-glue", "data.columns": ["*.text.*"]})
    assert values(place) == by_flags


@pytest.mark.parametrize(
    ("text", "expected"), [("a.b=1", 1), ("a.b=[x, y]", ["x", "y"]), ("a.b=", None), ("a.b=c=d", "c=d")]
)
def test_overrides_are_yaml(text: str, expected: object) -> None:
    assert presets.parse_override(text) == ("a.b", expected)


@pytest.mark.parametrize("text", ["nonsense", "=1", "a=[1"])
def test_overrides_that_are_none(text: str) -> None:
    with pytest.raises(SeqtrackError):
        presets.parse_override(text)


def test_presets_are_flat_yaml_with_a_line_that_says_what_they_are() -> None:
    for name in NAMES:
        text = (HOME / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
        assert re.match(r"# .{20,120}\.\n", text), name
        assert YAML(typ="safe").load(text)
