"""Set params.yaml up for a task: `python -m stages.preset mrpc`, perhaps with `fetch.path=/data/glue` behind it.

With --flags it changes nothing, and prints arguments: `dvc exp run $(python -m stages.preset mrpc --flags)`.
"""

from __future__ import annotations

import argparse
import sys

from pipeline import presets
from pipeline.console import say, table
from pipeline.errors import SeqtrackError


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="python -m stages.preset", description=__doc__)
    parser.add_argument("name", nargs="?", help="a preset; none lists them")
    parser.add_argument("override", nargs="*", help="key=value, in place of the preset's")
    parser.add_argument("--flags", action="store_true", help="print arguments of dvc exp run instead")
    arguments = parser.parse_intermixed_args()
    try:
        if not arguments.name:
            table("presets", ["name", "task"], [[name, presets.description(name)] for name in presets.names()])
            return
        overrides = dict(map(presets.parse_override, arguments.override))
        if arguments.flags:
            print(*presets.flags(arguments.name, overrides))
            return
        changes = presets.apply(arguments.name, overrides)
    except SeqtrackError as error:
        sys.exit(f"error: {error}")
    say(presets.description(arguments.name))
    for change in changes:
        say(f"params.yaml: {change}")
    say("run it with: dvc repro" if changes else "params.yaml is set up for it already")


if __name__ == "__main__":
    main()
