"""From a name to what was trained there: a DVC experiment, a commit, branch or tag, `workspace`, or an MLflow run.

Promises: the working tree stays as it is; outputs of other revisions come out of DVC's cache (or its remote) into a
folder of the caller's; what a side does not have is said in words, and the rest of it can still be used.
"""

from __future__ import annotations

import logging
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import SeqtrackError
from pipeline.outputs import read_json, sha256_file
from pipeline.paths import REPORTS, ROWS, SPLIT_NAMES, SPLITS, root
from pipeline.row_predictions import FILE, RowPredictions, read_predictions
from pipeline.rows import read_row_ids
from pipeline.runs import FoundRun, NoStoreError, runs_named
from pipeline.suggestions import nearest
from pipeline.tracking import download_artifacts, list_artifacts

WORKSPACE: Final = "workspace"
_LOCK: Final = Path("dvc.lock")
_RESULTS: Final = REPORTS / "all_results.json"
_PREDICTIONS: Final = REPORTS / "evaluation" / FILE
_RUN_URI: Final = re.compile(r"runs:/+([^/]+)/*")

Fetch = Callable[[Path], Path | None]
"""From a path in the repository to a file that holds what it held there; None where it is not to be had."""


@dataclass(frozen=True, kw_only=True)
class SplitRows:
    """The rows of a split.

    Attributes:
        rows: how many.
        digest: the first 36 hex digits of the split file's sha256.
        row_ids: strings, [rows]; None where only a run's page speaks of it.
    """

    rows: int
    digest: str
    row_ids: pa.Array | None


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: as it was asked for.
        described: what it is.
        kind: where it was found.
        params: those that the outputs were made with, dotted key to value as text.
        splits: by name.
        metrics: as evaluate recorded them, split to name to value.
        predictions: outputs on the scored rows; None where they are not to be had.
        missing: what this side does not have, a sentence each.
        rows: finds its canonical rows, None where they are not to be had.
    """

    name: str
    described: str
    kind: Literal["workspace", "revision", "run"]
    params: dict[str, str]
    splits: dict[str, SplitRows]
    metrics: dict[str, dict[str, float]]
    predictions: RowPredictions | None
    missing: tuple[str, ...]
    rows: Callable[[], Path | None]


@contextmanager
def open_sides(*names: str) -> Iterator[list[Side]]:
    """Find what names mean, as `open_side` does; files of other revisions and runs stay for as long as the block."""
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place) / str(number) for number in range(len(names))]
        for folder in folders:
            folder.mkdir()
        yield [open_side(name, folder) for name, folder in zip(names, folders, strict=True)]


def open_side(name: str, place: Path) -> Side:
    """Find what a name means.

    A DVC experiment, commit, branch or tag goes before an MLflow run of the same name; `runs:/<id>` is always a run.

    Args:
        name: as the user gave it.
        place: an existing empty folder for files of other revisions and runs; they must stay as long as the side does.

    Raises:
        SeqtrackError: the name means nothing or several runs, or there are no results at all.
    """
    if name == WORKSPACE:
        side = _local(name, "the files in data/ as they are", "workspace", _in_workspace)
    elif uri := _RUN_URI.fullmatch(name):
        side = _run(name, _only_run(name, uri.group(1)), place)
    elif (revision := _revision(name)) is not None:
        described = f"commit {revision[:10]}" if _is_commit(name) else f"DVC experiment, commit {revision[:10]}"
        side = _local(name, described, "revision", _from_dvc(revision, place))
    else:
        side = _run(name, _only_run(name, name), place)
    if side.predictions is None and not side.metrics:
        raise SeqtrackError("there are no results to compare: " + "; ".join(side.missing), where=name)
    return side


def lock_params(text: str) -> dict[str, str]:
    """Return the params that dvc.lock says its outputs were made with, dotted key to value as MLflow writes it.

    The `launch` section is no params of a stage: it is read off the command that started training.
    """
    stages = (YAML(typ="safe").load(text) or {}).get("stages", {})
    found: dict[str, str] = {}
    for stage in stages.values():
        for sections in stage.get("params", {}).values():
            found |= _flat(sections)
    command = stages.get("train", {}).get("cmd", [])
    for line in [command] if isinstance(command, str) else command:
        found |= _launch_flags(shlex.split(line))
    return dict(sorted(found.items()))


def _launch_flags(words: list[str]) -> dict[str, str]:
    if "stages.launch" not in words:
        return {}
    flags: dict[str, str] = {}
    name = None
    for word in words[words.index("stages.launch") + 1 :]:
        if word == "-m":
            break
        if word.startswith("--"):
            name = f"launch.{word[2:]}"
            flags[name] = "True"  # unless a value follows
        elif name is not None:
            flags[name] = word
    return flags


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return found


def _local(name: str, described: str, kind: Literal["workspace", "revision"], fetch: Fetch) -> Side:
    """Describe a side that has the repository's own layout."""
    remedy = (
        "run `dvc repro`"
        if kind == WORKSPACE
        else "get it with `dvc fetch --all-commits` (`dvc exp pull` for an experiment) if a remote has it, else "
        f"`dvc exp apply {name}` or `git checkout {name}`, and run `dvc repro`"
    )
    gone: list[str] = []

    def have(path: Path, what: str) -> Path | None:
        found = fetch(path)
        if found is None:
            gone.append(f"{path} ({what})")
        return found

    lock = have(_LOCK, "params")
    splits = {}
    for split in SPLIT_NAMES:
        if (file := have(SPLITS / f"{split}.parquet", f"rows of {split}")) is not None:
            ids = read_row_ids(file)
            splits[split] = SplitRows(rows=len(ids), digest=sha256_file(file)[:36], row_ids=ids)
    results = have(_RESULTS, "recorded scores")
    predictions = have(_PREDICTIONS, "predictions by row, which earlier versions did not write")
    place = "not there" if kind == WORKSPACE else "neither in git nor in DVC's cache"
    return Side(
        name=name,
        described=described,
        kind=kind,
        params={} if lock is None else _read_lock(lock, name),
        splits=splits,
        metrics={} if results is None else _recorded(results),
        predictions=None if predictions is None else read_predictions(predictions, f"{name}: {_PREDICTIONS}"),
        missing=(f"{name}: {place}: {', '.join(gone)}; {remedy}",) if gone else (),
        rows=lambda: fetch(ROWS),
    )


