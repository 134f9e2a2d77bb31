"""Follow a file of predictions back to its sources: `python -m stages.lineage data/predictions/test.jsonl`.

The chain: model, MLflow run, params, commit and code, base model, tokens, splits, validated rows, raw data. Every
digest is computed anew from what lies on disk. Prints a tree; exit code 1 if a link is changed or missing, the first of
which is named. A link is unknown, and breaks nothing, where it cannot be told here. Nothing is written or downloaded.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.params import load_params
from stages.runner import mistakes_in_one_line


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="python -m stages.lineage", description=__doc__)
    parser.add_argument("what", type=Path, help="a file in data/predictions, of any format, or a copy of one")
    arguments = parser.parse_args()
    with mistakes_in_one_line():
        params = load_params()
        from pipeline.lineage import Sections, trace  # late: mistakes in params.yaml are told before
        from pipeline.lineage_report import require_whole, show

        sections = Sections(
            data=params.data,
            split=params.split,
            tokenize=params.tokenize,
            model=params.model,
            train=params.train,
            predict=params.predict,
        )
        lineage = trace(arguments.what, sections)
        show(lineage)
        require_whole(lineage)
        print("every link that can be told is as it was")


if __name__ == "__main__":
    main()
