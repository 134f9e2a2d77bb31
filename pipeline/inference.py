"""A trained model, ready to classify: what evaluate and predict share.

Promises: float32 unless bf16 is asked for, on the best device there is; equal rows get equal logits from both stages,
but for rounding, since batches differ: they hold texts of like lengths, as many as suit the device; results come back
in the caller's order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from pipeline.decisions import Decisions, decide, read_thresholds
from pipeline.encoding import Encoder
from pipeline.errors import SeqtrackError
from pipeline.first_token import compute_first_token_alone
from pipeline.forward import (
    autocast,
    batch_bounds,
    longest_first,
    refusal_told,
    store_as_multiplied,
    token_budget,
    width_step,
)
from pipeline.labels import LabelSet, ProblemType
from pipeline.modeling import trusts_code
from pipeline.on_device import begin_to_fetch, logits_of
from pipeline.outputs import folder_digest, read_manifest
from pipeline.params import Precision

# Batches that a process may be given before the first one's logits are fetched.
BEGUN = 2

MakeBatch = Callable[[npt.NDArray[np.int64], int], dict[str, torch.Tensor]]


class Compute(Protocol):
    """Where batches become logits."""

    @property
    def device(self) -> torch.device:
        """What it computes on."""

    @property
    def max_tokens(self) -> int:
        """Tokens of a batch at most, padding included."""

    @property
    def processes(self) -> int:
        """In how many processes, each with a model."""

    def begin(self, batch: Mapping[str, torch.Tensor]) -> Callable[[], npt.NDArray[np.float32]]:
        """Begin with a batch that lies on the CPU.

        Returns:
            Waits for the batch's logits, float32 [rows, classes].
        """


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A model with its tokenizer and label set.

    Attributes:
        model: in evaluation mode, on its device; its weights are as `load_weights` leaves them.
        encoder: the model's own tokenizer with the max_length it was trained with.
        labels: the task, and the classes in the order of the logits.
        digest: identity of the model folder.
        run_key: identity of the training run.
        metrics: import paths of the user's metrics that it was trained with.
        thresholds: of multi-label classes, float64 [classes]; None is 0.5 for all.
        mixed_precision: in which `logits` computes: `no` is float32; `bf16` multiplies matrices in bfloat16.
        trusted: whether code in the model's folder may run.
        compute: where `logits` computes; None is `model`, in this process.
    """

    model: Any  # the class differs by architecture
    encoder: Encoder
    labels: LabelSet
    digest: str
    run_key: str
    metrics: tuple[str, ...] = ()
    thresholds: npt.NDArray[np.float64] | None = None
    mixed_precision: Precision = "no"
    trusted: bool = False
    compute: Compute | None = None

    @staticmethod
    def load(folder: Path, *, mixed_precision: Precision = "no") -> Classifier:
        """Load the folder that train wrote.

        Args:
            folder: data/model, or a copy of it.
            mixed_precision: see `Classifier`.

        Raises:
            SeqtrackError: the folder is missing or of another version.
        """
        manifest = read_manifest(folder)
        trusted = trusts_code(manifest)
        encoder = Encoder.load(folder, manifest["max_length"], trust_remote_code=trusted)
        return replace(
            Classifier.of(folder, encoder, trusted=trusted, mixed_precision=mixed_precision),
            digest=folder_digest(folder),
            run_key=manifest["run_key"],
            metrics=tuple(manifest["params"].get("train", {}).get("custom", {}).get("metrics", ())),
        )

    @staticmethod
    def of(folder: Path, encoder: Encoder, *, trusted: bool, mixed_precision: Precision = "no") -> Classifier:
        """Load the weights of a folder that has no manifest yet, and so no identity.

        Args:
            folder: what `pipeline.modeling.export` wrote.
            encoder: its tokenizer.
            trusted: whether code in the folder may run.
            mixed_precision: see `Classifier`.
        """
        model = load_weights(folder, trusted=trusted, mixed_precision=mixed_precision)
        labels = _label_set(model.config)
        return Classifier(
            model=model.to(best_device()),
            encoder=encoder,
            labels=labels,
            digest="",
            run_key="",
            thresholds=read_thresholds(folder, labels),
            mixed_precision=mixed_precision,
            trusted=trusted,
        )

    def decide(self, logits: npt.NDArray[np.float32], temperature: float = 1.0) -> Decisions:
        """Say what `logits` mean: a class, a set of classes or a number per row.

        Args:
            logits: what `self.logits` gave, float32 [rows, classes].
            temperature: see `pipeline.decisions.decide`.
        """
        return decide(self.labels, logits, self.thresholds, temperature)

    @property
    def device(self) -> torch.device:
        """What `logits` computes on."""
        device: torch.device = self.compute.device if self.compute else self.model.device
        return device

    @property
    def processes(self) -> int:
        """In how many processes `logits` computes."""
        return self.compute.processes if self.compute else 1

    def logits(
        self,
        lengths: npt.NDArray[np.integer[Any]],
        make_batch: MakeBatch,
        *,
        batch_size: int,
        on_batch: Callable[[int], None],
    ) -> npt.NDArray[np.float32]:
        """Run the model over rows.

        Args:
            lengths: tokens per row, [rows].
            make_batch: given row numbers, int64 [batch], and what the width must be a multiple of, returns the model's
                padded inputs for them.
            batch_size: rows per batch at most; it has fewer where they are long, see `pipeline.forward.token_budget`.
            on_batch: called after each batch with the number of rows in it.

        Returns:
            float32 [rows, classes], [rows, 1] in regression, in the order of `lengths`.

        Raises:
            SeqtrackError: the model gives NaN or infinity, or cannot compute in `mixed_precision`.
        """
        with refusal_told("mixed_precision, of the stage"), self._computing() as compute:
            step = width_step(compute.device)
            order = longest_first(lengths)
            bounds = batch_bounds(lengths[order], max_rows=batch_size, max_tokens=compute.max_tokens, multiple_of=step)
            result = np.empty((len(lengths), self.labels.width), np.float32)
            begun: deque[tuple[npt.NDArray[np.int64], Callable[[], npt.NDArray[np.float32]]]] = deque()

            def fetch() -> None:
                rows, logits = begun.popleft()
                result[rows] = logits()
                on_batch(len(rows))

            for where in bounds:
                rows = order[where]
                begun.append((rows, compute.begin(make_batch(rows, step))))
                # A batch late: fetching waits for the device, which has the next one to compute by then.
                if len(begun) == compute.processes * BEGUN:
                    fetch()
            while begun:
                fetch()
        if not np.isfinite(result).all():
            raise SeqtrackError(
                "the model's outputs are not finite: its training diverged",
                where="data/model",
                fix="train again with a lower train.learning_rate, or with launch.mixed_precision bf16 or no",
            )
        return result

    @contextmanager
    def _computing(self) -> Iterator[Compute]:
        if self.compute:
            yield self.compute
            return
        with torch.inference_mode(), autocast(self.device, self.mixed_precision):
            yield _Here(self.model)


