"""The trained model and its scores as they lie on disk, checked to be of one training: what register and card go by.

Promises: each file of the model folder is the one that train wrote, and the scores are of this model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.columns import Columns, read_columns
from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet
from pipeline.outputs import Json, folder_digest, read_json, read_manifest, sha256_file
from pipeline.paths import COLUMNS

LABELS_FILE: Final = "labels.json"
SPLITS: Final = ("test", "validation")  # the one that scores are first told of where it has some


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model and its scores.

    Attributes:
        folder: what train wrote.
        digest: of the folder.
        run_key: of the training.
        manifest: the folder's.
        labels: the task and the classes.
        columns: what the model reads; None for a model of an earlier version.
        results: what all_results.json holds.
        metrics: numbers of metrics.json by `<split>.<name>`.
    """

    folder: Path
    digest: str
    run_key: str
    manifest: dict[str, Json]
    labels: LabelSet
    columns: Columns | None
    results: dict[str, Json]
    metrics: dict[str, float]

    @property
    def pairs(self) -> bool:
        """Whether the model reads pairs of texts."""
        return self.columns is not None and self.columns.text_pair is not None

    @property
    def split(self) -> str:
        """The split that scores are first told of: test, or validation where test has no labels."""
        return next(name for name in SPLITS if name in self.results["splits"])

    @property
    def base_model(self) -> str:
        """What the training started from, as params.yaml names it; a local folder by its last part alone."""
        model = self.manifest["params"]["model"]
        if (scratch := model.get("from_scratch")) is not None:
            return f"a {scratch['model_type']} from scratch"
        name: str = model["name_or_path"]
        return Path(name).name if is_local(name) else name


def is_local(name: str) -> bool:
    """Return whether model.name_or_path is a folder of this machine's, by its form or because there is one."""
    if name.startswith("package:"):
        return False
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).is_dir()


def read_trained(folder: Path, reports: Path) -> Trained:
    """Read a model and its scores.

    Args:
        folder: what train wrote.
        reports: where evaluate wrote metrics.json and all_results.json.

    Raises:
        SeqtrackError: something is missing, a file of the model is not the one that train wrote, or the scores are of
            another model.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    metrics, results = read_json(reports / "metrics.json"), read_json(reports / "all_results.json")
    digest = folder_digest(folder)
    if results["model"] != digest:
        raise SeqtrackError(
            "scores of another model",
            where=str(reports / "all_results.json"),
            expected=f"those of model {digest[:10]}, run_key {manifest['run_key'][:10]}",
            found=f"model {results['model'][:10]}, run_key {results['run_key'][:10]}",
            fix="run `dvc repro evaluate`",
        )
    for split, found in results["splits"].items():
        if any(metrics.get(split, {}).get(name) != value for name, value in found["metrics"].items()):
            raise SeqtrackError(
                f"other scores of {split} than all_results.json has",
                where=str(reports / "metrics.json"),
                fix="run `dvc repro evaluate`",
            )
    return Trained(
        folder=folder,
        digest=digest,
        run_key=manifest["run_key"],
        manifest=manifest,
        labels=LabelSet.read(folder / LABELS_FILE),
        columns=read_columns(folder / COLUMNS.name),
        results=results,
        metrics={f"{split}.{name}": value for split, found in metrics.items() for name, value in found.items()},
    )


def check_files(folder: Path, manifest: dict[str, Json]) -> None:
    """Check that each file that a manifest names is the one it was written for.

    Raises:
        SeqtrackError: one is missing or another one.
    """
    for name, wanted in manifest["files"].items():
        file = folder / name
        found = sha256_file(file) if file.is_file() else None
        if found != wanted:
            raise SeqtrackError(
                "not the file that train wrote",
                where=str(file),
                expected=f"sha256 {wanted[:10]}",
                found="no file" if found is None else f"sha256 {found[:10]}",
                fix=f"run `dvc checkout {folder.as_posix()}`, or `dvc repro`",
            )
