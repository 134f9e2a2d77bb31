"""Going on from a checkpoint that lies elsewhere: another folder, another machine, a run in MLflow.

Promises: what may not differ is refused before anything is trained, with both values; what is taken in lies among the
training's own checkpoints afterwards, verified, so that a kill from then on costs nothing.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.checkpoints import FILES, STATE_FILE, TRAINING_FILE, CheckpointStore, damage, file_stats, read_state
from pipeline.console import say
from pipeline.errors import SeqtrackError
from pipeline.identity import Identity, Training, differences
from pipeline.outputs import MANIFEST, read_json
from pipeline.params import RUN_CHECKPOINT
from pipeline.paths import root, state
from pipeline.tracking import download_artifacts, list_artifacts

WHERE = "params.yaml: train.resume_from"
WORTH_A_WORD = 1 << 30  # bytes of other trainings' checkpoints


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A checkpoint to go on from.

    Attributes:
        where: the place in words.
        step: optimisation steps done.
        best_step: the best checkpoint's step, whose weights are needed in the end.
        training: which training it belongs to.
        fetch: puts the files of the checkpoint of a step (`step` or `best_step`) into an empty folder.
    """

    where: str
    step: int
    best_step: int
    training: Training
    fetch: Callable[[int, Path], None]


def find_origin(resume_from: str) -> Origin:
    """Look up what `train.resume_from` names.

    Args:
        resume_from: a checkpoint's folder, a folder of checkpoints (its newest sound one is taken), relative to the
            repository; or `runs:/<run_id>/checkpoints/<name>`.

    Raises:
        SeqtrackError: there is no sound checkpoint.
    """
    run = re.fullmatch(RUN_CHECKPOINT, resume_from)
    return _in_run(run[1], run[2]) if run else _in_folder(root() / resume_from)


def check_origin(origin: Origin, identity: Identity) -> None:
    """See whether a training may go on from a checkpoint, and say in what the result will differ.

    Raises:
        SeqtrackError: it belongs to other data, another recipe, other code.
    """
    found = differences(origin.training.identity, identity)
    others = [str(difference) for difference in found if difference.kind == "other"]
    if others:
        raise SeqtrackError(
            f"cannot go on from {origin.where}",
            where=WHERE,
            found=", ".join(others),
            fix="set back what differs, or set resume_from to null to start afresh",
        )
    for difference in found:
        if difference.kind == "longer":
            say(f"train: {difference}; the schedule is that of the longer training from step {origin.step:,} on")
    rounding = [str(difference) for difference in found if difference.kind == "rounding"]
    if rounding:
        say(f"train: {', '.join(rounding)}: the result will be equal but for rounding, not to the bit")


def adopt(origin: Origin, store: CheckpointStore) -> None:
    """Take a checkpoint, and the best one it refers to, into a training's own; where its own are newer, do nothing.

    Raises:
        SeqtrackError: it is damaged or gone, or the disk refuses.
    """
    own = store.latest()
    if own is not None and own.step >= origin.step:
        return
    for step in dict.fromkeys((origin.best_step, origin.step)):  # the one that counts as newest comes last
        if damage(store.path(step)) is not None:
            store.adopt(step, lambda folder, step=step: origin.fetch(step, folder))  # type: ignore[misc]
    say(f"train: going on from {origin.where}")


def name_other_layouts(store: CheckpointStore, identity: Identity) -> None:
    """Where this training has no checkpoint yet, say where one of the same training in another layout lies."""
    if store.latest() is not None:
        return
    home = store.folder.parent
    for folder in sorted(home.iterdir()):
        newest = max(folder.glob("step-*"), default=None)
        if newest is None:
            continue
        try:
            found = differences(_training(newest).identity, identity)
        except SeqtrackError:  # of another version of this project, or damaged: nothing to go on from
            continue
        if found and all(difference.kind == "rounding" for difference in found):
            say(
                f"train: there is a checkpoint of this training with {', '.join(map(str, found))}; to go on from it: "
                f"train.resume_from={folder.relative_to(root())}"
            )


def name_old_checkpoints(store: CheckpointStore) -> None:
    """Say what other trainings' checkpoints take, once it is much: nothing removes them by itself."""
    home = store.folder.parent
    sizes = [sum(file.st_size for file in file_stats(folder)) for folder in home.iterdir() if folder != store.folder]
    if sum(sizes) > WORTH_A_WORD:
        say(
            f"train: checkpoints of {len(sizes):,} other trainings take {sum(sizes) / (1 << 30):.1f} GiB in {home}; "
            "`make prune` lists them, and deletes those of finished trainings"
        )


def _in_folder(given: Path) -> Origin:
    if not given.is_dir():
        raise SeqtrackError("no such folder", where=WHERE, found=str(given))
    folder = given
    if not (given / MANIFEST).exists():
        newest = CheckpointStore(given, keep=1).latest()
        if newest is None:
            raise SeqtrackError(
                "no sound checkpoint",
                where=WHERE,
                expected="a folder step-<number>, or one that holds such",
                found=str(given),
            )
        folder = CheckpointStore(given, keep=1).path(newest.step)
    if (problem := damage(folder)) is not None:
        raise SeqtrackError(f"the checkpoint is damaged: {problem}", where=WHERE, found=str(folder))
    here = read_state(folder)
    best_step = here.step if here.best_step is None else here.best_step
    best = folder if best_step == here.step else CheckpointStore(folder.parent, keep=1).path(best_step)
    if (problem := damage(best)) is not None:
        raise SeqtrackError(
            f"the best checkpoint it refers to is damaged or gone: {problem}", where=WHERE, found=str(best)
        )

    def fetch(step: int, target: Path) -> None:
        for name in (*FILES, MANIFEST):
            shutil.copyfile((folder if step == here.step else best) / name, target / name)

    return Origin(
        where=f"{folder} (step {here.step:,})",
        step=here.step,
        best_step=best_step,
        training=_training(folder),
        fetch=fetch,
    )


def _in_run(run_id: str, name: str) -> Origin:
    names = list_artifacts(run_id, "checkpoints")
    if name not in names:
        raise SeqtrackError(
            f"run {run_id} has no checkpoint {name} in MLflow",
            where=WHERE,
            expected="one of " + ", ".join(names) if names else None,
            found=None if names else "none",
            fix=None if names else "train with train.checkpoint.log_to_mlflow: last",
        )
    state().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=state()) as scratch:
        small = Path(scratch)
        # What it is, first: the weights only once they are wanted.
        download_artifacts(run_id, f"checkpoints/{name}", (STATE_FILE, TRAINING_FILE), small)
        here = read_state(small)
        training = _training(small)
    best_step = here.step if here.best_step is None else here.best_step

    def fetch(step: int, target: Path) -> None:
        best = f"step-{step:09d}" if f"step-{step:09d}" in names else "best"
        wanted = name if step == here.step else best
        download_artifacts(run_id, f"checkpoints/{wanted}", (*FILES, MANIFEST), target)

    return Origin(
        where=f"runs:/{run_id}/checkpoints/{name} (step {here.step:,})",
        step=here.step,
        best_step=best_step,
        training=training,
        fetch=fetch,
    )


def _training(folder: Path) -> Training:
    return Training.from_json(read_json(folder / TRAINING_FILE), str(folder))
