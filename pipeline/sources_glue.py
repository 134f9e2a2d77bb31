"""GLUE tasks, from a folder of files as GLUE and others hand them out, or from the hub.

Promises: whichever way a task came, its files have the fields text, text_pair (in pairs), label and idx, and its labels
are GLUE's class names, or scores; a row of a file that is not like the others is left out and listed in the manifest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import orjson

from pipeline.columns import fold, split_of_name
from pipeline.console import say
from pipeline.errors import SeqtrackError
from pipeline.glue import DIAGNOSTIC, HUB_ID, GlueTask, folded, submission_of
from pipeline.outputs import write_manifest
from pipeline.params import Data, Fetch
from pipeline.reading import EXTENSIONS, Defect, format_of
from pipeline.reading_base import PLAIN
from pipeline.reading_bytes import Lines, encoding_of, stem_and_suffix
from pipeline.sources_hub import load_hub, resolve_commit, split_rows

DIAGNOSTIC_FILE: Final = "ax/test_ax"  # in a folder of its own: it is for predict, no test split of MNLI
_DIAGNOSTIC_NAMES: Final = ("ax", "diagnostic")
_INDEX: Final = ("index", "idx", "id")
_NOT_ROWS: Final = {"ids", "readme", "license"}  # words of file names
_PARTS: Final = ("matched", "mismatched", "in", "out", "of", "domain")  # words that tell files of one split apart
_TEXT_FILES: Final = (".tsv", ".csv", ".txt", ".tab")
_MOST_SKIPPED: Final = 0.01  # share of a file's rows


@dataclass(frozen=True, kw_only=True)
class _Skipped:
    """A row of a source file that cannot be used."""

    file: str
    line: int
    reason: str


def write_glue(settings: Fetch, task: GlueTask, folder: Path) -> dict[str, int]:
    """Write a task's files: `train.jsonl`, `validation.jsonl`, `test.jsonl`; MNLI's have `_matched` and `_mismatched`.

    The files come from the task's folder in fetch.path where there is one, else from the hub.

    Returns:
        File name to rows in it.

    Raises:
        SeqtrackError: a local file is not the task's, or the hub does not give it.
    """
    source = task_folder(Path(settings.path), task)
    params: dict[str, object] = {"source": "glue", "name": task.name}
    if source is not None:
        say(f"fetch: {task.name} from {source}")
        digests, targets = {}, _targets(source, task)
        for file in chain.from_iterable(targets.values()):
            digests[file.relative_to(settings.path).as_posix()] = format_of(file).digest(file)
        skipped: list[_Skipped] = []
        rows = {
            f"{target}.jsonl": _write(folder / f"{target}.jsonl", _rows_of(files, task, skipped))
            for target, files in targets.items()
        }
        for row in skipped[:5]:
            say(f"left out: {row.file}:{row.line}: {row.reason}")
        if len(skipped) > 5:
            say(f"left out: {len(skipped) - 5:,} more, listed in data/fetched/manifest.json")
        extra: dict[str, object] = {"skipped": [vars(row) for row in skipped]}
    else:
        say(f"fetch: {task.name} from the hub ({HUB_ID}): there is no folder {Path(settings.path) / task.name}")
        commit = resolve_commit(HUB_ID, settings.revision)
        rows, digests, extra = _write_hub(task, commit, folder), {}, {"commit": commit}
        params["revision"] = settings.revision
    submissions = {
        name: submission for name in rows if (submission := submission_of(task, Path(name).name.partition(".")[0]))
    }
    write_manifest(folder, inputs=digests, params=params, rows=rows, glue_submissions=submissions, **extra)
    return rows


def task_folder(path: Path, task: GlueTask) -> Path | None:
    """Return the task's folder in a folder of GLUE's files, however it is spelled; None if there is none."""
    return _folder(path, (folded(task.name),))


def _folder(path: Path, names: Sequence[str]) -> Path | None:
    entries = sorted(path.iterdir()) if path.is_dir() else []
    return next((entry for entry in entries if entry.is_dir() and folded(entry.name) in names), None)


def _targets(source: Path, task: GlueTask) -> dict[str, list[Path]]:
    """Tell which files make up which output.

    A file that names no split keeps its own name, and the split stage divides it.

    Raises:
        SeqtrackError: there is no file, or two that say the same.
    """
    found = [file for file in sorted(source.iterdir()) if _is_data(file)]
    named = [file for file in found if split_of_name(file) is not None]
    if any("msr" not in _words(file) for file in named):
        # The download of MRPC holds what its split was made from, too.
        named = [file for file in named if "msr" not in _words(file)]
    # Where both are there, dev is GLUE's own, and val was taken from train.
    has_dev = any("dev" in _words(file) for file in named)
    targets: dict[str, list[Path]] = {}
    for file in named or found:
        split = split_of_name(file)
        if split is None:
            target = "_".join(_words(file))
        elif has_dev and "val" in _words(file):
            target = "train"
        else:
            target = "_".join([split, *(word for word in _words(file) if word in _PARTS)])
        targets.setdefault(target, []).append(file)
        if len(targets[target]) > 1 and not (target == "train" and has_dev and "val" in _words(file)):
            raise SeqtrackError(
                f"two files for {target}: {targets[target][0].name} and {file.name}",
                where=str(source),
                fix="leave one of them there",
            )
    if not targets:
        raise SeqtrackError(
            f"no data of {task.name} in this folder", where=str(source), expected="train.tsv, dev.tsv and test.tsv"
        )
    if task.tests and (diagnostic := _diagnostic(source)):
        targets[DIAGNOSTIC_FILE] = [diagnostic]
    return dict(sorted(targets.items()))


def _diagnostic(source: Path) -> Path | None:
    """Return the file of the diagnostic set: beside MNLI's files, or in a folder of its own beside MNLI's."""
    own = _folder(source.parent, _DIAGNOSTIC_NAMES)
    files = [file for place in (source, own) if place for file in sorted(place.iterdir()) if file.is_file()]
    named = [file for file in files if stem_and_suffix(file)[0].lower() in {*_DIAGNOSTIC_NAMES, "test"}]
    return next((file for file in named if file.parent == own or _words(file) != ["test"]), None)


def _is_data(file: Path) -> bool:
    if not file.is_file() or file.name.startswith(".") or stem_and_suffix(file)[1] not in EXTENSIONS:
        return False
    return not _NOT_ROWS.intersection(_words(file)) and not set(_words(file)) & {*_DIAGNOSTIC_NAMES}


def _words(file: Path) -> list[str]:
    return re.findall(r"[a-z0-9]+", stem_and_suffix(file)[0].lower())


def _settings(file: Path, task: GlueTask) -> Data:
    """Say how a file is read: GLUE's are tab-separated whatever their names say, and quotes in them are text."""
    if stem_and_suffix(file)[1] not in _TEXT_FILES:
        return PLAIN
    first = next(iter(Lines(file, encoding_of(file, PLAIN))), "").rstrip("\r\n").split("\t")
    known = {*chain.from_iterable(task.texts), *task.labels}
    header = bool(known.intersection(map(fold, first)))
    settings: dict[str, object] = {"delimiter": "\t", "quoting": "none", "header": header}
    if not header:
        if not task.headerless:
            raise SeqtrackError(
                "no header line",
                where=f"{file}:1",
                expected="one with " + ", ".join(names[0] for names in task.texts),
                found=", ".join(first)[:100],
            )
        settings["columns"] = task.headerless
    return PLAIN.model_copy(update=settings)


