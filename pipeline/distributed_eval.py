"""Scoring a split with all processes of a training.

Promises: every row is scored exactly once in the result, whatever the number of processes; all processes get it whole.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator

from pipeline.forward import batch_bounds, longest_first, token_budget, width_step
from pipeline.on_device import logits_of
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
        batch_size: rows per process and forward pass at most; there are fewer where they are long, see
            `pipeline.forward.token_budget`.
        accelerator: the processes.
    """
    world, rank, device = accelerator.num_processes, accelerator.process_index, accelerator.device
    order = longest_first(tokens.lengths[positions])
    # Every process must take part in every forward pass and in the gathering, so short shares repeat the last row.
    dealt = np.append(order, np.repeat(order[-1:], -len(order) % world))
    mine, share = dealt[rank::world], len(dealt) // world
    # Of the first process, whose rows are the longest: all must divide their shares alike.
    lengths = tokens.lengths[positions[dealt[::world]]]
    step = width_step(device)
    bounds = batch_bounds(
        lengths if tokens.pad_to is None else np.full(share, tokens.pad_to),
        max_rows=batch_size,
        max_tokens=token_budget(device),
        multiple_of=step,
    )
    model.eval()
    pieces = []
    with torch.inference_mode():
        for where in bounds:
            batch = tokens.batch(positions[mine[where]], pad_to_multiple_of=step)
            pieces.append(logits_of(model, batch, device).float())
        gathered = accelerator.gather(torch.cat(pieces)).cpu().numpy()
    logits = np.empty((len(order), gathered.shape[1]), dtype=np.float32)
    for process in range(world):
        logits[dealt[process::world]] = gathered[process * share : (process + 1) * share]
    return logits
