"""Scoring a split with all processes of a training.

Promises: every row is scored exactly once in the result, whatever the number of processes; all processes get it whole.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator

from pipeline.tokens import TokenStore


def distributed_logits(
    model: torch.nn.Module,
    tokens: TokenStore,
    positions: npt.NDArray[np.int64],
    batch_size: int,
    accelerator: Accelerator,
) -> npt.NDArray[np.float32]:
    """Return the logits of rows, float32 [rows, classes], in the order of `positions`.

    Args:
        model: a prepared sequence classifier; left in evaluation mode.
        tokens: tokenized rows.
        positions: rows to score, int64, shape (rows,), at least one.
        batch_size: rows per process and forward pass.
        accelerator: the processes.
    """
    world, rank = accelerator.num_processes, accelerator.process_index
    order = np.argsort(-tokens.lengths[positions], kind="stable")  # alike lengths together: little padding
    share = math.ceil(len(order) / world)
    # Every process must take part in every forward pass and in the gathering, so short shares repeat some rows.
    dealt = np.resize(order, share * world)
    mine = dealt[rank::world]
    model.eval()
    pieces = []
    with torch.inference_mode():
        for start in range(0, share, batch_size):
            batch = tokens.batch(positions[mine[start : start + batch_size]])
            inputs = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
            pieces.append(model(**inputs).logits.float())
        gathered = accelerator.gather(torch.cat(pieces)).cpu().numpy()
    logits = np.empty((len(order), gathered.shape[1]), dtype=np.float32)
    for process in range(world):
        logits[dealt[process::world]] = gathered[process * share : (process + 1) * share]
    return logits