def _rows_of(files: Iterable[Path], task: GlueTask, skipped: list[_Skipped]) -> Iterator[Mapping[str, Any]]:
    """Read files one after the other; notes rows that cannot be used.

    Raises:
        SeqtrackError: columns of the task are missing, or too many rows cannot be used.
    """
    for file in files:
        kind = format_of(file, settings := _settings(file, task))
        columns = {fold(name): name for name in kind.shape(file).columns}
        texts = [_column(columns, names) for names in task.texts]
        if None in texts:
            raise SeqtrackError(
                f"not a file of {task.name}",
                where=str(file),
                expected="columns " + ", ".join(names[0] for names in task.texts),
                found="columns " + ", ".join(settings.columns or columns),
            )
        label, index = _column(columns, task.labels), _column(columns, _INDEX)
        number, before = 0, len(skipped)
        for number, row in enumerate(kind.rows(file), 1):
            try:
                if isinstance(row, Defect):
                    raise ValueError(f"{row.reason}: {row.detail}")
                given = row.values.get(index) if index else None
                yield _row(
                    [row.values[name] for name in texts if name],
                    task.label(row.values.get(label)) if label else None,
                    number - 1 if given is None else int(given),
                )
            except ValueError as error:
                skipped.append(_Skipped(file=file.name, line=row.line, reason=str(error)))
        if len(skipped) - before > max(1, _MOST_SKIPPED * number):
            raise SeqtrackError(
                f"{len(skipped) - before:,} of {number:,} rows are not as those of {task.name}: "
                f"{skipped[before].reason}",
                where=f"{file}:{skipped[before].line}",
            )


def _column(columns: Mapping[str, str], names: Iterable[str]) -> str | None:
    return next((columns[name] for name in names if name in columns), None)


def _row(texts: Sequence[Any], label: str | float | None, index: int) -> dict[str, Any]:
    return {**dict(zip(("text", "text_pair"), texts, strict=False)), "label": label, "idx": index}


def _write(file: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    file.parent.mkdir(exist_ok=True)
    count = 0
    with file.open("wb") as stream:
        for row in rows:
            stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            count += 1
    return count


def _write_hub(task: GlueTask, commit: str, folder: Path) -> dict[str, int]:
    splits = dict(load_hub(HUB_ID, task.config, commit))
    if task.tests:
        splits[DIAGNOSTIC_FILE] = load_hub(HUB_ID, folded(DIAGNOSTIC), commit)["test"]
    rows = {}
    for target in sorted(splits):
        columns = {fold(name): name for name in splits[target].column_names}
        texts = [_column(columns, names) for names in task.texts]
        found = (
            _row([row[name] for name in texts if name], task.label(row["label"]), row["idx"])
            for row in split_rows(splits[target])
        )
        rows[f"{target}.jsonl"] = _write(folder / f"{target}.jsonl", found)
    return rows
