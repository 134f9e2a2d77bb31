"""run_key: another training, another key; the same training, the same key."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import identity
from pipeline.identity import Identity, ProcessLayout, Training, differences
from pipeline.labels import LabelSet
from pipeline.model_source import ModelSource
from pipeline.outputs import write_manifest
from pipeline.params import Model
from tests.toy import recipe


@dataclasses.dataclass
class Ingredients:
    folder: Path
    train: dict[str, Any] = dataclasses.field(default_factory=dict)
    revision: str | None = None
    name: str = "team/encoder"
    layout: dict[str, Any] = dataclasses.field(default_factory=dict)
    total_batch_size: int = 4

    def key(self) -> str:
        return self.identity().run_key()

    def identity(self) -> Identity:
        layout = {"world_size": 1, "device": "cpu", "threads": 2, "mixed_precision": "bf16"} | self.layout
        return Identity.of(
            tokenized=self.folder / "tokenized",
            splits=self.folder / "splits",
            labels=self.folder / "labels.json",
            train=recipe(**self.train),
            model=Model(name_or_path=self.name, revision=self.revision, trust_remote_code=False),
            source=ModelSource(name=self.name, folder=self.folder / "base", commit=None),
            layout=ProcessLayout(**layout),
            total_batch_size=self.total_batch_size,
        )


@pytest.fixture
def ingredients(tmp_path: Path) -> Ingredients:
    for name in ("tokenized", "splits", "base"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    for name in ("tokenized", "splits"):
        write_manifest(tmp_path / name, inputs={}, params={}, rows={})
    LabelSet(problem_type="single_label_classification", names=("a", "b")).write(tmp_path / "labels.json")
    return Ingredients(tmp_path)


def rewritten(name: str) -> Callable[[Ingredients], None]:
    def change(of: Ingredients) -> None:
        (of.folder / name / "file").write_text("changed")
        write_manifest(of.folder / name, inputs={}, params={}, rows={})

    return change


def reordered_labels(of: Ingredients) -> None:
    """The rows are the same, and so are tokens and splits; what class 0 is, is not."""
    LabelSet(problem_type="single_label_classification", names=("b", "a")).write(of.folder / "labels.json")


CHANGES: dict[str, Callable[[Ingredients], Any]] = {
    "tokens": rewritten("tokenized"),
    "splits": rewritten("splits"),
    "labels": reordered_labels,
    "weights": lambda of: (of.folder / "base" / "file").write_text("changed"),
    "seed": lambda of: of.train.update(seed=99),
    "learning rate": lambda of: of.train.update(learning_rate=1e-9),
    "epochs": lambda of: of.train.update(num_train_epochs=9),
    "metric": lambda of: of.train.update(metric_for_best_model="loss"),
    "model name": lambda of: setattr(of, "name", "team/other"),
    "revision": lambda of: setattr(of, "revision", "v2"),
    "processes": lambda of: of.layout.update(world_size=2),
    "device": lambda of: of.layout.update(device="cuda"),
    "threads": lambda of: of.layout.update(threads=1),
    "total batch": lambda of: setattr(of, "total_batch_size", 8),
    "precision": lambda of: of.layout.update(mixed_precision="no"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_ingredient_counts(ingredients: Ingredients, name: str) -> None:
    before = ingredients.key()
    CHANGES[name](ingredients)
    assert ingredients.key() != before


def test_code_and_libraries_count(ingredients: Ingredients, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ingredients.key()
    with monkeypatch.context() as patch:
        patch.setattr(identity, "version", lambda _: "9.9")
        assert ingredients.key() != before
    with monkeypatch.context() as patch:
        patch.setattr(identity, "code_digest", lambda _: "other")
        assert ingredients.key() != before
    assert ingredients.key() == before


def test_how_often_state_is_saved_does_not_count(ingredients: Ingredients) -> None:
    before = ingredients.key()
    ingredients.train["checkpoint"] = {"every": "3 minutes", "keep": 9, "log_to_mlflow": "none"}
    ingredients.train["resume_from"] = "elsewhere"
    assert ingredients.key() == before
    assert len(before) == 64


def test_what_forbids_to_go_on_is_told_from_what_only_rounds(ingredients: Ingredients) -> None:
    before = ingredients.identity()
    ingredients.train.update(
        learning_rate=3e-5, num_train_epochs=9, per_device_train_batch_size=2, gradient_accumulation_steps=2
    )
    ingredients.layout.update(world_size=2, device="cuda")
    ingredients.name = "team/elsewhere"  # the same files
    rewritten("splits")(ingredients)
    found = differences(before, ingredients.identity())
    assert [(difference.name, difference.kind) for difference in found] == [
        ("splits", "other"),
        ("train.learning_rate", "other"),
        ("train.num_train_epochs", "longer"),
        ("layout.device", "rounding"),
        ("layout.world_size", "rounding"),
        ("train.gradient_accumulation_steps", "rounding"),
        ("train.per_device_train_batch_size", "rounding"),
    ]
    assert str(found[1]) == "train.learning_rate: checkpoint 0.005, now 3e-05"
    assert str(found[0]) == f"splits: checkpoint {before.splits[:10]}, now {ingredients.identity().splits[:10]}"


@pytest.mark.parametrize(
    "change",
    [
        lambda of: of.train.update(num_train_epochs=1),
        lambda of: setattr(of, "total_batch_size", 8),
        CHANGES["weights"],
        CHANGES["labels"],
        CHANGES["seed"],
    ],
)
def test_other_trainings_are_other(ingredients: Ingredients, change: Callable[[Ingredients], Any]) -> None:
    before = ingredients.identity()
    change(ingredients)
    assert [difference.kind for difference in differences(before, ingredients.identity())] == ["other"]


def test_going_on_from_the_same_training_keeps_its_key(ingredients: Ingredients) -> None:
    first = Training(run_key=ingredients.key(), identity=ingredients.identity())
    assert ingredients.identity().run_key(first) == first.run_key
    ingredients.train.update(num_train_epochs=9)
    longer = ingredients.identity()
    extended = Training(run_key=longer.run_key(first), identity=longer)
    # Not what nine epochs from scratch would be, and the same wherever it is started again.
    assert len({first.run_key, longer.run_key(), extended.run_key}) == 3
    assert longer.run_key(extended) == extended.run_key
    assert Training.from_json(dataclasses.asdict(extended), "here") == extended
