"""List the checkpoints of all trainings, and delete those of finished ones: `python -m stages.prune --delete`.

Results stay: models, runs and reports lie elsewhere, and what `train.checkpoint.log_to_mlflow` has put into a run's
artifacts stays there, too. What is lost is going on from here with more epochs. Without --delete nothing is changed.
"""

from __future__ import annotations

import argparse

from pipeline.paths import checkpoints
from stages.runner import mistakes_in_one_line


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.prune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--delete", action="store_true", help="delete those of finished trainings")
    delete = parser.parse_args().delete
    with mistakes_in_one_line():
        from pipeline.console import say
        from pipeline.findings import gib
        from pipeline.pruning import delete_finished, show, stored

        home = checkpoints("")
        trainings = stored(home)
        if not trainings:
            say(f"prune: no checkpoints in {home}")
            return
        show(trainings)
        if delete:
            say(f"prune: {gib(delete_finished(trainings))} freed")
            return
        finished = [training.size for training in trainings if training.finished]
        say(
            f"prune: {len(finished):,} of {len(trainings):,} are finished, {gib(sum(finished))}; "
            "--delete (make prune DELETE=1) deletes them"
        )


if __name__ == "__main__":
    main()
