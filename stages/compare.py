"""Compare two trainings: `python -m stages.compare A B`, or `make compare A=... B=...`.

A and B are each a DVC experiment, a commit, branch or tag, `workspace` (data/ as it is), or an MLflow run by its id,
name or runs:/<id>. Shows the params that differ, the rows that differ, scores with paired intervals and p-values, and
the rows whose prediction flipped. Not a stage of the graph; the working folder stays as it is. Resamples, confidence
and seed are those of evaluate in params.yaml.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.params import load_params
from stages.runner import mistakes_in_one_line


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="python -m stages.compare", description=__doc__)
    parser.add_argument("a", metavar="A", help="the one to start from")
    parser.add_argument("b", metavar="B", help="the one that is to be better")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with all metrics and whole texts")
    parser.add_argument("--limit", type=_count, default=10, help="most rows shown of each kind (10)")
    parser.add_argument("--permutations", type=_count, default=2_000, help="swaps behind a p-value (2000)")
    arguments = parser.parse_args()
    with mistakes_in_one_line():
        evaluate = load_params().evaluate
        # Late: they take seconds to load, and mistakes in the arguments are told before.
        from pipeline.comparing import Settings, compare
        from pipeline.comparison_report import show, write_page
        from pipeline.revisions import open_sides

        settings = Settings.of(evaluate, permutations=arguments.permutations, limit=arguments.limit)
        with open_sides(arguments.a, arguments.b) as (a, b):
            comparison = compare(a, b, settings)
        show(comparison)
        if arguments.html is not None:
            write_page(comparison, arguments.html)
            print(f"page: {arguments.html}")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


if __name__ == "__main__":
    main()
