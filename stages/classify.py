"""Classify texts: `python -m stages.classify "a text"`, or a line each on standard input.

Writes the answers to standard output: readable on a terminal, else (or with --json) as JSON lines. Not a stage of the
graph. With the model of this folder, probabilities have predict.temperature of params.yaml.
"""

from __future__ import annotations

import argparse
import os
import sys

from pipeline.errors import SeqtrackError
from pipeline.params import load_params
from pipeline.paths import MODEL, PARAMS_FILE


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="python -m stages.classify", description=__doc__)
    parser.add_argument("text", nargs="*", help="texts; none: lines of standard input; a tab parts the texts of a pair")
    parser.add_argument("--model", help=f"a folder, runs:/<run_id> or models:/... ({MODEL})")
    parser.add_argument("--pair", help="the second text of a pair")
    parser.add_argument("--json", action="store_true", help="JSON lines also on a terminal")
    arguments = parser.parse_args()
    typed = sys.stdin.isatty()
    try:
        from pipeline.classify import WINDOW, answers  # late: --help needs no model
        from pipeline.model_uri import load_model

        # The temperature in params.yaml is the one that fits the model beside it.
        own = not arguments.model and PARAMS_FILE.is_file()
        temperature = load_params().predict.temperature if own else 1.0
        model = load_model(arguments.model or str(MODEL))
        lines = arguments.text or sys.stdin
        window = 1 if typed else WINDOW
        for answer in answers(model, lines, pair=arguments.pair, window=window, temperature=temperature):
            print(answer.json if arguments.json or not sys.stdout.isatty() else answer.readable, flush=typed)
    except SeqtrackError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
