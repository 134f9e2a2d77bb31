"""Which files of a GLUE task train, which test, for a score on rows that nothing was chosen by.

Promises: the test rows are labelled, and no checkpoint is chosen on them. GLUE keeps the labels of its own test sets:
where a test file has labels it is the test split, as it is; else the dev file takes its place, and validation is drawn
from train; a task without a train file is cross-validated over its dev file.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson

from pipeline.columns import split_of_name
from pipeline.errors import SeqtrackError
from pipeline.glue import GlueTask, find_task
from pipeline.outputs import output_folder, sha256_file, sha256_json
from pipeline.params import Fetch
from pipeline.sources_glue import task_folder, write_glue

FOLDS = 5
_SPLIT_WORD = re.compile(r"(?<![a-z0-9])(dev|val|valid|validation)(?![a-z0-9])")

Role = Literal["train", "validation", "test", "folds"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file with its part: `given` is its name where it came from, `name` what it is called for the runs."""

    given: str
    name: str
    role: Role


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A task that is ready to run.

    Attributes:
        path: absolute; what fetch.path is to be.
        parts: its files.
        digest: of names and contents of its files.
    """

    path: Path
    parts: tuple[Part, ...]
    digest: str

    @property
    def folds(self) -> int | None:
        """How many folds the one file of the task is divided into, None where there is a test file."""
        return FOLDS if any(part.role == "folds" for part in self.parts) else None


def prepare(preset: str, data: Path, target: Path) -> Prepared:
    """Put a task's files into `target`/<task>, under names that say their parts.

    Args:
        preset: the task, however it is spelled.
        data: a folder in GLUE's layout; where the task has no folder in it, the hub is asked.
        target: where to.

    Raises:
        SeqtrackError: the task has no labelled rows to test on, or is neither in `data` nor on the hub.
    """
    task = find_task(preset)
    place = (target / task.config).resolve()
    with tempfile.TemporaryDirectory() as folder:
        fetched = Path(folder)
        source = task_folder(data, task)
        write_glue(Fetch(source="glue", name=task.name, config=None, revision=None, path=str(data)), task, fetched)
        parts = _parts(source, fetched, task)
        with output_folder(place) as out:
            (out / task.name).mkdir()
            for part in parts:
                if source is not None:
                    shutil.copyfile(source / part.given, out / task.name / part.name)
                else:
                    _copy_rows(fetched / part.given, out / task.name / part.name, task)
    digest = sha256_json({part.name: sha256_file(place / task.name / part.name) for part in parts})
    return Prepared(path=place, parts=tuple(parts), digest=digest)


def _parts(source: Path | None, fetched: Path, task: GlueTask) -> list[Part]:
    folder = source or fetched
    by_split: dict[str | None, list[str]] = {}
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name != "manifest.json":
            by_split.setdefault(split_of_name(file), []).append(file.name)
    labelled = {split for split in ("train", "validation", "test") if _is_labelled(fetched, split)}
    # WNLI's val.tsv was cut from train.tsv by somebody: GLUE's own file is dev.
    dev = by_split.get("validation", [])
    dev = [name for name in dev if "dev" in name] or dev
    train = by_split.get("train", [])
    if "train" in labelled and "test" in labelled:
        chosen: list[tuple[list[str], Role]] = [(train, "train"), (dev, "validation"), (by_split["test"], "test")]
    elif "train" in labelled and "validation" in labelled:
        chosen = [(train, "train"), (dev, "test")]
    elif "validation" in labelled and len(dev) == 1:
        chosen = [(dev, "folds")]
    else:
        raise SeqtrackError(
            f"no labelled rows of {task.name} to test on",
            where=str(source or "the hub"),
            expected="train and dev files, or one dev file",
            found=", ".join(sorted(name for names in by_split.values() for name in names)),
        )
    return [Part(given=name, name=_name(name, role), role=role) for names, role in chosen for name in names]


def _is_labelled(fetched: Path, split: str) -> bool:
    files = [file for file in fetched.glob("*.jsonl") if split_of_name(file) == split]
    return bool(files) and all(orjson.loads(next(file.open("rb")))["label"] is not None for file in files)


def _name(given: str, role: Role) -> str:
    if role == "test":
        return _SPLIT_WORD.sub("test", given)
    return f"labelled{Path(given).suffix}" if role == "folds" else given


def _copy_rows(fetched: Path, target: Path, task: GlueTask) -> None:
    """Write what fetch wrote with the names that the task's own columns have."""
    names = [*(names[0] for names in task.texts), task.labels[0], "index"]
    with fetched.open("rb") as lines, target.open("wb") as out:
        for line in lines:
            row = orjson.loads(line)
            values = [*(row[key] for key in ("text", "text_pair")[: len(task.texts)]), row["label"], row["idx"]]
            out.write(orjson.dumps(dict(zip(names, values, strict=True)), option=orjson.OPT_APPEND_NEWLINE))
