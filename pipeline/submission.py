"""Files as the GLUE benchmark takes them: one per test set, and the zip of all eleven.

Promises: `index<TAB>prediction` under a header line, a row for each row of the test set in its order; class names where
GLUE wants names, else class numbers; scores clipped to 0..5, with three decimals.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.decisions import Decisions
from pipeline.errors import SeqtrackError
from pipeline.glue import TEST_ROWS, GlueTask, find_task
from pipeline.labels import LabelSet
from pipeline.outputs import MANIFEST, read_json, replacing
from pipeline.paths import state

FOLDER: Final = "submission"  # in data/predictions
HEADER: Final = "index\tprediction\n"
_SCORES: Final = (0.0, 5.0)  # of STS-B
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the zip format's first day, so that equal files give equal bytes


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A submission file to be.

    Attributes:
        name: the file's, without its ending, for example `MNLI-m`.
        task: whose test set it answers.
    """

    name: str
    task: GlueTask

    def lines(self, ids: Sequence[Any], decisions: Decisions) -> Iterator[str]:
        """Iterate over lines for rows with these indices."""
        for index, result in zip(ids, decisions.labels, strict=True):
            yield f"{index}\t{self._written(result)}\n"

    def fits(self, labels: LabelSet) -> bool:
        """Return whether a model's label set is the task's."""
        return labels.problem_type == self._problem_type and set(labels.names) == set(self.task.classes)

    @property
    def _problem_type(self) -> str:
        return "single_label_classification" if self.task.classes else "regression"

    def _written(self, result: Any) -> str:
        if not self.task.classes:
            low, high = _SCORES
            return f"{min(max(float(result), low), high) + 0.0:.3f}"  # the sum makes 0 of -0
        return str(result) if self.task.submits_names else str(self.task.classes.index(result))


def submission_for(file: Path) -> Submission | None:
    """Return what a file that fetch wrote for a GLUE task is to be submitted as; None for other files."""
    for folder in (file.parent, file.parent.parent):
        if (folder / MANIFEST).is_file():
            manifest = read_json(folder / MANIFEST)
            names = manifest.get("glue_submissions", {})
            name = names.get(file.relative_to(folder).as_posix())
            return Submission(name=name, task=find_task(manifest["params"]["name"])) if name else None
    return None


@contextmanager
def submission_file(folder: Path, submission: Submission) -> Iterator[Any]:
    """Open `<folder>/submission/<name>.tsv`, with its header line, for text."""
    file = folder / FOLDER / f"{submission.name}.tsv"
    file.parent.mkdir(exist_ok=True)
    with file.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(HEADER)
        yield stream


def kept() -> Path:
    """Return the folder that keeps the newest submission file of each test set, outside what stages write over."""
    return state() / FOLDER


def keep(files: Iterable[Path]) -> None:
    """Copy submission files to where `zip_all` finds them when other tasks have run since."""
    for file in files:
        with replacing(kept() / file.name) as temporary:
            temporary.write_bytes(file.read_bytes())


def zip_all(places: Iterable[Path], archive: Path) -> dict[str, Path]:
    """Write the zip that GLUE takes: all eleven files.

    Args:
        places: files, or folders of files, best first.
        archive: where to.

    Returns:
        Submission name to the file that was taken for it.

    Raises:
        SeqtrackError: files are missing, or one has another number of rows than its test set.
    """
    found: dict[str, Path] = {}
    for place in places:
        for file in sorted(place.glob("*.tsv")) if place.is_dir() else [place]:
            if file.stem in TEST_ROWS:
                found.setdefault(file.stem, file)
    missing = [name for name in TEST_ROWS if name not in found]
    if missing:
        raise SeqtrackError(
            f"{len(missing)} of the {len(TEST_ROWS)} files are missing: {', '.join(missing)}",
            where=str(archive),
            fix="run their tasks (make preset NAME=<task>, dvc repro): predict keeps a copy in .seqtrack/submission",
        )
    for name, file in found.items():
        _check(file, TEST_ROWS[name])
    with replacing(archive) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as stream:
        for name in TEST_ROWS:
            entry = zipfile.ZipInfo(f"{name}.tsv", _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            stream.writestr(entry, found[name].read_bytes())
    return {name: found[name] for name in TEST_ROWS}


def _check(file: Path, rows: int) -> None:
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    if not lines or lines[0] != HEADER:
        raise SeqtrackError("not a submission file", where=f"{file}:1", expected="index<TAB>prediction")
    if len(lines) - 1 != rows:
        raise SeqtrackError(
            "not as many rows as GLUE's test set",
            where=str(file),
            expected=f"{rows:,}",
            found=f"{len(lines) - 1:,}",
            fix="fetch GLUE's own test set, whole",
        )
