"""Fine-tune the encoder; start through `accelerate launch`, resumes by itself.

Reads:  data/splits/, data/tokenized/, data/validated/, the weights of model.name_or_path
Writes: data/model/ (weights, config, tokenizer, labels, manifest), data/reports/history.csv,
        data/reports/training_curve.csv, data/reports/figures/learning_curves.png;
        checkpoints under .seqtrack/checkpoints/<run_key>, the run in MLflow
"""

from pipeline.fine_tuning import fine_tune
from pipeline.params import Params
from stages.runner import run_stage

# What shaped the model; evaluate and predict log their own sections.
LOGGED = ("fetch", "data", "validate", "split", "tokenize", "model", "train", "launch")


def train(params: Params) -> None:
    """Run the stage."""
    fine_tune(params.train, params.model, params.tracking, params.flat(*LOGGED))


if __name__ == "__main__":
    run_stage(train, __doc__)
