"""Peak memory: what this process has really taken, and nothing where nothing is known."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline import memory
from pipeline.memory import MEMORY, peak_memory, stage_memory


def test_what_was_taken_is_in_the_peak() -> None:
    program = (
        "from pipeline.memory import peak_memory\n"
        "before = peak_memory()\n"
        "taken = b'x' * (200 * 2**20)\n"
        "print(peak_memory() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 190 * 2**20 < int(done.stdout) < 220 * 2**20


def test_a_stage_has_the_metrics_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "peak_device_memory", lambda: None)
    found = stage_memory("train")
    assert list(found) == [f"{MEMORY}train"]
    assert 0 < found[f"{MEMORY}train"] <= (peak_memory() or 0)