@dataclass(frozen=True)
class _Here:
    """A model in this process, within inference mode and autocast."""

    model: Any
    processes: int = 1

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def max_tokens(self) -> int:
        return token_budget(self.device)

    def begin(self, batch: Mapping[str, torch.Tensor]) -> Callable[[], npt.NDArray[np.float32]]:
        return begin_to_fetch(logits_of(self.model, batch, self.device))


def load_weights(folder: Path, *, trusted: bool, mixed_precision: Precision = "no") -> Any:
    """Return the model of a folder on the CPU, in evaluation mode.

    Args:
        folder: what `pipeline.modeling.export` wrote.
        trusted: whether code in the folder may run.
        mixed_precision: in which it will compute. Its weights are float32, but for those that `bf16` multiplies: these
            are bfloat16 then, and the model computes within `pipeline.forward.autocast` alone.
    """
    with _no_progress_bar():
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=trusted
        )
    compute_first_token_alone(model)
    if mixed_precision == "bf16":
        store_as_multiplied(model)
    return model.eval()


def _label_set(config: Any) -> LabelSet:
    """Return the label set that a model's config.json holds: models of other hands say nothing of their task."""
    problem_type: ProblemType = config.problem_type or "single_label_classification"
    id2label: dict[int, str] = config.id2label
    names = tuple(id2label[place] for place in range(len(id2label)))
    return LabelSet(problem_type=problem_type, names=() if problem_type == "regression" else names)


def best_device() -> torch.device:
    """Return CUDA where there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers' bar for loading weights out of the output; its warnings still show."""
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
