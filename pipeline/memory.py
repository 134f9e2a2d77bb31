"""How much memory this process has needed at most.

Promises: nothing heavy is imported for it, and where a system does not tell there is no number rather than a wrong one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

MEMORY = "stage_peak_memory_bytes/"  # of metrics in MLflow, followed by the stage
DEVICE_MEMORY = "stage_peak_device_memory_bytes/"


def peak_memory() -> int | None:
    """Return the largest resident set of this process so far, in bytes; None on systems that do not tell."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, whose getrusage counts the parent's memory, too
        found = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(encoding="ascii", errors="replace"), re.MULTILINE)
        return None if found is None else int(found[1]) * 1024
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def peak_device_memory() -> int | None:
    """Return the most bytes that tensors took on the GPU; None where none was used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_allocated())


def stage_memory(stage: str) -> dict[str, float]:
    """Return what this process has needed, as metrics of a stage."""
    found = {f"{MEMORY}{stage}": peak_memory(), f"{DEVICE_MEMORY}{stage}": peak_device_memory()}
    return {name: float(value) for name, value in found.items() if value is not None}
