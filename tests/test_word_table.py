"""The table of word vectors cut to tokens in use: outputs, gradients and trainings are those of the whole table."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import BertForSequenceClassification, PreTrainedModel

from pipeline.checkpoints import TrainingState
from pipeline.fine_tuning import freeze
from pipeline.training import Job, fit
from pipeline.word_table import CutTable, WordTable, cut_word_table
from tests.encoders import ARCHITECTURES, PADDING, VOCABULARY, Batch, gradients, model_of
from tests.toy import Interruption, Recorder, Toy, accelerator, equal_weights, make_toy, recipe

TABLE = "bert.embeddings.word_embeddings.weight"
USED = np.array([1, 2, 3, 5, 8, 13, 21, 34, 55])  # 1 is padding
CUT = "pipeline.training.cut_word_table"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy"), spare_words=30)


def texts_of(used: Sequence[int], lengths: Sequence[int] = (7, 1, 12, 3), seed: int = 0) -> Batch:
    generator = np.random.default_rng(seed)
    return PADDING.batch([generator.choice(used, size=length) for length in lengths], None)


def pair_of(architecture: str, used: Sequence[int] = tuple(USED)) -> tuple[PreTrainedModel, PreTrainedModel, WordTable]:
    """A whole model and its equal with a cut table."""
    whole = model_of(ARCHITECTURES[architecture], "eager")
    cut = copy.deepcopy(whole)
    table = cut_word_table(cut, lambda: np.array(used), texts_of(used[1:]))
    assert table is not None
    return whole, cut, table


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_outputs_and_gradients_are_the_same(architecture: str) -> None:
    whole, cut, table = pair_of(architecture)
    batch = texts_of(USED[1:], seed=1)
    assert torch.equal(cut(**batch).logits, whole(**batch).logits)
    expected, found = gradients(whole, batch), gradients(cut, batch)
    assert found.keys() == expected.keys()
    changed = [name for name in found if found[name].shape != expected[name].shape]
    assert len(changed) == 1
    assert (table.used, table.tokens) == (len(USED), VOCABULARY)
    for name in found:
        if name in changed:
            assert torch.equal(found[name][:-1], expected[name][USED])
            assert not found[name][-1].any()
            assert not np.delete(expected[name].numpy(), USED, axis=0).any()
        else:
            assert torch.equal(found[name], expected[name]), name


@settings(max_examples=30, deadline=None)
@given(
    used=st.sets(st.integers(2, VOCABULARY - 1), min_size=1, max_size=40),
    architecture=st.sampled_from(["bert", "roberta", "distilbert", "deberta-v2"]),
    seed=st.integers(0, 100),
)
def test_any_tokens(used: set[int], architecture: str, seed: int) -> None:
    ids = sorted({1, *used})
    whole, cut, table = pair_of(architecture, ids)
    batch = texts_of(sorted(used), seed=seed)
    with torch.no_grad():
        assert torch.equal(cut(**batch).logits, whole(**batch).logits)
    table.restore(cut)
    assert equal_weights(cut, whole)
    assert [type(module) for module in cut.modules()] == [type(module) for module in whole.modules()]
    assert cut.get_input_embeddings().padding_idx == whole.get_input_embeddings().padding_idx


@pytest.mark.parametrize("padding_idx", [None, 4])
def test_a_table_that_knows_no_padding_or_another(padding_idx: int | None) -> None:
    whole = model_of(ARCHITECTURES["bert"], "eager")
    whole.get_input_embeddings().padding_idx = padding_idx
    cut, batch = copy.deepcopy(whole), texts_of(USED[1:])
    table = cut_word_table(cut, lambda: USED, batch)
    assert table is not None
    name = "bert.embeddings.word_embeddings.weight"
    found, expected = gradients(cut, batch)[name][:-1], gradients(whole, batch)[name][USED]
    assert torch.equal(found, expected)
    table.restore(cut)
    assert cut.get_input_embeddings().padding_idx == padding_idx


def test_a_token_that_was_left_out_is_an_error() -> None:
    _, cut, _ = pair_of("bert")
    with pytest.raises(IndexError):
        cut(input_ids=torch.tensor([[2, 4]]))


class Own(BertForSequenceClassification):
    """Of a user's: who knows what it does with its table."""


def left_alone() -> Iterator[Any]:
    bert = model_of(ARCHITECTURES["bert"], "eager")
    torch.manual_seed(0)
    yield pytest.param(Own(bert.config), id="another's class")
    frozen = copy.deepcopy(bert)
    freeze(frozen, ["*.word_embeddings.*"])
    yield pytest.param(frozen, id="frozen")
    tied = copy.deepcopy(bert)
    tied.head = torch.nn.Linear(16, VOCABULARY)
    tied.head.weight = tied.get_input_embeddings().weight
    yield pytest.param(tied, id="tied")
    sparse = copy.deepcopy(bert)
    sparse.get_input_embeddings().sparse = True
    yield pytest.param(sparse, id="sparse")
    limited = copy.deepcopy(bert)
    limited.get_input_embeddings().max_norm = 1.0
    yield pytest.param(limited, id="limited")


