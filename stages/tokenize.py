"""Tokenize canonical rows once, for every split and every run.

Reads:  data/validated/rows.parquet, the tokenizer of model.name_or_path, or of data/vocabulary/
Writes: data/tokenized/ (Arrow files, manifest), data/reports/tokenization.json (lengths, the check of what was cut),
        data/reports/length_distribution.csv;
        .seqtrack/tokens (tokens by text, so that later runs tokenize new texts only; may be deleted)

Fails, and writes none of these, when rows are longer than tokenize.max_length and tokenize.truncation is error.
"""

from pipeline.params import Params
from pipeline.paths import REPORTS, ROWS, TOKENIZED, state
from pipeline.tokenization import tokenize_rows
from stages.runner import run_stage


def tokenize(params: Params) -> None:
    """Run the stage."""
    tokenize_rows(ROWS, TOKENIZED, REPORTS, params.tokenize, params.model, cache=state() / "tokens")


if __name__ == "__main__":
    run_stage(tokenize, __doc__, output=TOKENIZED)
