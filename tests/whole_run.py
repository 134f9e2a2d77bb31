"""All stages up to evaluate, in this process and the working folder, for a tiny model of each kind of task."""

from __future__ import annotations

import csv
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.labels import ProblemType
from pipeline.params import Params, load_params
from stages.evaluate import evaluate
from stages.fetch import fetch
from stages.split import split
from stages.tokenize import tokenize
from stages.train import train
from stages.validate import validate
from stages.vocabulary import vocabulary
from tests.tiny import save_tiny_encoder
from tests.toy import FILLER, REPOSITORY, WORDS, accelerator

NAMES = ("bad", "good", "other")
MORE = tuple(f"word{number}" for number in range(30))


def set_params(**changes: Any) -> Params:
    """Write params.yaml into the working folder, dotted keys with `__` for the dots, and return it."""
    yaml = YAML()
    own = Path("params.yaml")
    document = yaml.load(own if own.exists() else REPOSITORY / "params.yaml")
    for dotted, value in changes.items():
        *parents, name = dotted.split("__")
        node = document
        for part in parents:
            node = node[part]
        node[name] = value
    yaml.dump(document, own)
    return load_params()


def write_rows(file: Path, task: ProblemType, *, pairs: bool, count: int = 90) -> None:
    """Write made-up rows, of which none is a duplicate of another."""
    draw = random.Random(3)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "text_pair", "label"] if pairs else ["text", "label"])
        for number in range(count):
            groups = [number % 3] if task == "single_label_classification" else [n for n in range(3) if number >> n & 1]
            words = [*(draw.choice(WORDS[group]) for group in groups), *draw.choices(MORE, k=6), *draw.choices(FILLER)]
            label = {
                "single_label_classification": NAMES[groups[0]] if groups else "",
                "multi_label_classification": "|".join(NAMES[group] for group in groups) or "none",
                "regression": str(1.5 + sum((3.25, -2, 1)[group] for group in groups)),
            }[task]
            texts = [" ".join(words), " ".join(draw.choices(MORE, k=5))] if pairs else [" ".join(words)]
            writer.writerow([*texts, label])


@contextmanager
def whole_run(
    folder: Path, root: Path, task: ProblemType = "single_label_classification", *, pairs: bool = False, **changes: Any
) -> Iterator[Params]:
    """Run the stages in an empty folder, and stay in it.

    Args:
        folder: becomes the working folder.
        root: of the repository whose MLflow store is used.
        task: what the labels are.
        pairs: whether rows have two texts.
        changes: of params.yaml.
    """
    folder.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
            patch.delenv(name, raising=False)
        patch.setenv("DVC_ROOT", str(root))
        patch.setenv("ACCELERATE_MIXED_PRECISION", "no")
        write_rows(Path("rows.csv"), task, pairs=pairs)
        save_tiny_encoder(Path("encoder"), [" ".join((*MORE, *FILLER, *(word for group in WORDS for word in group)))])
        params = set_params(
            fetch__source="none",
            data__path="rows.csv",
            data__problem_type=task,
            data__label_delimiter="|" if task == "multi_label_classification" else None,
            split__assignment="exact",
            split__ratios={"train": 0.5, "validation": 0.25, "test": 0.25},
            model__name_or_path="encoder",
            tokenize__max_length=24,
            train__num_train_epochs=8,
            train__learning_rate=1e-2,
            evaluate__bootstrap_samples=100,
            **changes,
        )
        accelerator()
        for stage in (fetch, validate, split, vocabulary, tokenize, train, evaluate):
            stage(params)
        yield params


def enter_copy(finished: Path, folder: Path, root: Path, patch: pytest.MonkeyPatch) -> None:
    """Go to a copy of a folder in which `whole_run` was, so that a test may change it."""
    shutil.copytree(finished, folder)
    patch.chdir(folder)
    patch.setenv("DVC_ROOT", str(root))
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
