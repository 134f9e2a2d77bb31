"""Search params.yaml's section sweep.space for the best values: `python -m stages.sweep`, or `make sweep`.

Each trial is a DVC experiment and an MLflow run under one parent run. Starting again goes on with the same search.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.sweeping import Options, dry_run, sweep
from stages.runner import mistakes_in_one_line


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.sweep",
        description=__doc__,
        epilog="Trials, metric, sampler and pruner: section sweep of params.yaml. A guide: docs/sweeps.md.",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and run nothing")
    parser.add_argument("--name", help="of the search; otherwise what it searches decides")
    parser.add_argument("--space", type=Path, help="a YAML file in place of sweep.space")
    parser.add_argument("--trials", type=int, metavar="N", help="in all, in place of sweep.n_trials")
    parser.add_argument("--write-best", action="store_true", help="write the best values into params.yaml")
    parser.add_argument("--allow-test-metric", action="store_true", help="let sweep.metric be of the test split")
    arguments = parser.parse_args()
    if arguments.trials is not None and arguments.trials < 1:
        parser.error("--trials needs a number above 0")
    options = Options(
        name=arguments.name,
        space=arguments.space,
        allow_test=arguments.allow_test_metric,
        write_best=arguments.write_best,
        trials=arguments.trials,
    )
    with mistakes_in_one_line():
        if arguments.dry_run:
            dry_run(options)
        elif not sweep(options):
            sys.exit("error: no trial came to its end.")


if __name__ == "__main__":
    main()
