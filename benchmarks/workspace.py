"""A folder in which stages run as they do in a repository, for benchmarks that measure them whole.

Promises: params.yaml there is the repository's but for the settings given; stages run in processes of their own;
nothing outside the folder changes. To be used from the repository's top folder.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import ROOT, Process, run_program
from pipeline import presets
from pipeline.labels import LabelSet
from pipeline.outputs import read_manifest
from pipeline.params import Launch, Params, load_params
from pipeline.paths import LABELS, MODEL, PARAMS_FILE, ROWS, SPLITS
from pipeline.rows import read_row_ids, select_rows
from pipeline.targets import read_targets

PACE = Path("pace.jsonl")  # where benchmarks.listener writes
SHARED = Path(os.environ.get("SEQTRACK_DATA", ROOT.parent / "shared" / "data"))
BEFORE_TRAIN = ("fetch", "validate", "split", "tokenize")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run of the train stage took.

    Attributes:
        process: the stage with its launcher, from start to end.
        rows: of the train split.
        steps: optimisation steps.
        samples: rows learnt from, each as often as it came.
        step_seconds: of all steps, with what is done between them, without evaluations.
        closing_seconds: from the last evaluation until the last checkpoint is on disk and in MLflow.
        accuracy: on the validation split after the last step.
        device_mib: GPU memory held by the process, None without a GPU.
    """

    process: Process
    rows: int
    steps: int
    samples: int
    step_seconds: float
    closing_seconds: float
    accuracy: float
    device_mib: float | None

    @property
    def samples_per_second(self) -> float:
        """Return the rate of training without evaluations, the last checkpoint's writing included."""
        return self.samples / (self.step_seconds + self.closing_seconds)


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A folder with params.yaml, and what stages wrote there."""

    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)

    def set_up(self, settings: Mapping[str, Any]) -> Workspace:
        """Write params.yaml with these settings (dotted keys) besides those set before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        every = {**self.settings, **settings}
        path = self.folder / PARAMS_FILE
        path.write_bytes((ROOT / PARAMS_FILE).read_bytes())
        presets.apply("default", every, path)
        (self.folder / "dvc.yaml").write_text("")  # what makes it a repository
        return Workspace(folder=self.folder, settings=every)

    def params(self) -> Params:
        return load_params(self.folder / PARAMS_FILE)

    def run(self, *stages: str) -> None:
        for stage in stages:
            run_program([sys.executable, "-m", f"stages.{stage}"], self.folder)

    def train(self) -> Trained:
        """Run the train stage from its start, as dvc.yaml does, and clean up behind it."""
        workspace = self.set_up({"train.custom.callbacks": ["benchmarks.listener:Pace"]})
        params = workspace.params()
        command = [sys.executable, "-m", "stages.launch", *launch_flags(params.launch), "-m", "stages.train"]
        for left in (".seqtrack", "mlartifacts", str(MODEL)):  # or it would go on where the last one ended
            shutil.rmtree(self.folder / left, ignore_errors=True)
        process = run_program(command, self.folder)
        told = [json.loads(line) for line in (self.folder / PACE).read_text().splitlines()]
        rows = int(read_manifest(self.folder / MODEL)["rows"]["train"])
        curve = [line for line in told if line["what"] == "curve"]
        batch = params.train.total_train_batch_size or (
            params.train.per_device_train_batch_size
            * params.train.gradient_accumulation_steps
            * params.launch.num_processes
        )
        seen = [0, *(_rows_until(point["step"], rows, batch) for point in curve)]
        laps = zip(itertools.pairwise(seen), curve, strict=True)
        evaluations = [line for line in told if line["what"] == "evaluation"]
        return Trained(
            process=process,
            rows=rows,
            steps=curve[-1]["step"],
            samples=seen[-1],
            step_seconds=sum((end - start) / point["samples_per_second"] for (start, end), point in laps),
            closing_seconds=told[-1]["at"] - evaluations[-1]["at"],
            accuracy=evaluations[-1]["metrics"]["accuracy"],
            device_mib=max((line["device_mib"] for line in told if line["device_mib"]), default=None),
        )

    def write_split(self, split: str, path: Path) -> None:
        """Write the labelled rows of a split as JSON Lines: `text`, perhaps `text_pair`, and `label`, its number."""
        ids = read_row_ids(self.folder / SPLITS / f"{split}.parquet")
        rows = select_rows(self.folder / ROWS, ids, ["row_id", "text", "text_pair", "label"])
        known, targets = read_targets(LabelSet.read(self.folder / LABELS), rows["label"])
        with path.open("w", encoding="utf-8") as out:
            for row, target in zip(rows.filter(known).to_pylist(), np.asarray(targets).tolist(), strict=True):
                texts = {name: row[name] for name in ("text", "text_pair") if row[name] is not None}
                out.write(json.dumps({**texts, "label": target}) + "\n")


def launch_flags(launch: Launch) -> list[str]:
    """Return the flags that DVC makes of the launch section."""
    flags = []
    for name, value in launch.model_dump(exclude_unset=True).items():
        if value is True:
            flags.append(f"--{name}")
        elif value is not False:
            flags += [f"--{name}", str(value)]
    return flags


def real_rows(folder: Path, limit: int | None) -> Workspace:
    """Return a workspace on MRPC where SEQTRACK_DATA has it, else on the bundled sample, up to the tokenize stage.

    Args:
        folder: where to.
        limit: rows of each file to keep, evenly spread over it; None keeps all.
    """
    if (SHARED / "glue_official" / "MRPC").is_dir():
        source = {"fetch.source": "glue", "fetch.name": "mrpc", "fetch.path": str(SHARED / "glue_official")}
    else:
        source = {}
    workspace = Workspace(folder=folder).set_up(source)
    workspace.run("fetch")
    if limit is not None:
        given = folder / "given"
        given.mkdir()
        for file in (folder / "data" / "fetched").glob("*.jsonl"):
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            chosen = np.linspace(0, len(lines) - 1, min(limit, len(lines))).astype(int)
            (given / file.name).write_text("".join(lines[place] for place in chosen), encoding="utf-8")
        workspace = workspace.set_up({"data.path": "given"})
    workspace.run("validate", "split", "tokenize")
    return workspace


def name_of_rows(workspace: Workspace) -> str:
    return "MRPC" if workspace.settings.get("fetch.name") == "mrpc" else "BBC News sample"


def _rows_until(step: int, rows: int, batch: int) -> int:
    """Return how many rows come in the first `step` steps; the last step of an epoch may have fewer than others."""
    epochs, within = divmod(step, -(-rows // batch))
    return epochs * rows + min(rows, within * batch)
