"""From a file of predictions back to everything it was made from, each link verified against what lies on disk.

Promises: digests are computed anew, not believed; a link is `ok`, `changed`, `missing`, or `unknown` where nothing here
can tell (an MLflow store out of reach, a hub's model that is not in the cache); nothing is written or downloaded.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pipeline.code import code_digest
from pipeline.errors import SeqtrackError
from pipeline.identity import NOT_IDENTITY, Training
from pipeline.model_source import ModelSource, from_cache, is_local, resolve
from pipeline.outputs import MANIFEST, SCHEMA_VERSION, folder_digest, sha256_file
from pipeline.params import Data, Model, Predict, Split, Tokenize, Train
from pipeline.parts import part_digests
from pipeline.paths import FETCHED, MODEL, PREDICTIONS, ROWS, SPLITS, TOKENIZED, VALIDATED, mlflow_store, root
from pipeline.reading import find_files, format_of, source_name
from pipeline.runs import FoundRun, NoStoreError, run_of_key
from pipeline.submission import FOLDER as SUBMISSIONS

State = Literal["ok", "changed", "missing", "unknown"]
REPRO: Final = "run `dvc repro`"
# Values of params.yaml that train settles: the manifest then has what was meant.
LEFT_TO_TRAINING: Final = {"metric_for_best_model": None, "layerwise_lr_decay": "auto"}
SHOWN: Final = 4  # names in a line, before "and N more"


@dataclass(frozen=True, kw_only=True)
class Link:
    """One thing that predictions come from.

    Attributes:
        name: what it is.
        state: how it stands now.
        told: what was found, in words.
        fix: what to do about it, where it is changed or missing.
        behind: what it was made from in turn.
    """

    name: str
    state: State
    told: str
    fix: str | None = None
    behind: tuple[Link, ...] = ()

    def all(self) -> Iterator[Link]:
        """Iterate over this link and those behind it, nearest the predictions first."""
        yield self
        for link in self.behind:
            yield from link.all()

    @property
    def broken(self) -> Link | None:
        """The first link that is changed or missing; None where all that can be told is sound."""
        return next((link for link in self.all() if link.state in ("changed", "missing")), None)


@dataclass(frozen=True, kw_only=True)
class Sections:
    """Those parts of params.yaml that manifests repeat."""

    data: Data
    split: Split
    tokenize: Tokenize
    model: Model
    train: Train
    predict: Predict


def trace(file: Path, sections: Sections) -> Link:
    """Follow a file of predictions back to its sources.

    Args:
        file: any file in data/predictions, in any format, submissions included; or a copy of one.
        sections: of params.yaml as it is now.

    Raises:
        SeqtrackError: there is no such file, or it was not written by predict.
    """
    if not file.is_file():
        raise SeqtrackError("file not found", where=str(file), expected=f"a file in {PREDICTIONS}")
    folder, name, digest = _home(file)
    if folder is None:
        raise SeqtrackError(
            "no manifest says what this file was made from",
            where=str(file),
            expected=f"a file in {PREDICTIONS}, or a copy of one that is still there",
        )
    manifest = _read(folder)
    if manifest is None or not {"run_key", "predicted"} <= manifest.keys():
        raise SeqtrackError(
            "not a manifest of predictions that this version can read", where=str(folder / MANIFEST), fix=REPRO
        )
    recorded = manifest["files"].get(name)
    link = f"predictions {file}"
    behind = (
        *_inputs(manifest, sections.predict, sections.data),
        _predict_params(manifest, sections.predict),
        _model(manifest, sections),
    )
    if recorded is None:
        return Link(name=link, state="changed", told=f"not in {folder / MANIFEST}", fix=REPRO, behind=behind)
    return _compared(link, recorded, digest, behind=behind)


def _home(file: Path) -> tuple[Path | None, str, str]:
    """Return the folder whose manifest knows a file, the file's name in it, and its digest."""
    digest = sha256_file(file)
    for folder in (file.parent, file.parent.parent):
        if (folder / MANIFEST).is_file() and file.name != MANIFEST:
            return folder, file.relative_to(folder).as_posix(), digest
    manifest = _read(PREDICTIONS)  # a copy, such as those in .seqtrack/submission
    if manifest is not None:
        for name, known in manifest["files"].items():
            if known == digest:
                return PREDICTIONS, name, digest
        # Another prediction of the same test set: the newest one stands in data/predictions.
        if (name := f"{SUBMISSIONS}/{file.name}") in manifest["files"]:
            return PREDICTIONS, name, digest
    return None, file.name, digest


