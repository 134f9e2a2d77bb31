"""Fine-tune the encoder; start through `python -m stages.launch`, resumes by itself.

Reads:  data/splits/, data/tokenized/, data/validated/, the weights of model.name_or_path
        (or data/vocabulary/)
Writes: data/model/ (weights, config, tokenizer, labels, manifest), data/reports/history.csv,
        data/reports/training_curve.csv, data/reports/figures/learning_curves.png;
        checkpoints under .seqtrack/checkpoints/<run_key>, the run in MLflow
"""

from pipeline.allocator import keep_freed_memory
from pipeline.params import Params
from pipeline.ranks import settle, told_once
from pipeline.signals import StopSignals
from stages.runner import run_stage

# What shaped the model; evaluate and predict log their own sections.
LOGGED = ("fetch", "data", "validate", "split", "tokenize", "model", "train", "launch")


def train(params: Params) -> None:
    """Run the stage."""
    keep_freed_memory()
    from pipeline.fine_tuning import fine_tune  # late: its libraries may have something to say while they load

    with told_once(), StopSignals(at_once=True):  # while the loop runs, it handles signals itself
        fine_tune(
            params.train,
            params.model,
            params.tracking,
            params.flat(*LOGGED),
            compile_if_faster=params.launch.dynamo_backend == "auto",
        )


def main() -> None:
    """Run as one process of a launcher; accelerate calls this by name on TPUs."""
    settle()
    run_stage(train, __doc__)


if __name__ == "__main__":
    main()
