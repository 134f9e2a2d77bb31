"""A throw-away clone in which the stages up to split ran, so that somebody else can train on the very same rows.

Promises: the rows are those that an experiment with the same flags trains on and is scored on; nothing in the user's
working folder changes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from ruamel.yaml import YAML

from benchmarks.glue_runs import Unit
from pipeline.errors import SeqtrackError
from pipeline.outputs import sha256_file, sha256_json
from pipeline.paths import PARAMS_FILE, SPLITS

CODE = ("pipeline", "stages", "custom", "params.yaml", "dvc.yaml")
_LOCK = threading.Lock()


def git(root: Path, *arguments: str) -> str:
    """Return what git says, without the last newline.

    Raises:
        SeqtrackError: it fails.
    """
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise SeqtrackError(f"git {arguments[0]} failed", where=str(root), found=done.stderr.strip()[-300:])
    return done.stdout.strip()


def code_digest(root: Path) -> str:
    """Return a digest of all that stages run on, as committed: other files may change without new runs.

    Presets are left out: what one says is in the flags of its unit, and another's change is no reason to run it again.
    """
    return sha256_json([git(root, "rev-parse", f"HEAD:{name}") for name in CODE])


def require_clean(root: Path) -> None:
    """Refuse to run what is not committed.

    Raises:
        SeqtrackError: a file that stages run on differs from HEAD.
    """
    changed = git(root, "status", "--porcelain", "--", *CODE, "presets")
    if changed:
        raise SeqtrackError(
            "code or params that are not committed",
            where=str(root),
            expected="a clean git tree: an experiment in the queue starts from a commit",
            found=", ".join(line.split(maxsplit=1)[1] for line in changed.splitlines()[:5]),
            fix="commit or stash them",
        )


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a training process.

    Freed memory stays with the process instead of going back to the system: speed alone.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": str(threads),
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
        "MALLOC_TOP_PAD_": str(64 * 2**20),
        "TOKENIZERS_PARALLELISM": "false",
    }


def workspace(root: Path, unit: Unit, home: Path) -> Path:
    """Return a clone of the repository with the unit's splits; one that is there is used again.

    Args:
        root: the repository.
        unit: its task, fold, files and flags count, its seed does not.
        home: where clones lie.

    Raises:
        SeqtrackError: a stage fails.
    """
    flags = split_flags(unit)
    fold = "" if unit.fold is None else f"-fold{unit.fold}"
    folder = home / f"{unit.task}{fold}-{sha256_json([flags, unit.data, code_digest(root)])[:10]}"
    with _LOCK:
        if not (folder / SPLITS / "manifest.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            git(root, "clone", "--quiet", "--shared", str(root), str(folder))
            set_params(folder / PARAMS_FILE, flags)
            log = folder.with_suffix(".log")
            with log.open("wb") as stream:
                command = [sys.executable, "-m", "dvc", "repro", "split"]
                done = subprocess.run(command, cwd=folder, env=environment(1), stdout=stream, stderr=stream)
            if done.returncode:
                raise SeqtrackError(f"dvc repro split of {unit.task} failed", where=str(log))
    return folder


def split_flags(unit: Unit) -> dict[str, str]:
    """Return a unit's flags as key and value, with the fold."""
    pairs = dict(flag.partition("=")[::2] for flag in unit.flags if flag != "-S")
    return pairs | ({} if unit.fold is None else {"split.fold": str(unit.fold)})


def set_params(path: Path, flags: Mapping[str, str]) -> None:
    """Set keys of a params.yaml: dotted names, values as YAML."""
    yaml = YAML(typ="rt")
    document = yaml.load(path)
    for key, value in flags.items():
        *sections, last = key.split(".")
        node = document
        for section in sections:
            node = node[section]
        node[last] = YAML(typ="safe").load(value)
    with path.open("w", encoding="utf-8") as stream:
        yaml.dump(document, stream)


def rows_digest(folder: Path) -> str:
    """Return a digest of the train and test rows of a workspace: ids are digests of texts and labels."""
    return sha256_json([sha256_file(folder / SPLITS / f"{name}.parquet") for name in ("train", "test")])