def _run(name: str, run: FoundRun, place: Path) -> Side:
    """Describe an MLflow run by what it logged."""
    there = set(list_artifacts(run.run_id, "reports"))
    missing = []

    def have(file: str, what: str) -> Path | None:
        if file not in there:
            missing.append(
                f"{name}: the run has logged no reports/{file}, so no {what}: run `dvc repro` where it is from"
            )
            return None
        download_artifacts(run.run_id, "reports", [file], place)
        return place / file

    results = have(_RESULTS.name, "recorded scores")
    predictions = have(FILE, "predictions by row")
    return Side(
        name=name,
        described=f"MLflow run {run.name or run.run_id} ({run.run_id}) in {run.experiment}, {run.status}",
        kind="run",
        params=run.params,
        splits={
            split: SplitRows(rows=found.rows, digest=found.digest, row_ids=None) for split, found in run.splits.items()
        },
        metrics={} if results is None else _recorded(results),
        predictions=None if predictions is None else read_predictions(predictions, f"{name}: reports/{FILE}"),
        missing=tuple(missing),
        rows=lambda: None,
    )


def _recorded(results: Path) -> dict[str, dict[str, float]]:
    return {split: dict(found["metrics"]) for split, found in read_json(results)["splits"].items()}


def _read_lock(path: Path, name: str) -> dict[str, str]:
    try:
        return lock_params(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise SeqtrackError(f"dvc.lock is not YAML ({error})", where=name) from None


def _in_workspace(path: Path) -> Path | None:
    found = root() / path
    return found if found.is_file() else None


def _from_dvc(revision: str, place: Path) -> Fetch:
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc_data.index.index import DataIndexDirError

    # DVC warns of each stage whose outputs it cannot find; what this side lacks, we say ourselves.
    logging.getLogger("dvc").setLevel(logging.ERROR)
    files = DVCFileSystem(str(root()), rev=revision)

    def fetch(path: Path) -> Path | None:
        target = place / path
        if target.is_file():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with files.open(f"/{path.as_posix()}", "rb") as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)
        except (OSError, DvcException, DataIndexDirError):  # the last: a folder's list of files is not in the cache
            target.unlink(missing_ok=True)
            return None
        return target

    return fetch


def _revision(name: str) -> str | None:
    """Return the commit of a git revision or a DVC experiment of this repository; None where there is none."""
    from dvc.exceptions import DvcException
    from dvc.scm import SCM, NoSCM, resolve_rev

    try:
        scm = SCM(str(root()))
        if isinstance(scm, NoSCM):
            return None
        revision: str = resolve_rev(scm, name)
    except DvcException:
        return None
    return revision


def _is_commit(name: str) -> bool:
    """Return whether git itself knows the name."""
    from dvc.scm import SCM
    from scmrepo.exceptions import RevError

    try:
        SCM(str(root())).resolve_rev(name)
    except RevError:
        return False
    return True


def _only_run(asked: str, name: str) -> FoundRun:
    try:
        runs = runs_named(name)
    except NoStoreError as error:
        raise SeqtrackError(
            "neither an experiment or commit here nor, as far as can be asked, an MLflow run",
            where=asked,
            found=str(error),
            fix=_hint(asked),
        ) from error
    if not runs:
        raise SeqtrackError(
            "neither a DVC experiment, commit, branch or tag of this repository, nor an MLflow run",
            where=asked,
            fix=_hint(asked),
        )
    if len(runs) > 1:
        raise SeqtrackError(
            f"{len(runs)} MLflow runs have this name",
            where=asked,
            fix="name one by its id: " + ", ".join(run.run_id for run in runs[:5]),
        )
    return runs[0]


def _hint(name: str) -> str:
    near = nearest(name, [WORKSPACE, *_experiments()])
    known = "`dvc exp list --all-commits` names experiments, `git log` commits, `mlflow ui` runs"
    return f"did you mean {near}? {known}" if near else known


def _experiments() -> list[str]:
    """Return the names of all experiments in this repository."""
    from dvc.exceptions import DvcException
    from dvc.repo.experiments.refs import EXPS_NAMESPACE
    from dvc.scm import SCM, NoSCM

    try:
        scm = SCM(str(root()))
    except DvcException:
        return []
    if isinstance(scm, NoSCM):
        return []
    refs = [ref for ref in scm.iter_refs(EXPS_NAMESPACE) if ref.count("/") >= 4]  # refs/exps/ab/cdef.../name
    return sorted({ref.rpartition("/")[2] for ref in refs})
