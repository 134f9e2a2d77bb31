"""A trial of a sweep as a process: `dvc exp run --temp`, whose result is a DVC experiment.

Promises: what an experiment gave counts, not how its process ended; a trial that another start of the sweep left
running is found again; a training is stopped as Ctrl-C would stop it, so that its checkpoint is saved.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from pipeline.errors import SeqtrackError
from pipeline.presets import flag

STAGE: Final = "evaluate"  # what a trial runs up to; predictions are for the best alone
START_SECONDS: Final = 600.0  # until DVC has made the working copy
_RUN: Final = re.compile(r"^train: MLflow run (\S+) in experiment", re.MULTILINE)
_NOISE: Final = re.compile(r"\s*$|WARNING|INFO|Reproducing|To apply|> |\s+dvc exp apply|Updating|Writing model")


@dataclass(frozen=True, kw_only=True)
class Process:
    """The process of one trial.

    Attributes:
        name: the experiment's.
        pid: process id.
        started: seconds since the epoch at which the system started it, since ids are used again.
    """

    name: str
    pid: int
    started: float

    def alive(self) -> bool:
        """Return whether it still runs."""
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started) > 1 or process.status() == psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            return False
        return True


class Experiments:
    """Starts experiments of a repository and reads what they gave.

    Args:
        root: the repository.
        logs: folder for a log per trial.
    """

    def __init__(self, root: Path, logs: Path) -> None:
        self._root = root
        self._logs = logs
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def log(self, name: str) -> Path:
        """Return the file with what a trial said."""
        return self._logs / f"{name}.log"

    def finished(self) -> dict[str, str]:
        """Return the experiments that are through: name to commit."""
        listing = self._git("for-each-ref", "--format=%(refname) %(objectname)", "refs/exps")
        pairs = [line.split() for line in listing.splitlines()]
        return {ref.rpartition("/")[2]: commit for ref, commit in pairs if ref.count("/") == 4}

    def start(self, name: str, settings: Mapping[str, Any], copied: Sequence[str] = ()) -> Process:
        """Start a trial, and wait until it has a working copy of its own: DVC makes one at a time.

        Args:
            name: of the experiment.
            settings: values by key of params.yaml.
            copied: paths that neither git nor DVC knows, for the copy.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        before = self._copies(name)
        with self.log(name).open("ab") as log:
            child = subprocess.Popen(
                command(name, settings, copied),
                cwd=self._root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the sweep, which passes it on
            )
        self._children[child.pid] = child
        process = Process(name=name, pid=child.pid, started=psutil.Process(child.pid).create_time())
        until = time.monotonic() + START_SECONDS
        while child.poll() is None and not self._copies(name) - before and time.monotonic() < until:
            time.sleep(0.2)
        return process

    def alive(self, process: Process) -> bool:
        """Return whether a trial's process still runs."""
        child = self._children.get(process.pid)
        return process.alive() if child is None else child.poll() is None

    def borrowed(self, process: Process, others: Iterable[Process]) -> Process | None:
        """Return the process that runs a trial in the place of its own, if any.

        One that has ended its trial looks for a further one before it leaves, and may take what was started just then.
        """
        child = self._children.get(process.pid)
        if child is None or child.poll() != 0:
            return None
        return next((other for other in others if _stages(other.pid, process.name)), None)

    def unchanged(self, process: Process) -> str | None:
        """Return the commit that a trial is the same as, if it is: DVC makes no experiment where nothing differs."""
        child = self._children.get(process.pid)
        if child is None or child.poll() != 0:
            return None
        said = self.log(process.name).read_text(encoding="utf-8", errors="replace")
        through = f"Stage '{STAGE}' didn't change, skipping" in said or f"Stage '{STAGE}' is cached" in said
        return self._git("rev-parse", "HEAD").strip() if through else None

    def stop(self, process: Process, *, at_once: bool = False) -> None:
        """Ask a trial to stop: its stage, or DVC where no stage runs; `at_once` kills all there is of it."""
        if not self.alive(process):
            return
        try:
            parent = psutil.Process(process.pid)
            stages = _stages(process.pid, process.name)
            if at_once:
                targets = [*parent.children(recursive=True), parent]
            else:
                # The outermost: a launcher passes it on.
                ids = {stage.pid for stage in stages}
                targets = [stage for stage in stages if stage.ppid() not in ids] or [parent]
            for target in targets:
                target.send_signal(signal.SIGKILL if at_once else signal.SIGINT)
        except psutil.NoSuchProcess:
            return

    def run_id(self, name: str) -> str | None:
        """Return the MLflow run that a trial's training said it logs to; None while it has not, or never trained."""
        try:
            found = _RUN.findall(self.log(name).read_text(encoding="utf-8", errors="replace"))
        except FileNotFoundError:
            return None
        return found[-1] if found else None

    def report(self, commit: str, path: Path) -> Any:
        """Return what a JSON report of an experiment holds.

        Raises:
            SeqtrackError: it is not in DVC's cache.
        """
        from dvc.api import read  # late: it takes its time
        from dvc.exceptions import DvcException

        try:
            return json.loads(read(path.as_posix(), repo=str(self._root), rev=commit))
        except (DvcException, OSError, ValueError) as error:
            raise SeqtrackError(f"no {path} of this experiment ({error})", where=f"git commit {commit[:10]}") from error

    def reason(self, name: str) -> str:
        """Return why a trial failed, in one line from its log: the last that says error, or the last of all."""
        try:
            lines = self.log(name).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return "it left no log"
        said = [line.strip() for line in lines if not _NOISE.match(line)]
        errors = [line for line in said if re.match(r"error:|\w*(Error|Exception)\b", line)]
        return (errors or said or ["it left an empty log"])[-1][:300]

    def untracked(self, paths: Iterable[str]) -> list[str]:
        """Return those of some paths that exist and that neither git nor DVC would bring into a working copy."""
        found = []
        for path in paths:
            inside = Path(path)
            if inside.is_absolute() or not (self._root / inside).exists():
                continue
            kept = any((self._root / f"{each}.dvc").exists() for each in (inside, *inside.parents) if each.name)
            if not kept and not self._git("ls-files", "--", path).strip():
                found.append(path)
        return found

    def _copies(self, name: str) -> set[str]:
        """Return the working copies that DVC has made, or is about to, for an experiment of this name."""
        found = set()
        for file in (self._root / ".dvc" / "tmp" / "exps" / "run").glob("*/*.run"):
            try:
                info = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError):  # gone, or half written: there is a next look
                continue
            if info.get("name") == name:
                found.add(f"{file}:{info.get('root_dir')}")
        return found

    def _git(self, *arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(self._root), *arguments], capture_output=True, text=True)
        if done.returncode:
            raise SeqtrackError(
                f"git {arguments[0]} failed", where=str(self._root), found=done.stderr.strip(), fix="a sweep needs git"
            )
        return done.stdout


def command(name: str, settings: Mapping[str, Any], copied: Sequence[str] = ()) -> list[str]:
    """Return the command that runs a trial."""
    values = [part for key, value in settings.items() for part in ("-S", f"{key}={flag(value)}")]
    copies = [part for path in copied for part in ("--copy-paths", path)]
    # Another trial may hold DVC's lock for a moment.
    dvc = [sys.executable, "-m", "dvc", "--wait-for-lock"]
    return [*dvc, "exp", "run", "--temp", "--name", name, *copies, *values, STAGE]


def _stages(pid: int, name: str) -> list[psutil.Process]:
    """Return the processes below one that run a stage of an experiment."""
    found = []
    try:
        for child in psutil.Process(pid).children(recursive=True):
            try:
                words = child.cmdline()
                if any(word.startswith("stages.") for word in words) and child.environ().get("DVC_EXP_NAME") == name:
                    found.append(child)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
    except psutil.NoSuchProcess:
        pass
    return found
