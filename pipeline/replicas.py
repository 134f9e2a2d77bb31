"""A trained model in several processes, one per GPU: what predict and evaluate compute with where rows are many.

Promises: batches and logits are those of a single process on such a device; a process that dies ends the work with one
message; none outlives the program that started it, however that ends. Without GPUs processes share the cores.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.allocator import keep_freed_memory
from pipeline.console import say
from pipeline.errors import SeqtrackError
from pipeline.forward import autocast, token_budget
from pipeline.inference import Classifier, best_device, load_weights
from pipeline.on_device import begin_to_fetch, logits_of
from pipeline.params import Evaluate, Precision, Predict

# A process takes some ten seconds to start, in which a GPU classifies more rows than these.
ROWS_WORTH_A_PROCESS = 50_000


@contextmanager
def open_classifier(folder: Path, settings: Evaluate | Predict, *, rows: int) -> Iterator[Classifier]:
    """Load a model to compute in as many processes as params.yaml says, see `how_many`, while this block runs.

    Args:
        folder: of the model.
        settings: the stage's section.
        rows: to compute.

    Raises:
        SeqtrackError: as of `how_many`, `Classifier.load` and `replicated`.
    """
    section = "evaluate" if isinstance(settings, Evaluate) else "predict"
    processes = how_many(settings.num_processes, rows, key=f"{section}.num_processes")
    classifier = Classifier.load(folder, mixed_precision=settings.mixed_precision)
    with replicated(classifier, folder, processes) as ready:
        yield ready


def how_many(wanted: int | None, rows: int, *, key: str) -> int:
    """Return in how many processes to compute.

    Args:
        wanted: what params.yaml says; None is one per GPU, and fewer for few rows.
        rows: to compute.
        key: of params.yaml, for the message.

    Raises:
        SeqtrackError: there are GPUs, but fewer than processes.
    """
    gpus = torch.cuda.device_count()
    if wanted is None:
        return max(1, min(gpus, rows // ROWS_WORTH_A_PROCESS))
    if wanted > gpus > 0:
        raise SeqtrackError(
            "more processes than GPUs",
            where=f"params.yaml: {key}",
            expected=f"at most {gpus}, or null for one per GPU",
            found=str(wanted),
        )
    return wanted


@contextmanager
def replicated(classifier: Classifier, folder: Path, processes: int) -> Iterator[Classifier]:
    """Yield a classifier whose `logits` computes in several processes while this block runs.

    Args:
        classifier: loaded from `folder`; if there is more than one process, it leaves its device to them.
        folder: the model's.
        processes: with 1, what is yielded is the classifier itself.

    Raises:
        SeqtrackError: a process died, in the block.
    """
    if processes == 1:
        yield classifier
        return
    context = multiprocessing.get_context("spawn")  # CUDA and OpenMP do not survive a fork
    numbers = context.SimpleQueue()
    for number in range(processes):
        numbers.put(number)
    threads = max(1, torch.get_num_threads() // processes)
    pool = ProcessPoolExecutor(
        processes,
        mp_context=context,
        initializer=_start,
        initargs=(folder, classifier.trusted, classifier.mixed_precision, threads, numbers),
    )
    device = classifier.device
    say(f"{processes} processes, " + ("one per GPU" if device.type == "cuda" else f"{threads} threads each"))
    try:
        yield replace(
            classifier,
            model=classifier.model.to("cpu"),
            compute=_Replicas(pool=pool, device=device, max_tokens=token_budget(device, threads), processes=processes),
        )
    except BrokenProcessPool:
        raise SeqtrackError(
            "one of the model's processes has died",
            where=str(folder),
            expected=f"{processes} processes with a copy of the model each",
            fix="its own words, if it left any, stand above; where memory ran out, take fewer processes "
            "(num_processes) or smaller batches",
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, kw_only=True)
class _Replicas:
    """A `pipeline.inference.Compute` that hands each batch to whichever process is free."""

    pool: ProcessPoolExecutor
    device: torch.device
    max_tokens: int
    processes: int

    def begin(self, batch: Mapping[str, torch.Tensor]) -> Callable[[], npt.NDArray[np.float32]]:
        # As numpy's: a tensor would go through shared memory of its own, which containers often have little of.
        return self.pool.submit(_logits, {name: tensor.numpy() for name, tensor in batch.items()}).result


@dataclass(frozen=True)
class _Loaded:
    """What a process of the pool holds while it lives."""

    model: Any
    device: torch.device
    contexts: ExitStack


_loaded: _Loaded


def _start(folder: Path, trusted: bool, mixed_precision: Precision, threads: int, numbers: SimpleQueue[int]) -> None:
    """Make this process ready for batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    torch.set_num_threads(threads)
    number = numbers.get()
    device = torch.device("cuda", number) if torch.cuda.is_available() else best_device()
    model = load_weights(folder, trusted=trusted, mixed_precision=mixed_precision).to(device)
    contexts = ExitStack()  # never left
    contexts.enter_context(torch.inference_mode())
    contexts.enter_context(autocast(device, mixed_precision))
    global _loaded
    _loaded = _Loaded(model=model, device=device, contexts=contexts)


def _end_with_parent() -> None:
    """Wait for the parent's end, however it ends, and follow; the pool alone would wait for batches for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _logits(batch: Mapping[str, npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
    tensors = {name: torch.from_numpy(values) for name, values in batch.items()}
    return begin_to_fetch(logits_of(_loaded.model, tensors, _loaded.device))()
