"""What makes two trainings the same one.

Promises: equal run_keys mean equal data, parameters, base weights, code, libraries and process layout, so a checkpoint
found under a run_key may be resumed without asking; anything else gets another key.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from pipeline.code import code_digest
from pipeline.model_source import ModelSource
from pipeline.outputs import folder_digest, sha256_file, sha256_json
from pipeline.params import Model, Train

LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers", "safetensors", "numpy")
# Where and how often state is saved changes nothing about what is learnt.
NOT_IDENTITY = {"checkpoint"}


@dataclass(frozen=True, kw_only=True)
class ProcessLayout:
    """What the machine contributes to a result's bits.

    Attributes:
        world_size: processes.
        device: `cpu`, `cuda`, `mps`, ...
        threads: threads per process; on a CPU they decide the order of sums.
        mixed_precision: `no`, `bf16` or `fp16`.
    """

    world_size: int
    device: str
    threads: int
    mixed_precision: str


def run_key(
    *,
    tokenized: Path,
    splits: Path,
    labels: Path,
    train: Train,
    model: Model,
    source: ModelSource,
    layout: ProcessLayout,
) -> str:
    """Return the identity of a training as 64 hex digits.

    Args:
        tokenized: what the tokenize stage wrote.
        splits: what the split stage wrote.
        labels: the label set; equal rows can come with another order of classes.
        train: the recipe.
        model: the base model as params.yaml names it.
        source: its files.
        layout: the processes.

    Raises:
        SeqtrackError: an output of an earlier stage is missing.
    """
    return sha256_json(
        {
            "tokens": folder_digest(tokenized),
            "splits": folder_digest(splits),
            "labels": sha256_file(labels),
            "train": train.model_dump(mode="json", exclude=NOT_IDENTITY),
            "model": model.model_dump(mode="json"),
            "weights": source.digest(),
            "code": code_digest("stages.train"),
            "libraries": {name: version(name) for name in LIBRARIES},
            "layout": asdict(layout),
        }
    )