@pytest.mark.parametrize("model", left_alone())
def test_other_tables_stay_as_they_are(model: PreTrainedModel) -> None:
    before = model.state_dict()
    assert cut_word_table(model, lambda: pytest.fail("looked through all rows"), texts_of(USED[1:])) is None
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == {
        name: tensor.data_ptr() for name, tensor in before.items()
    }


def test_a_table_that_is_mostly_in_use_stays() -> None:
    model = model_of(ARCHITECTURES["bert"], "eager")
    assert cut_word_table(model, lambda: np.arange(50), texts_of(USED[1:])) is None
    assert cut_word_table(model, lambda: np.arange(46), texts_of([2, 3])) is not None


def test_a_model_whose_outputs_change_gets_its_table_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(ARCHITECTURES["bert"], "eager").train()
    table = model.get_input_embeddings()
    lookup = CutTable.forward
    monkeypatch.setattr(CutTable, "forward", lambda self, ids: 2 * lookup(self, ids))
    assert cut_word_table(model, lambda: USED, texts_of(USED[1:])) is None
    assert model.get_input_embeddings() is table
    assert model.training
    assert table.training


def trained(toy: Toy, folder: Path, **changes: Any) -> tuple[TrainingState, Job]:
    changes = {"weight_decay": 5.0, "max_grad_norm": 0.5, "dropout": None} | changes
    job = toy.job(folder, recipe(**changes), toy.model().double())
    return fit(job, accelerator(), []), job


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="plain"),
        pytest.param({"weight_averaging": 2.0}, id="averaged"),
        pytest.param({"layerwise_lr_decay": 0.7, "gradient_accumulation_steps": 2}, id="groups"),
        pytest.param({"packing": True}, id="packed"),
    ],
)
def test_a_training_is_that_of_the_whole_table(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    start = toy.model().double().state_dict()[TABLE]
    found, cut = trained(toy, tmp_path / "cut", **changes)
    monkeypatch.setattr(CUT, lambda *_: None)
    expected, whole = trained(toy, tmp_path / "whole", **changes)
    assert [point.loss for point in found.curve] == pytest.approx([point.loss for point in expected.curve], rel=1e-9)
    ours, theirs = cut.model.state_dict(), whole.model.state_dict()
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-9, atol=1e-12, msg=name)
    # Words of no text decayed; a table that was left as it was at first would not do.
    unmet = np.setdiff1d(np.arange(len(start)), toy.tokens.distinct_ids(np.arange(32)))
    assert len(unmet) > 30
    assert ((ours[TABLE] / start)[unmet] < 0.99).all()


def test_checkpoints_and_the_optimiser_hold_what_is_in_use_alone(toy: Toy, tmp_path: Path) -> None:
    state, job = trained(toy, tmp_path)
    used = toy.tokens.distinct_ids(np.arange(32))
    saved = job.checkpoints.path(state.step)
    assert load_file(saved / "model.safetensors")[TABLE].shape == (len(used) + 1, 32)
    assert load_file(saved / "optimizer.safetensors")[f"exp_avg/{TABLE}"].shape == (len(used) + 1, 32)
    assert job.model.state_dict()[TABLE].shape == (49, 32)


@pytest.mark.parametrize("step", [1, 5, 9])
def test_resumed_gives_the_same_bits(toy: Toy, tmp_path: Path, step: int) -> None:
    train = recipe(checkpoint={"every": "1 steps"}, dropout=None)
    whole = toy.job(tmp_path / "whole", train, toy.model())
    expected = fit(whole, accelerator(), [])
    with pytest.raises(Interruption):
        fit(toy.job(tmp_path / "broken", train, toy.model()), accelerator(), [Recorder(at="checkpoint", step=step)])
    resumed = toy.job(tmp_path / "broken", train, toy.model())
    assert fit(resumed, accelerator(), []) == expected
    assert equal_weights(resumed.model, whole.model)


def test_an_optimiser_of_the_users_sees_the_whole_table(toy: Toy, tmp_path: Path) -> None:
    train = recipe()
    train = train.model_copy(update={"custom": train.custom.model_copy(update={"optimizer": "torch.optim:SGD"})})
    job = toy.job(tmp_path, train, toy.model())
    state = fit(job, accelerator(), [])
    assert load_file(job.checkpoints.path(state.step) / "model.safetensors")[TABLE].shape == (49, 32)


def test_words_of_validation_alone_are_kept(toy: Toy, tmp_path: Path) -> None:
    job = toy.job(tmp_path, recipe(), toy.model())
    few = replace(job, train=replace(job.train, positions=np.arange(3), labels=job.train.labels[:3]))
    assert len(toy.tokens.distinct_ids(np.arange(3))) < len(toy.tokens.distinct_ids(np.arange(32)))
    assert np.isfinite(fit(few, accelerator(), []).evaluations[-1].metrics["loss"])


def test_it_is_said(toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(toy, tmp_path)
    assert "word vectors          17 of 49, those of tokens that rows have" in capsys.readouterr().out
