"""Make the vocabulary of a model that is trained from nothing; for a pretrained encoder there is nothing to make.

Reads:  data/splits/train.parquet, data/validated/rows.parquet
Writes: data/vocabulary/ (configuration, tokenizer, manifest; for a pretrained encoder an empty manifest, the same for
        all data)
Params: model.from_scratch
"""

from pipeline.from_scratch import write_vocabulary
from pipeline.params import Params
from pipeline.paths import ROWS, SPLITS, VOCABULARY
from stages.runner import run_stage


def vocabulary(params: Params) -> None:
    """Run the stage."""
    write_vocabulary(ROWS, SPLITS / "train.parquet", VOCABULARY, params.model.from_scratch)


if __name__ == "__main__":
    run_stage(vocabulary, __doc__, output=VOCABULARY)