def _inputs(manifest: Mapping[str, Any], predict: Predict, data: Data) -> Iterator[Link]:
    """Yield what was classified."""
    path = Path(predict.path)
    for key, recorded in manifest["inputs"].items():
        source, _, kind = key.rpartition("/")
        name = f"classified {source}: {kind}"
        if kind == "rows":
            yield _of_file(name, ROWS, recorded)
        elif kind == "split":
            yield _of_file(name, SPLITS / f"{source}.parquet", recorded)
        elif kind == "file":
            yield _classified_file(name, source, recorded, path, data)


def _classified_file(name: str, source: str, recorded: str, path: Path, data: Data) -> Link:
    settings = data.model_copy(update={"labels_path": None, "pattern": None})
    fix = f"put it back, or {REPRO}"
    try:
        files = find_files(path, settings)
    except SeqtrackError as error:
        return Link(name=name, state="missing", told=f"predict.path: {error}", fix=fix)
    for file in files:
        if file.name.partition(".")[0] == source or len(files) == 1 or file.stem == source:
            return _compared(f"{name} {file}", recorded, format_of(file, settings).digest(file), fix=fix)
    return Link(name=name, state="missing", told=f"predict.path ({path}) has no file {source}", fix=fix)


def _predict_params(manifest: Mapping[str, Any], predict: Predict) -> Link:
    now = predict.model_dump(mode="json")
    return _same_params("params predict", {k: v for k, v in manifest["params"].items() if k in now}, now)


def _model(predictions: Mapping[str, Any], sections: Sections) -> Link:
    """Return the model folder, and what it was made from."""
    recorded = predictions["inputs"]["model"]
    fix = f"{REPRO}, or `dvc checkout` if it is in the cache"
    manifest = _read(MODEL)
    if manifest is None:
        return Link(name=f"model {MODEL}", state="missing", told=f"no readable {MODEL / MANIFEST}", fix=fix)
    training = _training(manifest)
    behind = (
        _run_key(predictions, manifest, training),
        _run(manifest["run_key"], folder_digest(MODEL)),
        _same_params("params train", manifest["params"]["train"], sections.train.model_dump(mode="json")),
        _same_params("params model", manifest["params"]["model"], sections.model.model_dump(mode="json")),
        *_code(training, sections.train),
        _base_model(training, sections.model),
        _tokens(manifest, sections),
        _splits(manifest, sections),
        _rows(sections),
    )
    return _of_folder(f"model {MODEL}", MODEL, manifest, recorded, behind=behind)


def _training(manifest: Mapping[str, Any]) -> Training | None:
    """Return what the run_key was computed from; None in models of earlier versions."""
    if "identity" not in manifest:
        return None
    return Training.from_json({"run_key": manifest["run_key"], "identity": manifest["identity"]}, str(MODEL / MANIFEST))


def _run_key(predictions: Mapping[str, Any], manifest: Mapping[str, Any], training: Training | None) -> Link:
    name, key = "run_key", manifest["run_key"]
    if predictions["run_key"] != key:
        return _compared(name, predictions["run_key"], key)
    if training is None:
        return Link(name=name, state="unknown", told=f"{_short(key)}, of an earlier version, without its parts")
    if training.identity.run_key() != key:
        told = f"{_short(key)}, which its parts alone do not give: the training went on from another one's checkpoint"
        return Link(name=name, state="unknown", told=told)
    return Link(name=name, state="ok", told=f"{_short(key)}, computed anew from its parts")


def _run(run_key: str, model_digest: str) -> Link:
    """Return the MLflow run and the commit it names."""
    name = "MLflow run"
    try:
        run = run_of_key(run_key)
    except NoStoreError as error:
        return Link(name=name, state="unknown", told=str(error))
    if run is None:
        return Link(
            name=name,
            state="missing",
            told=f"{mlflow_store().tracking_uri} has no run with this run_key",
            fix="point MLFLOW_TRACKING_URI at the store of the training",
        )
    told = f"{run.name} ({run.run_id}) in {run.experiment}, {run.status}"
    if experiment := run.tags.get("dvc.exp_name"):
        told += f", DVC experiment {experiment}"
    logged = run.tags.get("seqtrack.model_digest")
    behind = (_commit(run),)
    if logged is not None and logged != model_digest:
        fix = f"{REPRO}: the run has logged another model than the one on disk"
        return Link(name=name, state="changed", told=f"{told}; its model is {_short(logged)}", fix=fix, behind=behind)
    return Link(name=name, state="ok", told=told, behind=behind)


