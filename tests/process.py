"""A stage as a process of its own, as `dvc repro` starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_stage_process(stage: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a stage in a folder with a params.yaml, outside any DVC experiment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    return subprocess.run(
        [sys.executable, "-m", f"stages.{stage}"],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
