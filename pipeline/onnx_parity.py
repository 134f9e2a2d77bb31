"""How an exported model compares with PyTorch's: logits, labels, scores, and rows per second.

Promises: both see the same batches of the same rows, on the CPU and with as many threads.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import torch

from pipeline.errors import SeqtrackError
from pipeline.inference import Classifier
from pipeline.labels import LabelSet
from pipeline.metrics import task_metrics
from pipeline.onnx_export import OUTPUT
from pipeline.rows import read_row_ids, select_rows
from pipeline.targets import Targets, read_targets
from pipeline.tokens import TokenStore

BATCH_ROWS = 256  # at most; fewer where texts are long, as everywhere


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The rows that formats are compared on.

    Attributes:
        tokens: of all rows.
        positions: of the split's in it, integers [rows].
        labelled: which of these have a label, bool [rows].
        targets: theirs, as in `pipeline.targets.Targets`.
    """

    tokens: TokenStore
    positions: npt.NDArray[np.int64]
    labelled: npt.NDArray[np.bool_]
    targets: Targets

    @staticmethod
    def read(labels: LabelSet, tokenized: Path, split: Path, rows: Path) -> Validation:
        """Read a split.

        Raises:
            SeqtrackError: files are missing or do not belong together, or no row has a label.
        """
        ids = read_row_ids(split)
        known, targets = read_targets(labels, select_rows(rows, ids, ["row_id", "label"])["label"])
        if not pc.any(known).as_py():
            raise SeqtrackError("no labelled rows to compare scores on", where=str(split))
        tokens = TokenStore.open(tokenized)
        return Validation(
            tokens=tokens,
            positions=tokens.positions(ids),
            labelled=np.asarray(known.to_numpy(zero_copy_only=False), bool),
            targets=targets,
        )


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One format.

    Attributes:
        largest_difference: of a logit from PyTorch's, two digits.
        largest_logit: of PyTorch's, without its sign.
        agreement: share of rows with the same label or labels; None in regression.
        metrics: of the labelled rows, as evaluate names them.
        samples_per_second: rows per second.
    """

    largest_difference: float
    largest_logit: float
    agreement: float | None
    metrics: dict[str, float]
    samples_per_second: float


class _Session:
    """An ONNX graph that is called as a transformers model is."""

    def __init__(self, file: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.device = torch.device("cpu")

    def __call__(self, **inputs: torch.Tensor) -> SimpleNamespace:
        (logits,) = self._session.run([OUTPUT], {name: tensor.numpy() for name, tensor in inputs.items()})
        return SimpleNamespace(logits=torch.from_numpy(logits))


def on_cpu(folder: Path) -> Classifier:
    """Load the folder that train wrote, on the CPU whatever else there is: the export is measured there."""
    classifier = Classifier.load(folder)
    return replace(classifier, model=classifier.model.to("cpu"))


def runtime(classifier: Classifier, file: Path) -> Classifier:
    """Return a classifier that computes with an ONNX graph, and is in all else the given one."""
    model: Any = _Session(file, torch.get_num_threads())
    return replace(classifier, model=model)


def compare(pytorch: Classifier, others: Mapping[str, Classifier], rows: Validation) -> dict[str, Compared]:
    """Run classifiers over rows and compare them with the first, which is in the result as `pytorch`."""
    theirs, speed = _timed(pytorch, rows)
    found = {"pytorch": _compared(pytorch, theirs, theirs, speed, rows)}
    for name, other in others.items():
        logits, speed = _timed(other, rows)
        found[name] = _compared(pytorch, theirs, logits, speed, rows)
    return found


def require_parity(compared: Compared, tolerance: float) -> None:
    """Refuse an export whose logits are not PyTorch's.

    Args:
        compared: of the float32 export.
        tolerance: as a share of the largest logit, and at least of 1.

    Raises:
        SeqtrackError: they are not.
    """
    allowed = tolerance * max(1.0, compared.largest_logit)
    if not compared.largest_difference <= allowed:
        raise SeqtrackError(
            "the exported model does not compute what PyTorch's does",
            where="params.yaml: export",
            expected=f"logits within {allowed:.2g} on validation (export.tolerance {tolerance:g})",
            found=f"a difference of {compared.largest_difference:.2g}",
            fix="nothing was exported; another export.tolerance takes it as it is",
        )


def _timed(classifier: Classifier, rows: Validation) -> tuple[npt.NDArray[np.float32], float]:
    def logits(positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return classifier.logits(
            rows.tokens.lengths[positions],
            lambda chosen, step: rows.tokens.batch(positions[chosen], pad_to_multiple_of=step),
            batch_size=BATCH_ROWS,
            on_batch=lambda _: None,
        )

    logits(rows.positions[:1])  # the first time takes longer
    started = time.perf_counter()
    found = logits(rows.positions)
    return found, len(found) / (time.perf_counter() - started)


def _compared(
    pytorch: Classifier,
    theirs: npt.NDArray[np.float32],
    ours: npt.NDArray[np.float32],
    speed: float,
    rows: Validation,
) -> Compared:
    one, other = pytorch.decide(theirs).ids, pytorch.decide(ours).ids
    same = one == other if one.ndim == 1 else (one == other).all(axis=1)
    return Compared(
        largest_difference=float(f"{np.abs(ours - theirs).max():.1e}"),
        largest_logit=float(np.abs(theirs).max()),
        agreement=None if pytorch.labels.problem_type == "regression" else float(same.mean()),
        metrics=task_metrics(pytorch.labels, ours[rows.labelled], rows.targets, (), pytorch.thresholds),
        samples_per_second=speed,
    )
