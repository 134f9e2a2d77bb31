"""A clone of the project in a temporary folder, for tests that run real dvc, accelerate and mlflow in it."""

from __future__ import annotations

import csv
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from ruamel.yaml import YAML

from pipeline.code import HOME
from tests.tiny import save_tiny_encoder

LABEL_WORDS = {
    "good": ("great", "lovely", "fine", "superb", "tasty", "warm", "friendly", "quick"),
    "bad": ("awful", "cold", "slow", "rude", "bland", "broken", "dirty", "late"),
}
FILLERS = ("the", "food", "was", "here", "today", "staff", "place", "table", "menu", "again", "we", "they", "really")


def clean_environment() -> dict[str, str]:
    """Return the environment of a newcomer: this interpreter first, offline, no settings of ours or of DVC's."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DVC_", "MLFLOW_", "HF_", "ACCELERATE_", "PYTEST_")) and name != "PYTHONPATH"
    }
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "200",
    }


@dataclass(frozen=True)
class Clone:
    """A working copy with a git repository of its own."""

    folder: Path

    @staticmethod
    def make(folder: Path) -> Clone:
        """Copy what git tracks or would track, and commit it."""
        listing = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=HOME,
            check=True,
            capture_output=True,
            text=True,
        )
        for name in filter(None, listing.stdout.split("\0")):
            if (HOME / name).is_file():  # a tracked file may be deleted in the working copy
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(HOME / name, target)
        clone = Clone(folder)
        clone.run("git", "init", "-q", ".")
        clone.run("git", "config", "user.email", "test@example.com")
        clone.run("git", "config", "user.name", "test")
        clone.commit("start")
        return clone

    def again(self, folder: Path) -> Clone:
        """Clone this repository as git does: the committed files, no cache, no data, no checkpoints."""
        self.run("git", "clone", "--quiet", ".", str(folder))
        return Clone(folder)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the clone and return it with its output; fail with that output."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
        return done

    def stages_run(self, *command: str) -> list[str]:
        """Run a dvc command and return the stages that it really executed, in order."""
        return re.findall(r"^Running stage '(\w+)'", self.run(*command).stdout, re.MULTILINE)

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--allow-empty", "--message", message)

    def set_params(self, **changes: object) -> None:
        """Change params.yaml: dotted keys with `__` for the dots."""
        yaml = YAML()
        path = self.folder / "params.yaml"
        document = yaml.load(path)
        for dotted, value in changes.items():
            *parents, name = dotted.split("__")
            node = document
            for part in parents:
                node = node[part]
            node[name] = value
        yaml.dump(document, path)

    def lock(self) -> dict[str, dict[str, str]]:
        """Return the digests of all outputs, by stage and path, as dvc.lock has them."""
        stages = YAML(typ="safe").load(self.folder / "dvc.lock")["stages"]
        return {name: {out["path"]: out["md5"] for out in stage["outs"]} for name, stage in stages.items()}

    def launch_flags(self) -> list[str]:
        """Return the `launch` section as dvc.yaml expands it."""
        launch = YAML(typ="safe").load(self.folder / "params.yaml")["launch"]
        flags = []
        for name, value in launch.items():
            if value is not False:
                flags += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return flags

    def checkpoint_steps(self) -> list[int]:
        """Return the steps of all checkpoints on disk, in order."""
        return sorted(int(folder.name[-9:]) for folder in self.folder.glob(".seqtrack/checkpoints/*/step-*"))

    def mlflow_client(self) -> MlflowClient:
        """Return a client of the clone's own store."""
        return MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")

    def mlflow_runs(self) -> list[Run]:
        """Return all runs in the clone's own store, oldest first."""
        client = self.mlflow_client()
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_runs(experiments, order_by=["attributes.start_time ASC"]))


def make_small(clone: Clone, encoder: Path) -> None:
    """Set a clone up to run in seconds: 240 made-up reviews of the user's own, and a tiny encoder."""
    draw = random.Random(1)
    texts, labels = [], []
    for number in range(240):
        label = ("good", "bad")[number % 2]
        words = draw.choices(FILLERS, k=10) + draw.choices(LABEL_WORDS[label], k=3)
        draw.shuffle(words)
        texts.append(" ".join(words))
        labels.append(label)
    reviews = clone.folder / "data" / "raw" / "reviews.csv"
    reviews.parent.mkdir(parents=True)
    with reviews.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["review", "sentiment"])
        writer.writerows(zip(texts, labels, strict=True))
    if not encoder.exists():
        save_tiny_encoder(encoder, texts)
    clone.set_params(
        fetch__source="none",
        data__path="data/raw/reviews.csv",
        model__name_or_path=str(encoder),
        tokenize__max_length=32,
        train__num_train_epochs=2,
        train__learning_rate=3e-3,
        launch__num_cpu_threads_per_process=1,
    )
    clone.commit("small")
