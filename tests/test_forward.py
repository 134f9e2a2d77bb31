"""Batches for inference: every row once, alike in length, within their limits."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertForSequenceClassification, GPT2Config

from pipeline.forward import (
    autocast,
    batch_bounds,
    longest_first,
    store_as_multiplied,
    token_budget,
    width_step,
)
from tests.encoders import ARCHITECTURES, batch_of, model_of

# Its layers are transformers' own instead of torch's, all but the head.
GPT2 = GPT2Config(vocab_size=60, n_embd=16, n_layer=2, n_head=2, pad_token_id=1, num_labels=3)

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


@pytest.mark.parametrize("way", ["eager", "sdpa"])
@pytest.mark.parametrize("name", [*ARCHITECTURES, "gpt2"])
def test_weights_converted_once_give_what_those_converted_in_each_batch_give(name: str, way: str) -> None:
    plain = model_of({**ARCHITECTURES, "gpt2": GPT2}[name], way)
    stored = copy.deepcopy(plain)
    store_as_multiplied(stored)
    batch = batch_of((7, 1, 19, 3))
    with torch.inference_mode(), autocast(torch.device("cpu"), "bf16"):
        assert torch.equal(stored(**batch).logits, plain(**batch).logits)
    assert any(weights.dtype == torch.bfloat16 for weights in stored.parameters())


def test_weights_that_others_read_too_stay_as_they_are() -> None:
    model = model_of(ARCHITECTURES["bert"], "eager")
    shared = model.get_submodule("bert.encoder.layer.0.output.dense")
    model.get_submodule("bert.embeddings").register_parameter("mine", shared.weight)
    store_as_multiplied(model)
    assert shared.weight.dtype == torch.float32
    assert shared.bias.dtype == torch.bfloat16


def test_models_of_other_hands_stay_as_they_are() -> None:
    class Own(BertForSequenceClassification):
        """Not of transformers."""

    model = Own(ARCHITECTURES["bert"])
    store_as_multiplied(model)
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}
