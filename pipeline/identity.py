"""What makes two trainings the same one, and what may differ where one goes on from another's checkpoint.

Promises: equal run_keys mean equal data, parameters, base weights, code, libraries and process layout, so a checkpoint
found under a run_key may be resumed without asking; anything else gets another key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pipeline.code import code_digest
from pipeline.errors import SeqtrackError
from pipeline.model_source import ModelSource
from pipeline.outputs import Json, folder_digest, sha256_file, sha256_json
from pipeline.params import Model, Train
from pipeline.parts import part_digests

LIBRARIES = ("torch", "transformers", "accelerate", "tokenizers", "safetensors", "numpy")
# Where and how often state is saved, and where it comes from, are not what is learnt; an origin counts by its run_key.
NOT_IDENTITY = {"checkpoint", "resume_from"}
# A base model is what its files are, wherever they lie.
NAMES_OF_FILES = {"model.name_or_path", "model.revision"}
# What moves no number by more than rounding, as long as the total batch is the same.
ROUNDING = {
    "model.attn_implementation",
    "train.auto_find_batch_size",
    "train.gradient_accumulation_steps",
    "train.gradient_checkpointing",
    "train.pad_to_max_length",
    "train.per_device_max_tokens",
    "train.per_device_eval_batch_size",
    "train.per_device_train_batch_size",
    "train.total_train_batch_size",
}


@dataclass(frozen=True, kw_only=True)
class ProcessLayout:
    """What the machine contributes to a result's bits.

    Attributes:
        world_size: processes.
        device: `cpu`, `cuda`, `mps`, ...
        threads: threads per process; on a CPU they decide the order of sums.
        mixed_precision: `no`, `bf16` or `fp16`.
        dynamo_backend: torch.compile's, or `no`.
        distributed_type: accelerate's name for what the processes share, for example `MULTI_GPU` or `FSDP`.
    """

    world_size: int
    device: str
    threads: int
    mixed_precision: str
    dynamo_backend: str = "no"
    distributed_type: str = "NO"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """All that decides a training's result, as JSON values.

    Attributes:
        tokens: digest of what the tokenize stage wrote.
        splits: digest of what the split stage wrote.
        labels: digest of the label set; equal rows can come with another order of classes.
        weights: digest of the base model's files.
        code: digest of our own source files.
        parts: digests of the user's own parts.
        train: the recipe, without `NOT_IDENTITY`.
        model: the base model as params.yaml names it.
        libraries: versions by name.
        layout: the processes.
        total_batch_size: rows of an optimisation step.
    """

    tokens: str
    splits: str
    labels: str
    weights: str
    code: str
    parts: dict[str, str]
    train: dict[str, Json]
    model: dict[str, Json]
    libraries: dict[str, str]
    layout: dict[str, Json]
    total_batch_size: int

    @staticmethod
    def of(
        *,
        tokenized: Path,
        splits: Path,
        labels: Path,
        train: Train,
        model: Model,
        source: ModelSource,
        layout: ProcessLayout,
        total_batch_size: int,
    ) -> Identity:
        """Describe a training.

        Args:
            tokenized: what the tokenize stage wrote.
            splits: what the split stage wrote.
            labels: the label set.
            train: the recipe.
            model: the base model as params.yaml names it.
            source: its files.
            layout: the processes.
            total_batch_size: rows of an optimisation step.

        Raises:
            SeqtrackError: an output of an earlier stage is missing.
        """
        return Identity(
            tokens=folder_digest(tokenized),
            splits=folder_digest(splits),
            labels=sha256_file(labels),
            weights=source.digest(),
            code=code_digest("stages.train"),
            parts=part_digests(train.custom),
            train=train.model_dump(mode="json", exclude=NOT_IDENTITY),
            model=model.model_dump(mode="json"),
            libraries={name: version(name) for name in (*LIBRARIES, *(["peft"] if train.lora is not None else []))},
            layout=asdict(layout),
            total_batch_size=total_batch_size,
        )

    def run_key(self, origin: Training | None = None) -> str:
        """Return the identity of a training as 64 hex digits.

        Args:
            origin: the training that this one goes on from. The same one, perhaps on another machine, keeps its key;
                one that goes on from another (fewer epochs, another layout) is neither that one nor what it would be
                from scratch.
        """
        whole = asdict(self)
        if origin is None:
            return sha256_json(whole)
        return origin.run_key if origin.identity == self else sha256_json({**whole, "origin": origin.run_key})


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a checkpoint says it belongs to."""

    run_key: str
    identity: Identity

    @staticmethod
    def from_json(value: Json, where: str) -> Training:
        """Rebuild from what `dataclasses.asdict` gave.

        Raises:
            SeqtrackError: it is of another version of this project.
        """
        try:
            return Training(run_key=value["run_key"], identity=Identity(**value["identity"]))
        except (TypeError, KeyError) as error:
            raise SeqtrackError("checkpoint of another version of this project", where=where) from error


Kind = Literal["other", "longer", "rounding"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing in which a training differs from the one whose checkpoint it is to go on from.

    Attributes:
        name: a params.yaml key, or what the digest is of.
        before: the checkpoint's value.
        now: today's value.
        kind: `other`: it cannot go on; `longer`: more epochs; `rounding`: the result is equal but for rounding.
    """

    name: str
    before: Json
    now: Json
    kind: Kind

    def __str__(self) -> str:
        return f"{self.name}: checkpoint {_short(self.before)}, now {_short(self.now)}"


def differences(before: Identity, now: Identity) -> list[Difference]:
    """Return in what two trainings differ, what forbids to go on from the other first."""
    olds, news = dict(_flat(asdict(before))), dict(_flat(asdict(now)))
    found = [
        Difference(
            name=name, before=olds.get(name), now=news.get(name), kind=_kind(name, olds.get(name), news.get(name))
        )
        for name in sorted(olds.keys() | news.keys())
        if olds.get(name) != news.get(name) and name not in NAMES_OF_FILES
    ]
    order: tuple[Kind, ...] = ("other", "longer", "rounding")
    return sorted(found, key=lambda difference: order.index(difference.kind))


def _kind(name: str, before: Json, now: Json) -> Kind:
    if name == "train.num_train_epochs" and now > before:
        return "longer"
    return "rounding" if name in ROUNDING or name.startswith(("layout.", "libraries.")) else "other"


def _flat(node: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, Json]]:
    for name, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _short(value: Json) -> str:
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return value[:10]
    return "null" if value is None else str(value)
