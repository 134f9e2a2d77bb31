"""How long each stage took, remembered beside the repository.

Promises: a duration is filed under the digest of the output it produced, so that a run which got that output from
DVC's cache still knows what making it cost; nothing in here enters a DVC output.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.outputs import MANIFEST, folder_digest, read_json, write_json
from pipeline.paths import state


def record(stage: str, output: Path, seconds: float) -> None:
    """Remember that `stage` took `seconds` of wall time to make the output folder `output`."""
    write_json(_file(stage, output), {"stage": stage, "seconds": round(seconds, 3)})


def recall(stage: str, output: Path) -> float | None:
    """Return the seconds it took to make `output`, or None when it is not here or was not made on this machine."""
    if not (output / MANIFEST).is_file():
        return None
    file = _file(stage, output)
    return float(read_json(file)["seconds"]) if file.is_file() else None


def _file(stage: str, output: Path) -> Path:
    return state() / "timings" / f"{stage}-{folder_digest(output)[:32]}.json"
