"""Dropout's masks: their rate, independence and repeatability, and where they come in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pipeline.dropout import cheap_dropout, dropout_made_cheap

MANY = 1_000_000


def dropped(seed: int, p: float, count: int = MANY) -> np.ndarray:
    torch.manual_seed(seed)
    return (cheap_dropout(torch.ones(count), p) == 0).numpy()


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9, 0.001])
def test_the_rate_is_the_one_asked_for(p: float) -> None:
    count = sum(int(dropped(seed, p).sum()) for seed in range(5))
    assert stats.binomtest(count, 5 * MANY, p).pvalue > 1e-4


def test_elements_are_dropped_independently_of_their_neighbours_near_and_far() -> None:
    mask = dropped(1, 0.5)
    for distance in (1, 2, 3, 4, 8, 64, 384, 1536):
        table = np.histogram2d(mask[:-distance], mask[distance:], bins=2)[0]
        assert stats.chi2_contingency(table).pvalue > 1e-4, distance


def test_calls_and_seeds_have_masks_of_their_own() -> None:
    torch.manual_seed(3)
    one, two = cheap_dropout(torch.ones(MANY), 0.5) == 0, cheap_dropout(torch.ones(MANY), 0.5) == 0
    for first, second in ((one, two), (dropped(3, 0.5), dropped(4, 0.5))):
        both = int(np.logical_and(first, second).sum())
        assert stats.binomtest(both, MANY, 0.25).pvalue > 1e-4


@given(p=st.floats(0.0, 0.95), dtype=st.sampled_from([torch.float32, torch.bfloat16]), seed=st.integers(0, 999))
def test_what_is_left_is_scaled_so_that_the_expectation_stays(p: float, dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    out = cheap_dropout(torch.full((3, 7, 5), 2.0, dtype=dtype), p)
    assert out.dtype == dtype
    assert out.shape == (3, 7, 5)
    kept = out[out != 0].float()
    assert torch.allclose(
        kept, torch.tensor(2.0 / max(1 - p, 1 / 65536)), rtol=0.01 if dtype == torch.bfloat16 else 1e-3
    )


def test_gradients_pass_where_values_do() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 40, requires_grad=True)
    out = cheap_dropout(x, 0.25)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad != 0, out != 0)
    assert torch.allclose(x.grad[x.grad != 0], torch.tensor(1 / 0.75))


def test_it_repeats_under_the_same_seed_and_leaves_the_input_alone() -> None:
    x = torch.randn(64, 33)
    before = x.clone()
    torch.manual_seed(8)
    first = cheap_dropout(x, 0.4, inplace=True)
    torch.manual_seed(8)
    assert torch.equal(cheap_dropout(x, 0.4), first)
    assert torch.equal(x, before)


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.4, False)])
def test_nothing_is_drawn_where_nothing_is_dropped(p: float, training: bool) -> None:
    x, state = torch.randn(5), torch.get_rng_state()
    assert torch.equal(cheap_dropout(x, p, training), x)
    assert torch.equal(torch.get_rng_state(), state)


def test_all_is_dropped_at_one() -> None:
    assert torch.equal(cheap_dropout(torch.ones(9), 1.0), torch.zeros(9))


def test_layers_and_functions_use_it_within_the_context_and_not_outside() -> None:
    layer, x = torch.nn.Dropout(0.3), torch.ones(1000)

    def drawn(act: object) -> torch.Tensor:
        torch.manual_seed(5)
        return act(x)  # type: ignore[operator]

    plain, cheap = drawn(layer), drawn(lambda x: cheap_dropout(x, 0.3))
    with dropout_made_cheap():
        assert torch.equal(drawn(layer), cheap)
        assert torch.equal(drawn(lambda x: functional.dropout(x, p=0.3)), cheap)
        assert torch.equal(drawn(layer.eval()), x)
    assert torch.equal(drawn(layer.train()), plain)
    assert not torch.equal(plain, cheap)


def test_recomputed_activations_have_the_same_masks() -> None:
    torch.manual_seed(2)
    layer = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Dropout(0.5), torch.nn.Linear(30, 4))
    x = torch.randn(6, 20)

    def gradient(recompute: bool) -> torch.Tensor:
        layer.zero_grad()
        torch.manual_seed(7)
        with dropout_made_cheap():
            out = checkpoint(layer, x, use_reentrant=False) if recompute else layer(x)
            out.square().sum().backward()
        grad = layer[0].weight.grad
        assert grad is not None
        return grad.clone()

    assert torch.equal(gradient(recompute=True), gradient(recompute=False))