def _commit(run: FoundRun) -> Link:
    name, commit = "commit", run.tags.get("mlflow.source.git.commit")
    if commit is None:
        return Link(name=name, state="unknown", told="the run names none")
    told = _short(commit) + (" and uncommitted changes" if run.tags.get("seqtrack.git_dirty") == "true" else "")
    try:
        done = subprocess.run(["git", "-C", str(root()), "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True)
    except OSError:
        return Link(name=name, state="unknown", told=f"{told}; there is no git here")
    if done.returncode:
        return Link(name=name, state="missing", told=f"{told} is not in this repository", fix="run `git fetch --all`")
    return Link(name=name, state="ok", told=told)


def _code(training: Training | None, train: Train) -> Iterator[Link]:
    name = "code of train"
    if training is None:
        yield Link(name=name, state="unknown", told="the model's manifest does not record it: of an earlier version")
        return
    fix = f"{REPRO}, or check out the commit that trained the model"
    yield _compared(name, training.identity.code, code_digest("stages.train"), fix=fix)
    now = part_digests(train.custom)
    for path, recorded in training.identity.parts.items():
        if path in now:
            yield _compared(f"own part {path}", recorded, now[path], fix=fix)


def _base_model(training: Training | None, model: Model) -> Link:
    name = f"base model {model.name_or_path if model.from_scratch is None else 'from scratch'}"
    if training is None:
        return Link(name=name, state="unknown", told="the model's manifest does not record it: of an earlier version")
    try:
        source = _base_source(model)
    except SeqtrackError as error:
        return Link(name=name, state="missing", told=str(error), fix="put it back, or correct model.name_or_path")
    if source is None:
        return Link(name=name, state="unknown", told="not in the hub's cache on this machine")
    return _compared(name, training.identity.weights, source.digest(), fix=REPRO)


def _base_source(model: Model) -> ModelSource | None:
    """Return the base model where it is on this machine; None for one of a hub that is not."""
    if model.from_scratch is not None or is_local(model.name_or_path):
        return resolve(model, weights=True)
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # takes a while

    try:
        folder = from_cache(model)
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return ModelSource(name=model.name_or_path, folder=folder, commit=folder.name)


def _tokens(model: Mapping[str, Any], sections: Sections) -> Link:
    name, recorded = f"tokens {TOKENIZED}", model["inputs"]["tokenized"]
    manifest = _read(TOKENIZED)
    if manifest is None:
        return _gone(name, TOKENIZED)
    behind = (
        _same_params(
            "params tokenize",
            {"max_length": manifest["params"]["max_length"]},
            sections.tokenize.model_dump(mode="json"),
        ),
        _of_file("made from the rows", ROWS, manifest["inputs"]["rows"]),
    )
    return _of_folder(name, TOKENIZED, manifest, recorded, behind=behind)


def _splits(model: Mapping[str, Any], sections: Sections) -> Link:
    name, recorded = f"splits {SPLITS}", model["inputs"]["splits"]
    manifest = _read(SPLITS)
    if manifest is None:
        return _gone(name, SPLITS)
    behind = (
        _same_params("params split", manifest["params"], sections.split.model_dump(mode="json")),
        *(_of_file("made from the rows", ROWS, digest) for digest in manifest["inputs"].values()),
    )
    return _of_folder(name, SPLITS, manifest, recorded, behind=behind)


def _rows(sections: Sections) -> Link:
    """Return the validated rows, which splits and tokens name by digest, and the raw files they came from."""
    name, manifest = f"validated rows {VALIDATED}", _read(VALIDATED)
    if manifest is None:
        return _gone(name, VALIDATED)
    behind = (
        _same_params("params data", manifest["params"], sections.data.model_dump(mode="json")),
        *_raw(manifest["inputs"], sections.data),
    )
    return _of_folder(name, VALIDATED, manifest, None, behind=behind)


def _raw(recorded: Mapping[str, str], data: Data) -> Iterator[Link]:
    fix = f"put the file back, or {REPRO} to train on it as it is now"
    try:
        files = {source_name(file, Path(data.path)): file for file in find_files(Path(data.path), data)}
    except SeqtrackError as error:
        yield Link(name=f"raw data {data.path}", state="missing", told=str(error), fix=fix)
        return
    for name, digest in recorded.items():
        if name not in files:
            yield Link(name=f"raw data {name}", state="missing", told=f"not in {data.path}", fix=fix)
        else:
            now = format_of(files[name], data).digest(files[name])
            yield _compared(f"raw data {files[name]}", digest, now, fix=fix)
    for name in sorted(files.keys() - recorded.keys()):
        told = f"not there when the rows were validated: {files[name]}"
        yield Link(name=f"raw data {name}", state="changed", told=told, fix=fix)
    if Path(data.path) == FETCHED and (manifest := _read(FETCHED)) is not None:
        sources = ", ".join(f"{name} {_short(digest)}" for name, digest in list(manifest["inputs"].items())[:SHOWN])
        commit = f"hub commit {_short(manifest['commit'])}" if manifest.get("commit") else ""
        told = ", ".join(filter(None, (sources, commit))) or "no digests recorded"
        yield _of_folder(
            f"fetched from {manifest['params'].get('name') or manifest['params'].get('source')}",
            FETCHED,
            manifest,
            None,
            more=told,
        )


def _of_folder(
    name: str,
    folder: Path,
    manifest: Mapping[str, Any],
    recorded: str | None,
    *,
    behind: tuple[Link, ...] = (),
    more: str = "",
) -> Link:
    """Return how an output folder stands: its manifest against what was recorded, its files against the manifest."""
    bad, gone = [], []
    for file, digest in manifest["files"].items():
        if not (folder / file).is_file():
            gone.append(file)
        elif sha256_file(folder / file) != digest:
            bad.append(file)
    fix = f"{REPRO}, or `dvc checkout {folder}` to get back what DVC has"
    if gone:
        return Link(name=name, state="missing", told=f"no {_some(gone)}", fix=fix, behind=behind)
    if bad:
        return Link(name=name, state="changed", told=f"other bytes in {_some(bad)}", fix=fix, behind=behind)
    now = folder_digest(folder)
    count = len(manifest["files"])
    files = f"{count} file{'' if count == 1 else 's'}" + (f"; {more}" if more else "")
    if recorded is not None and recorded != now:
        told = f"recorded {_short(recorded)}, now {_short(now)}"
        return Link(name=name, state="changed", told=told, fix=fix, behind=behind)
    return Link(name=name, state="ok", told=f"{_short(now)}, {files}", behind=behind)


def _of_file(name: str, path: Path, recorded: str) -> Link:
    name = f"{name} {path}"
    if not path.is_file():
        return Link(name=name, state="missing", told="not there", fix=REPRO)
    return _compared(name, recorded, sha256_file(path))


def _compared(name: str, recorded: str, now: str, *, fix: str = REPRO, behind: tuple[Link, ...] = ()) -> Link:
    if recorded == now:
        return Link(name=name, state="ok", told=_short(now), behind=behind)
    told = f"recorded {_short(recorded)}, now {_short(now)}"
    return Link(name=name, state="changed", told=told, fix=fix, behind=behind)


def _same_params(name: str, recorded: Mapping[str, Any], now: Mapping[str, Any]) -> Link:
    """Return whether params.yaml still says what a manifest repeats."""
    other = [
        f"{key} was {json.dumps(value, ensure_ascii=False)}, is {json.dumps(now.get(key), ensure_ascii=False)}"
        for key, value in recorded.items()
        if value != now.get(key)
        and key not in NOT_IDENTITY
        and not (key in LEFT_TO_TRAINING and now.get(key) == LEFT_TO_TRAINING[key])
    ]
    if other:
        fix = f"{REPRO}, or put the old values back into params.yaml"
        return Link(name=name, state="changed", told=_some(other, "; "), fix=fix)
    return Link(name=name, state="ok", told=f"{len(recorded)} as in params.yaml")


def _gone(name: str, folder: Path) -> Link:
    return Link(name=name, state="missing", told=f"no readable {folder / MANIFEST}", fix=f"{REPRO}, or `dvc checkout`")


def _read(folder: Path) -> dict[str, Any] | None:
    """Read a folder's manifest; None where there is none that this version can read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("schema_version") == SCHEMA_VERSION else None


def _short(digest: str) -> str:
    return digest[:10]


def _some(names: list[str], between: str = ", ") -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return between.join(names[:SHOWN]) + more
