"""Collect GLUE's eleven submission files into submission.zip: `python -m stages.glue_zip [files or folders]`.

Takes files given first, then those of data/predictions/submission, then the newest of each test set that predict kept
in .seqtrack/submission. Not a stage of the graph.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.console import say, table
from pipeline.errors import SeqtrackError
from pipeline.outputs import sha256_file
from pipeline.paths import PREDICTIONS
from pipeline.submission import FOLDER, kept, zip_all

ARCHIVE = Path("submission.zip")


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="python -m stages.glue_zip", description=__doc__)
    parser.add_argument("place", nargs="*", type=Path, help="files, or folders of files, that go before all others")
    parser.add_argument("--output", type=Path, default=ARCHIVE)
    arguments = parser.parse_args()
    try:
        taken = zip_all([*arguments.place, PREDICTIONS / FOLDER, kept()], arguments.output)
    except SeqtrackError as error:
        sys.exit(f"error: {error}")
    table("submission", ["test set", "file", "sha256"], [[n, str(f), sha256_file(f)[:10]] for n, f in taken.items()])
    say(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
