"""What this machine has, without torch: Python, packages, cores, memory, disk, hub, MLflow, DVC, git.

Promises: nothing is changed or made, nothing waits longer than `TIMEOUT`, and a tool that is absent is a finding.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import subprocess
import tomllib
import urllib.error
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any, Final

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from pipeline.findings import GIB, Finding, error, fact, gib, warning
from pipeline.paths import MlflowStore, hub_endpoint, hub_offline

TIMEOUT: Final = 3.0
"""Seconds that a server gets to answer."""
SCARCE_DISK: Final = 5 * GIB
SET_UP: Final = "run `make setup`"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a container grants of the machine; None where it grants all.

    Attributes:
        cpus: processors' worth of time.
        memory: bytes.
    """

    cpus: float | None
    memory: int | None


def cgroup_limits(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Limits:
    """Return the tightest limits of this process's control group and those around it (Linux; none elsewhere)."""
    paths = re.findall(r"^0::/(.*)$", _read(own), re.MULTILINE)
    folders = [root / inner for path in paths for inner in (Path(path), *Path(path).parents)] or [root]
    cpus, memory = [], []
    for folder in dict.fromkeys(folders):
        quota = re.fullmatch(r"(\d+) (\d+)", _read(folder / "cpu.max").strip())
        if quota:
            cpus.append(int(quota[1]) / int(quota[2]))
        if (most := _read(folder / "memory.max").strip()).isdigit():
            memory.append(int(most))
    # The first version of control groups has a folder per resource, and no limit is -1 or a huge number.
    quota_us, period_us = (_read(root / "cpu" / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    if quota_us.isdigit() and period_us.isdigit():
        cpus.append(int(quota_us) / int(period_us))
    if (most := _read(root / "memory" / "memory.limit_in_bytes").strip()).isdigit() and int(most) < 2**60:
        memory.append(int(most))
    return Limits(cpus=min(cpus, default=None), memory=min(memory, default=None))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""


def python(project: Path, version: str | None = None) -> Finding:
    """Compare Python (this one, unless another version is given) with what pyproject.toml asks for."""
    found = version or platform.python_version()
    wanted = _project(project).get("requires-python", "")
    if wanted and Version(found) not in SpecifierSet(wanted):
        return error("Python", found, f"pyproject.toml asks for {wanted}", f"{SET_UP} with PYTHON=<a newer python3>")
    return fact("Python", f"{found} on {platform.system()} {platform.machine()}")


def packages(project: Path) -> list[Finding]:
    """Compare the installed packages with pyproject.toml, which they must satisfy, and with the tested pins."""
    findings = []
    for text in _project(project).get("dependencies", []):
        wanted = Requirement(text)
        found = _version(wanted.name)
        if found is None:
            findings.append(error(wanted.name, "not installed", "the pipeline needs it", SET_UP))
        elif found not in wanted.specifier:
            findings.append(error(wanted.name, str(found), f"pyproject.toml asks for {wanted.specifier}", SET_UP))
    pins = dict(re.findall(r"^([\w.-]+)==([\w.!+-]+)$", _read(project / "constraints.txt"), re.MULTILINE))
    installed = {name: found for name in pins if (found := _version(name)) is not None}
    others = [name for name, found in installed.items() if found.public != Version(pins[name]).public]
    value = f"{len(installed) - len(others)} of {len(pins)} at the pinned version"
    if not others:
        return [*findings, fact("packages", value)]
    named = ", ".join(f"{name} {installed[name]} (pinned {pins[name]})" for name in others[:3])
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    problem = f"{named}{more}: results may differ from those of others"
    return [*findings, warning("packages", value, problem, SET_UP)]


def _project(project: Path) -> dict[str, Any]:
    text = _read(project / "pyproject.toml")
    return dict(tomllib.loads(text).get("project", {}))


def _version(name: str) -> Version | None:
    try:
        return Version(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None


def cores(limits: Limits) -> Finding:
    """Say how many processors there are, and how many of them this process may use."""
    logical, physical = psutil.cpu_count() or 1, psutil.cpu_count(logical=False)
    parts = [f"{physical} cores, {logical} threads" if physical else f"{logical} processors"]
    if hasattr(os, "sched_getaffinity") and (allowed := len(os.sched_getaffinity(0))) < logical:
        parts.append(f"this process may use {allowed}")
    if limits.cpus is not None:
        parts.append(f"its container grants {limits.cpus:g}")
    return fact("processors", "; ".join(parts))


def bfloat16_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...] | None:
    """Return by which instructions the processor multiplies in bfloat16; None where the system does not tell."""
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", _read(cpuinfo), re.MULTILINE)
    if flags is None:
        return None
    return tuple(name for name in ("amx_bf16", "avx512_bf16", "bf16") if name in flags[1].split())


def cpu_bfloat16(instructions: tuple[str, ...] | None) -> Finding:
    """Say whether the processor multiplies in bfloat16 by itself."""
    if instructions is None:
        return fact("bf16 on the CPU", "unknown: this system does not tell")
    return fact("bf16 on the CPU", f"yes ({', '.join(instructions)})" if instructions else "no")


def memory(limits: Limits) -> Finding:
    """Say how much memory there is."""
    found = psutil.virtual_memory()
    granted = f"; its container grants {gib(limits.memory)}" if limits.memory is not None else ""
    return fact("memory", f"{gib(found.available)} free of {gib(found.total)}{granted}")


def disk(name: str, folder: Path) -> Finding:
    """Say how much room there is in a folder, or where it would be made."""
    free = free_bytes(folder)
    value = f"{gib(free)} free ({folder})"
    if free < SCARCE_DISK:
        return warning(name, value, f"less than {gib(SCARCE_DISK)}", "make room, or training may end in a full disk")
    return fact(name, value)


def free_bytes(folder: Path) -> int:
    """Return the free bytes where a folder is, or would be made."""
    there = next(place for place in (folder, *folder.resolve().parents) if place.exists())
    return shutil.disk_usage(there).free


def hub() -> Finding:
    """Say whether the Hugging Face hub answers; whether that matters the plan knows."""
    endpoint = hub_endpoint()
    if hub_offline():
        return fact("hub", f"{endpoint}: not asked, HF_HUB_OFFLINE is set")
    if (problem := unreachable(endpoint)) is None:
        return fact("hub", f"{endpoint} answers")
    fix = "set HF_ENDPOINT to one that does, or HF_HUB_OFFLINE=1 to work from local files and the cache"
    return warning("hub", f"{endpoint}: {problem}", "it cannot be reached", fix)


def unreachable(address: str) -> str | None:
    """Return why a web server does not answer, or None where it does, whatever it says."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=TIMEOUT):
            return None
    except urllib.error.HTTPError as refusal:  # an answer, too
        return None if refusal.code < 500 else f"HTTP {refusal.code}"
    except (OSError, ValueError) as failure:
        return str(getattr(failure, "reason", failure))


def mlflow(store: MlflowStore) -> Finding:
    """Say whether the MLflow store can be used: a server that answers, or a database of this MLflow's schema."""
    uri = store.tracking_uri
    if uri.startswith("sqlite:///"):
        return _mlflow_database(Path(uri.removeprefix("sqlite:///")))
    if uri.startswith(("http://", "https://")):
        if (problem := unreachable(f"{uri.rstrip('/')}/health")) is None:
            return fact("MLflow", f"{uri} answers")
        fix = "start it, or unset MLFLOW_TRACKING_URI to use mlflow.db beside dvc.yaml"
        return error("MLflow", f"{uri}: {problem}", "the server does not answer, and train logs to it", fix)
    return fact("MLflow", f"{uri} (not tried)")


def _mlflow_database(file: Path) -> Finding:
    if not file.exists():
        return fact("MLflow", f"{file}: made by the first training")
    remedy = f"move {file.name} away, and the next training makes a new one"
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=TIMEOUT)) as database:
            row = database.execute("SELECT version_num FROM alembic_version").fetchone()
            runs = database.execute("SELECT COUNT(*) FROM runs").fetchone()[0]
    except sqlite3.Error as failure:
        return error("MLflow", str(file), f"not a database of MLflow ({failure})", remedy)
    found, newest = (row[0] if row else "none"), _newest_mlflow_schema()
    value = f"{file}: {runs} runs, schema {found}"
    if newest is not None and found != newest:
        fix = f"keep a copy of it, then run `mlflow db upgrade sqlite:///{file}`; where that fails, {SET_UP}"
        return error("MLflow", value, f"this MLflow's schema is {newest}", fix)
    return fact("MLflow", value)


def _newest_mlflow_schema() -> str | None:
    """Return the newest schema that the installed MLflow knows, from its migrations: to import it takes seconds."""
    spec = util.find_spec("mlflow")
    if spec is None or spec.origin is None:
        return None
    made, replaced = set(), set()
    for file in (Path(spec.origin).parent / "store" / "db_migrations" / "versions").glob("*.py"):
        text = _read(file)
        made.update(re.findall(r"^revision = [\"'](\w+)[\"']", text, re.MULTILINE))
        replaced.update(re.findall(r"^down_revision = [\"'](\w+)[\"']", text, re.MULTILINE))
    heads = made - replaced
    return heads.pop() if len(heads) == 1 else None


def dvc(project: Path) -> list[Finding]:
    """Say whether this is a DVC repository, where its cache is and whether it has a remote."""
    if shutil.which("dvc") is None:
        return [error("DVC", "not found on the PATH", "`dvc repro` cannot be run", "run `. .venv/bin/activate`")]
    if not (project / ".dvc").is_dir():
        problem, fix = "dvc needs one here", "run from a clone of the project, or `dvc init` (--no-scm without git)"
        return [error("DVC", f"no .dvc in {project}", problem, fix)]
    from dvc.config import Config, ConfigError  # takes a while

    try:
        settings = Config(str(project / ".dvc"))
    except ConfigError as problem:
        return [error("DVC", str(project / ".dvc"), str(problem), "correct .dvc/config")]
    remote = settings["core"].get("remote")
    cache = Path(settings["cache"].get("dir") or project / ".dvc" / "cache")
    findings = [disk("disk: DVC cache", cache)]
    if remote:
        findings.insert(0, fact("DVC remote", f"{remote} ({settings['remote'][remote]['url']})"))
    else:
        findings.insert(0, fact("DVC remote", "none: data and models stay on this machine (dvc remote add -d ...)"))
    return findings


def git(project: Path) -> Finding:
    """Say what git says: experiments, and a run's commit, need a repository with a commit."""
    fix = "run `git init && git add -A && git commit -m start`"
    if shutil.which("git") is None:
        problem = "runs do not name the code's commit, and `dvc exp run` does not work"
        return warning("git", "not found on the PATH", problem, "install git")
    inside = _git(project, "rev-parse", "--is-inside-work-tree")
    if inside is None:
        return warning("git", "no repository", "`dvc exp run` needs one, and runs do not name the code's commit", fix)
    commit = _git(project, "rev-parse", "--short", "HEAD")
    if commit is None:
        return warning("git", "no commit yet", "`dvc exp run` needs one", "run `git add -A && git commit -m start`")
    changes = (_git(project, "status", "--porcelain") or "").splitlines()
    branch = _git(project, "rev-parse", "--abbrev-ref", "HEAD")
    return fact("git", f"{branch} at {commit}" + (f", {len(changes)} files changed since" if changes else ", clean"))


def _git(project: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(project), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
