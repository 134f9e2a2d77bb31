"""Batches for inference: every row once, alike in length, within their limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.forward import autocast, batch_bounds, longest_first, to_device, token_budget, width_step

LENGTHS = st.lists(st.integers(1, 300), max_size=60).map(lambda lengths: np.array(lengths, np.int32))


@given(LENGTHS, st.integers(1, 20), st.integers(1, 2000), st.sampled_from([1, 8]))
def test_batches_keep_their_limits_and_hold_every_row_once(
    lengths: np.ndarray, max_rows: int, max_tokens: int, step: int
) -> None:
    order = longest_first(lengths)
    bounds = batch_bounds(lengths[order], max_rows=max_rows, max_tokens=max_tokens, multiple_of=step)
    rows = [order[where].tolist() for where in bounds]
    assert sorted(row for batch in rows for row in batch) == list(range(len(lengths)))
    widths = [-(-max(lengths[batch].tolist()) // step) * step for batch in rows]
    for batch, width in zip(rows, widths, strict=True):
        assert len(batch) <= max_rows
        assert len(batch) == 1 or len(batch) * width <= max_tokens
    # None but the last could have held another row.
    for batch, width in zip(rows[:-1], widths, strict=False):
        assert len(batch) == max_rows or (len(batch) + 1) * width > max_tokens


def test_short_texts_come_many_at_a_time_and_long_ones_few() -> None:
    lengths = np.array([100] * 4 + [10] * 40)
    bounds = batch_bounds(lengths, max_rows=1000, max_tokens=200, multiple_of=1)
    assert [where.stop - where.start for where in bounds] == [2, 2, 20, 20]


@given(LENGTHS)
def test_rows_of_one_length_keep_their_order(lengths: np.ndarray) -> None:
    order = longest_first(lengths).tolist()
    assert order == sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))


def test_a_cpu_gets_small_batches_for_each_thread_and_no_padding_for_tensor_cores() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert token_budget(cpu) == 1024 * torch.get_num_threads()
    assert token_budget(gpu) == 32_768
    assert (width_step(cpu), width_step(gpu)) == (1, 8)


@pytest.mark.parametrize(("precision", "dtype"), [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_that_of_matrix_products(precision: str, dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(4, 4)
    with torch.inference_mode(), autocast(torch.device("cpu"), precision):  # type: ignore[arg-type]
        assert layer(torch.ones(2, 4)).dtype == dtype
    assert layer.weight.dtype == torch.float32


def test_a_batch_arrives_whole() -> None:
    batch = {"input_ids": torch.arange(6).reshape(2, 3), "attention_mask": torch.ones(2, 3, dtype=torch.int64)}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    moved = to_device(batch, device)
    assert {name: tensor.device.type for name, tensor in moved.items()} == dict.fromkeys(batch, device.type)
    assert all(torch.equal(moved[name].cpu(), tensor) for name, tensor in batch.items())
