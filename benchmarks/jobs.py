"""A training in this process, made from a folder in which the stages before train ran, for benchmarks of its steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import accelerator as devices

from pipeline.checkpoints import CheckpointStore
from pipeline.fine_tuning import labelled
from pipeline.labels import LabelSet
from pipeline.model_source import resolve
from pipeline.modeling import load_classifier
from pipeline.optimization import settled
from pipeline.params import load_params
from pipeline.paths import LABELS, ROWS, TOKENIZED
from pipeline.rows import read_rows
from pipeline.tokens import TokenStore
from pipeline.training import Job


def make_job(checkpoints: Path, precision: str, **changes: Any) -> tuple[Job, Accelerator]:
    """Return a fresh job on the rows of the working folder, and an accelerator for it.

    Args:
        checkpoints: where they go.
        precision: no, bf16 or fp16.
        changes: keys of the `train` section that differ from params.yaml there.
    """
    params = load_params()
    recipe = params.train.model_copy(update=changes)
    labels, tokens, rows = LabelSet.read(LABELS), TokenStore.open(TOKENIZED), read_rows(ROWS, ["row_id", "label"])
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=not devices.is_available(), mixed_precision=precision)
    source = resolve(params.model, weights=True)
    model = load_classifier(source, labels, seed=recipe.seed, trust_remote_code=False, dropout=recipe.dropout)
    job = Job(
        model=model,
        tokens=tokens,
        train=labelled(rows, tokens, labels, "train"),
        validation=labelled(rows, tokens, labels, "validation"),
        labels=labels,
        recipe=settled(recipe, model, pretrained=params.model.from_scratch is None),
        checkpoints=CheckpointStore(checkpoints, keep=recipe.checkpoint.keep),
    )
    return job, accelerator
