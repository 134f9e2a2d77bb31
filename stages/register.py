"""Register the trained model in MLflow's model registry, with a model card; upload both to the hub if params say so.

Reads:  data/model, data/reports (run `dvc repro` before)
Writes: data/reports/model_card.md; a version of register.name with the alias register.alias; with register.push_to_hub
        a repository on the hub

Nothing is written unless the scores are as register.minimum and register.maximum ask, and no worse than those of the
version that has the alias. Registering the same model again makes no second version. Not a stage of the graph.
"""

from __future__ import annotations

import argparse

from pipeline.params import load_params
from pipeline.paths import MODEL, REPORTS
from stages.runner import mistakes_in_one_line


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.register", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--force", action="store_true", help="also where the alias's holder is better; not past the gate"
    )
    arguments = parser.parse_args()
    with mistakes_in_one_line():
        params = load_params()
        from pipeline import hub_upload, registry  # late: they take seconds to load, and mistakes are told before
        from pipeline.console import facts, say
        from pipeline.model_card import CARD, write_card
        from pipeline.trained import read_trained

        settings = params.register_
        trained = read_trained(MODEL, REPORTS)
        compared = registry.check(trained, settings, force=arguments.force)
        upload = hub_upload.prepare(settings) if settings.push_to_hub else None
        card = write_card(trained, settings, REPORTS / CARD)
        done = registry.register(trained, card, settings, params.tracking, compared)
        known = "" if done.fresh else ", registered before"
        say(f"register: {done.name} version {done.version}{known}, is {settings.alias}")
        if compared:
            say(f"register: {compared}")
        if upload is not None:
            say(f"register: uploaded to {upload(trained, card)}")
        facts(
            "", [("model", f"models:/{done.name}@{settings.alias}"), ("card", str(card)), ("MLflow run", done.run_id)]
        )


if __name__ == "__main__":
    main()
