"""Serve the trained model over HTTP, as `mlflow models serve` does, and a page to try a text on.

POST /invocations takes texts (columns text and, for pairs, text_pair) as JSON or CSV and returns label and
probabilities; GET / is the page. Limits are in the section serve of params.yaml. Ctrl-C stops. Not a stage of the
graph. With the model of this folder, probabilities have predict.temperature of params.yaml.
"""

from __future__ import annotations

import argparse

from pipeline.console import say
from pipeline.params import load_params
from pipeline.paths import MODEL
from stages.runner import mistakes_in_one_line


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(prog="python -m stages.serve", description=__doc__)
    parser.add_argument("--model", help=f"a folder, runs:/<run_id> or models:/<name>@<alias> ({MODEL})")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen; default: this machine alone can reach it")
    parser.add_argument("--port", type=int, default=5001, help="0: any that is free (5001)")
    arguments = parser.parse_args()
    if not 0 <= arguments.port < 2**16:
        parser.error(f"--port {arguments.port}: expected 0 to {2**16 - 1}")
    with mistakes_in_one_line():
        params = load_params()
        from pipeline.serving_process import bind, run, url_of  # late: --help needs no server

        with bind(arguments.host, arguments.port) as listening:
            from pipeline.model_uri import load_model  # later still: a port that is taken is told at once
            from pipeline.serving import application

            name = arguments.model or str(MODEL)
            model = load_model(name)
            # The temperature in params.yaml is the one that fits the model beside it.
            temperature = 1.0 if arguments.model else params.predict.temperature
            served = application(model, params.serve, name=name, temperature=temperature)
            say(f"serving {name} ({model.classifier.digest[:10]}) on {model.classifier.device}: {url_of(listening)}")
            run(served, listening)
            say("stopped")


if __name__ == "__main__":
    main()
