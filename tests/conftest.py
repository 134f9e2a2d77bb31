"""What several files share because making it takes seconds: an MLflow store. Settings of hypothesis, order of files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no failure.
settings.register_profile("busy", deadline=None)
# Continuous integration judges the change at hand: the same examples each time. New ones are looked for by developers.
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "busy")

REPOSITORY = Path(__file__).parent.parent
LONGEST = ("test_end_to_end.py", "test_sample.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: where files are shared among processes, the others fit in beside them."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


RACE = """
import sys
import mlflow.entities, mlflow.exceptions
from pipeline.tracking import tracked_run
print("ready", flush=True)
sys.stdin.readline()
with tracked_run("9" * 64, "texts") as run:
    print(run.run_id)
"""


@pytest.fixture(scope="session")
def mlflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repository")


@pytest.fixture(scope="session")
def racers(mlflow_home: Path) -> list[tuple[int, str, str]]:
    """Two processes that use an MLflow store first, at once: status, standard output and standard error of each."""
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    environment |= {"DVC_ROOT": str(mlflow_home), "PYTHONPATH": str(REPOSITORY)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RACE],
            cwd=mlflow_home,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for racer in started:
        assert racer.stdout is not None
        racer.stdout.readline()  # all have imported all they need
    for racer in started:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    outputs = [racer.communicate(timeout=120) for racer in started]
    return [(racer.returncode, *output) for racer, output in zip(started, outputs, strict=True)]


@pytest.fixture(scope="session")
def mlflow_root(mlflow_home: Path, racers: object) -> Path:
    """The root of a repository whose MLflow store the racers made."""
    return mlflow_home


@pytest.fixture(scope="session")
def finished(mlflow_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which all stages up to evaluate ran, on a tiny model."""
    from tests.whole_run import whole_run

    folder = tmp_path_factory.mktemp("finished") / "work"
    with whole_run(folder, mlflow_root):
        return folder
