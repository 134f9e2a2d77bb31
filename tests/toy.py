"""A task that a tiny encoder learns in milliseconds, and all that training it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from pipeline.checkpoints import CheckpointStore, CurvePoint, Evaluation, TrainingState
from pipeline.encoding import Encoder, FlatRows
from pipeline.labels import LabelSet
from pipeline.model_source import ModelSource
from pipeline.modeling import load_classifier
from pipeline.params import Train, load_params
from pipeline.tokens import TokenStore, shard_writer, token_columns
from pipeline.training import Job, LabelledRows, plan_of
from tests.tiny import save_tiny_encoder

REPOSITORY = Path(__file__).parent.parent
LABELS = LabelSet(problem_type="single_label_classification", names=("bad", "good", "other"))
WORDS = (("awful", "dull", "sad"), ("fine", "great", "happy"), ("blue", "green", "red"))
FILLER = ("a", "film", "it", "the", "was")


def recipe(**changes: Any) -> Train:
    """params.yaml's recipe in small, with changes; `checkpoint` takes a dict of changes of its own."""
    values = load_params(REPOSITORY / "params.yaml").train.model_dump()
    small = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": 5e-3,
        "layerwise_lr_decay": None,
        "logging_steps": 1,
    }
    checkpoint = values["checkpoint"] | changes.pop("checkpoint", {})
    return Train(**(values | small | changes | {"checkpoint": checkpoint}))


def accelerator(mixed_precision: str = "no") -> Accelerator:
    """A fresh one: accelerate keeps its first settings for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(1)
    return Accelerator(cpu=True, mixed_precision=mixed_precision)


@dataclass
class Toy:
    """Separable texts of uneven lengths: the train split first, then validation."""

    folder: Path
    source: ModelSource
    tokens: TokenStore
    train: LabelledRows
    validation: LabelledRows
    labels: LabelSet = LABELS

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Tokens per row of the train split."""
        return self.tokens.lengths[self.train.positions]

    def model(self, *, seed: int = 1, dropout: bool = True) -> PreTrainedModel:
        model = load_classifier(self.source, self.labels, seed=seed, trust_remote_code=False)
        if not dropout:
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        return model

    def job(self, checkpoints: Path, recipe: Train, model: PreTrainedModel | None = None) -> Job:
        return Job(
            model=self.model() if model is None else model,
            tokens=self.tokens,
            train=self.train,
            validation=self.validation,
            labels=self.labels,
            recipe=recipe,
            checkpoints=CheckpointStore(checkpoints, keep=recipe.checkpoint.keep),
        )


def make_toy(
    folder: Path, *, train: int = 21, validation: int = 11, texts: Sequence[str] = (), spare_words: int = 0
) -> Toy:
    """Make the task in an empty folder, or open it where it was made.

    `texts` are of the classes in turn; as many words as `spare_words` says are known to the encoder and in no text.
    """
    generator = np.random.default_rng(5)
    labels = np.arange(train + validation) % len(WORDS)
    texts = texts or [
        " ".join([generator.choice(WORDS[label]), *generator.choice(FILLER, size=generator.integers(1, 9))])
        for label in labels
    ]
    made = folder.exists() and any(folder.iterdir())
    if not made:
        spare = [f"spare{number}" for number in range(spare_words)]
        save_tiny_encoder(folder / "encoder", [*(word for group in (*WORDS, FILLER) for word in group), *texts, *spare])
    encoder = Encoder.load(folder / "encoder", 16)
    if not made:
        (folder / "tokens").mkdir()
        with shard_writer(folder / "tokens", token_types=True) as writer:
            encoded = FlatRows.of(encoder.encode(texts, None))
            writer.write(pa.array([f"{row:032x}" for row in range(len(texts))]), token_columns(encoded))
    return Toy(
        folder=folder,
        source=ModelSource(name="tiny", folder=folder / "encoder", commit=None),
        tokens=TokenStore(sorted((folder / "tokens").iterdir()), encoder.padding),
        train=LabelledRows(positions=np.arange(train), labels=labels[:train]),
        validation=LabelledRows(positions=np.arange(train, train + validation), labels=labels[train:]),
    )


def plain_steps(
    toy: Toy,
    train: Train,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[torch.Tensor, Any], torch.Tensor],
    scheduler: LRScheduler | None = None,
) -> list[float]:
    """Train in ten lines of PyTorch, a global batch at a time; return the loss of each step.

    `loss_of` gets the logits of some rows, and which rows of the train split they are.
    """
    plan = plan_of(toy.lengths, train, 1)
    losses = []
    model.train()
    for step in range(plan.total_steps):
        rows = plan.global_batch(step)
        loss = loss_of(model(**toy.tokens.batch(toy.train.positions[rows])).logits, rows)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.max_grad_norm or math.inf)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(loss.item())
    return losses


class Recorder:
    """Remembers what a training told; raises `Interruption` where it is asked to."""

    def __init__(self, *, at: str | None = None, step: int = 0) -> None:
        self.at, self.step = at, step
        self.checkpoints: list[int] = []
        self.evaluations: list[int] = []
        self.started_at = -1

    def on_start(self, state: TrainingState) -> None:
        self.started_at = state.step

    def on_curve(self, point: CurvePoint, samples_per_second: float) -> None:
        assert samples_per_second > 0
        self._interrupt("curve", point.step)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation.step)
        self._interrupt("evaluation", evaluation.step)

    def on_checkpoint(self, store: CheckpointStore, state: TrainingState) -> None:
        self.checkpoints.append(state.step)
        self._interrupt("checkpoint", state.step)

    def _interrupt(self, at: str, step: int) -> None:
        if (at, step) == (self.at, self.step):
            raise Interruption


class Interruption(BaseException):
    """Stands for a kill."""


def equal_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two models agree to the bit."""
    theirs: Sequence[torch.Tensor] = list(other.state_dict().values())
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), theirs, strict=True))
