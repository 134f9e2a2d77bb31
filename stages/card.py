"""Write the model card of the trained model in Hugging Face's format, without registering anything.

Reads:  data/model, data/reports, data/splits (run `dvc repro` before)
Writes: data/reports/model_card.md, the same bytes for the same model. Not a stage of the graph; register does it, too.
"""

from pipeline.params import Params
from pipeline.paths import MODEL, REPORTS
from stages.runner import run_stage


def card(params: Params) -> None:
    """Run the program."""
    from pipeline.console import say  # late: they take seconds to load, and a mistake in params.yaml is told before
    from pipeline.model_card import CARD, write_card
    from pipeline.trained import read_trained

    say(f"card: {write_card(read_trained(MODEL, REPORTS), params.register_, REPORTS / CARD)}")


if __name__ == "__main__":
    run_stage(card, __doc__)
