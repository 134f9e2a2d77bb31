"""Bring the data here: the bundled sample, a data set from the Hugging Face hub, a GLUE task, or nothing.

Reads   fetch.source (params.yaml): sample | hub | glue | none; for hub also fetch.name, fetch.config, fetch.revision,
        and HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN from the environment; for glue fetch.name and the task's folder in
        fetch.path, or the hub where there is none
Writes  data/fetched/*.jsonl            one file per split, one JSON object a line
        data/fetched/ax/test_ax.jsonl   with MNLI, GLUE's diagnostic set: for predict alone
        data/fetched/manifest.json      where they come from, the exact commit, row counts, digests, rows left out

The sample (BBC News) comes with a package and needs no network. With none, set data.path to your own files.
"""

from __future__ import annotations

from pipeline import paths, sources
from pipeline.console import say
from pipeline.outputs import output_folder
from pipeline.params import Params
from stages.runner import run_stage


def fetch(params: Params) -> None:
    """Write data/fetched."""
    with output_folder(paths.FETCHED) as folder:
        rows = sources.fetch(params.fetch, folder)
    for name, count in rows.items():
        say(f"{paths.FETCHED / name}: {count:,} rows")
    if not rows:
        say("nothing to fetch: fetch.source is none")


if __name__ == "__main__":
    run_stage(fetch, __doc__, output=paths.FETCHED)
