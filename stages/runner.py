"""What all stages share: --help, checked params, one-line errors, wall time.

Promises: params.yaml is checked whole before a stage does anything; a user's mistake ends in one line on standard
error and exit code 1, a bug in a traceback.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import timings
from pipeline.errors import SeqtrackError, Stopped
from pipeline.params import Params, load_params


def run_stage(stage: Callable[[Params], None], description: str | None, *, output: Path | None = None) -> None:
    """Run a stage as a program and exit.

    Args:
        stage: does the work.
        description: the stage module's docstring, shown by --help.
        output: the output folder (with a manifest) under which to file the stage's wall time, if any.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{stage.__name__}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Settings come from params.yaml in the working folder. Usually run by `dvc repro`.",
    )
    parser.parse_args()
    started = time.perf_counter()
    with mistakes_in_one_line():
        stage(load_params())
        if output is not None:
            timings.record(stage.__name__, output, time.perf_counter() - started)


@contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """End the program with one line and status 1 for a user's mistake; in order where it was told to stop."""
    try:
        yield
    except SeqtrackError as error:
        sys.exit(f"error: {error}")
    except Stopped as stopped:
        if str(stopped):
            print(stopped, file=sys.stderr)
        sys.exit(stopped.status)
    except KeyboardInterrupt:
        sys.exit(130)
