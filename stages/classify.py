"""Classify texts: `python -m stages.classify "a text"`, or a line each on standard input.

Writes the answers to standard output: readable on a terminal, else (or with --json) as JSON lines. Not a stage of the
graph.
"""

from __future__ import annotations

import argparse
import os
import sys

from pipeline.errors import SeqtrackError
from pipeline.paths import MODEL


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="python -m stages.classify", description=__doc__)
    parser.add_argument("text", nargs="*", help="texts; none: lines of standard input; a tab parts the texts of a pair")
    parser.add_argument("--model", default=str(MODEL), help=f"a folder, runs:/<run_id> or models:/... ({MODEL})")
    parser.add_argument("--pair", help="the second text of a pair")
    parser.add_argument("--json", action="store_true", help="JSON lines also on a terminal")
    arguments = parser.parse_args()
    typed = sys.stdin.isatty()
    try:
        from pipeline.classify import WINDOW, answers  # late: --help needs no model
        from pipeline.model_uri import load_model

        model = load_model(arguments.model)
        lines = arguments.text or sys.stdin
        for answer in answers(model, lines, pair=arguments.pair, window=1 if typed else WINDOW):
            print(answer.json if arguments.json or not sys.stdout.isatty() else answer.readable, flush=typed)
    except SeqtrackError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
