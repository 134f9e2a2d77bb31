"""The other side of the comparison: transformers' Trainer with the arguments it has when nobody sets any.

It learns from and is scored on exactly the rows that the split stage left in a workspace, with the base model, the
maximum length and the number of epochs that params.yaml there names. The metrics are pipeline.metrics', too. Set
besides: the seed, no checkpoints and no reports, and bfloat16 on the CPU, which both sides compute in.

    python -m benchmarks.trainer_baseline --workspace <folder> --seed 13 --out result.json
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from pipeline.labels import LabelSet
from pipeline.metrics import task_metrics
from pipeline.model_source import resolve
from pipeline.modeling import quiet_transformers
from pipeline.outputs import write_json
from pipeline.params import load_params
from pipeline.paths import LABELS, PARAMS_FILE, ROWS, SPLITS
from pipeline.rows import read_row_ids, read_rows
from pipeline.targets import Targets, read_targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True, help="where `dvc repro split` ran")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    options = parser.parse_args()
    write_json(options.out, train_and_score(options.workspace, options.seed))


def train_and_score(workspace: Path, seed: int) -> dict[str, object]:
    """Train on the train split of a workspace and score the test split.

    Returns:
        `metrics` (name to value), `seconds` of the training, `samples_per_second`, `train_rows`, `test_rows`.
    """
    params = load_params(workspace / PARAMS_FILE)
    labels = LabelSet.read(workspace / LABELS)
    folder = resolve(params.model, weights=True).folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    train, _ = rows_of(workspace, "train", labels, tokenizer, params.tokenize.max_length)
    test, targets = rows_of(workspace, "test", labels, tokenizer, params.tokenize.max_length)
    set_seed(seed)  # the new head's weights are drawn before Trainer sets its seed
    with quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype="float32",
            num_labels=labels.width,
            problem_type=labels.problem_type,
            attn_implementation="eager",  # on a CPU faster than the fused one, and the same mathematics
        )
    with tempfile.TemporaryDirectory() as output:
        arguments = TrainingArguments(
            output_dir=output,
            seed=seed,
            num_train_epochs=params.train.num_train_epochs,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            bf16=True,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=train, processing_class=tokenizer)
        told = trainer.train().metrics
        logits = np.asarray(trainer.predict(test).predictions, np.float32)
    return {
        "metrics": task_metrics(labels, logits.reshape(len(targets), labels.width), targets),
        "seconds": told["train_runtime"],
        "samples_per_second": told["train_samples_per_second"],
        "train_rows": len(train),
        "test_rows": len(test),
    }


def rows_of(
    workspace: Path, split: str, labels: LabelSet, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[Dataset, Targets]:
    """Return the labelled rows of a split, tokenized, and their targets."""
    rows = read_rows(workspace / ROWS, ["row_id", "text", "text_pair", "label"])
    ids = read_row_ids(workspace / SPLITS / f"{split}.parquet")
    rows = rows.take(pc.index_in(ids, value_set=rows["row_id"].combine_chunks()))
    known, targets = read_targets(labels, rows["label"])
    rows = rows.filter(known)
    pairs = rows["text_pair"]
    encoded = tokenizer(
        rows["text"].to_pylist(),
        None if pairs.null_count else pairs.to_pylist(),
        truncation=True,
        max_length=max_length,
    )
    numbers = targets.astype(np.float32) if labels.problem_type == "regression" else targets
    return Dataset.from_dict({**encoded, "labels": numbers}), targets


if __name__ == "__main__":
    main()
