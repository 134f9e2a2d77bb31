"""Standardised regression targets, and the last layer that takes them back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.scaling import Scale, find_head
from tests.test_layers import small


@given(hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(-1e6, 1e6)))
def test_there_and_back(targets: Any) -> None:
    scale = Scale.of(targets)
    standardised = scale.standardised(targets)
    assert standardised.dtype == np.float32
    if targets.std() > 1e-3:
        assert standardised.std() == pytest.approx(1, abs=1e-3)
        assert standardised.mean() == pytest.approx(0, abs=1e-2)
    back = scale.restored(standardised)
    assert back == pytest.approx(targets, rel=1e-5, abs=1e-5 * max(1.0, np.abs(targets).max()))


def test_equal_numbers_keep_their_unit() -> None:
    assert Scale.of(np.array([3.5, 3.5])) == Scale(mean=3.5, std=1.0)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "mpnet"])
def test_the_head_is_found_and_folded(kind: str) -> None:
    torch.manual_seed(0)
    model = small(kind, num_labels=1).train()
    found = find_head(model)
    assert found is not None
    assert model.training
    name, head = found
    assert model.get_submodule(name) is head
    model.eval()
    tokens = torch.arange(5, 13)[None]
    before = model(input_ids=tokens).logits.detach()
    scale = Scale(mean=-7000.0, std=250.0)
    scale.fold(head)
    assert torch.allclose(model(input_ids=tokens).logits, before * 250 - 7000, atol=1e-2)
    scale.unfold(head)
    assert torch.allclose(model(input_ids=tokens).logits, before, atol=1e-4)


def test_a_head_that_is_not_linear_is_none() -> None:
    model = small("bert", num_labels=1)
    model.classifier = torch.nn.Sequential(model.classifier, torch.nn.Sigmoid())
    assert find_head(model) is None
    model = small("bert", num_labels=1)
    model.classifier = torch.nn.Linear(model.classifier.in_features, 1, bias=False)
    assert find_head(model) is None
