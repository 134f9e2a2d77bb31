"""Where data come from before they are the user's own: one entry per `fetch.source`.

Promises: plain JSON Lines files, one per split, and a manifest; the same bytes on every run.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.glue import find_task
from pipeline.outputs import write_manifest
from pipeline.params import Fetch
from pipeline.sources_glue import write_glue
from pipeline.sources_hub import load_hub, resolve_commit, write_splits
from pipeline.sources_sample import PACKAGE, write_sample


def fetch(settings: Fetch, folder: Path) -> dict[str, int]:
    """Fill an empty folder from the source that the settings name.

    Returns:
        File name to rows in it; empty for source `none`.

    Raises:
        SeqtrackError: the sample's package is missing or incomplete; the hub cannot be reached, or does not have or
            give what was asked for; there is no such GLUE task, or its files are not as they should be.
    """
    rows: dict[str, int]
    if settings.source == "sample":
        rows, digest = write_sample(folder)
        write_manifest(folder, inputs={PACKAGE: digest}, params={"source": "sample"}, rows=rows)
    elif settings.source == "hub":
        name = str(settings.name)  # params has made sure that there is one
        commit = resolve_commit(name, settings.revision)
        rows = write_splits(load_hub(name, settings.config, commit), folder)
        write_manifest(folder, inputs={}, params=settings.model_dump(mode="json"), rows=rows, commit=commit)
    elif settings.source == "glue":
        rows = write_glue(settings, find_task(str(settings.name)), folder)
    else:
        rows = {}
        write_manifest(folder, inputs={}, params={"source": "none"}, rows=rows)
    return rows
