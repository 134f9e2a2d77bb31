"""The classifier: as plain transformers row by row, order restored, names and identity as saved, no noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipeline import inference
from pipeline.errors import SeqtrackError
from pipeline.inference import Classifier
from pipeline.outputs import folder_digest
from pipeline.prediction import logits_of
from pipeline.prediction_input import Example
from tests.encoders import NOT_IN_16_BITS, model_of
from tests.tiny import save_tiny_classifier

NAMES = ("10", "2", "sport")
TEXTS = [" ".join(["red green blue", "fish bird", "one"][i % 3].split() * (1 + i % 5)) for i in range(23)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_tiny_classifier(path, TEXTS, NAMES, max_length=12)
    return path


def run(classifier: Classifier, batch_size: int) -> tuple[npt.NDArray[np.float32], list[int]]:
    batches: list[int] = []
    rows = [Example(number, text, None) for number, text in enumerate(TEXTS)]
    return logits_of(classifier, rows, batch_size, batches.append), batches


def test_logits_come_in_the_order_of_the_rows(folder: Path) -> None:
    classifier = Classifier.load(folder)
    logits, batches = run(classifier, 4)
    assert logits.dtype == np.float32
    assert batches == [4, 4, 4, 4, 4, 3]
    tokenizer = classifier.encoder.tokenizer
    for text, found in zip(TEXTS, logits, strict=True):
        inputs = tokenizer(text, truncation=True, max_length=12, return_tensors="pt")
        with torch.inference_mode():
            expected = classifier.model(**inputs).logits[0].numpy()
        assert found == pytest.approx(expected, abs=1e-2)  # the classes lie 2 apart


@pytest.fixture
def varied(folder: Path) -> Classifier:
    """A model whose layers all tell texts apart: that of `folder` hardly does, and its head multiplies what noise does.

    Its logits of one class spread over about 1.
    """
    classifier = Classifier.load(folder)
    torch.manual_seed(1)
    for module in classifier.model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            torch.nn.init.normal_(module.weight, std=0.3)
    torch.nn.init.zeros_(classifier.model.classifier.bias)
    return classifier


def one_by_one(classifier: Classifier) -> npt.NDArray[np.float32]:
    """The plain way: a forward pass of transformers per text, without padding, in float32."""
    tokenizer = classifier.encoder.tokenizer
    with torch.no_grad():
        rows = [
            classifier.model(**tokenizer(text, truncation=True, max_length=12, return_tensors="pt")).logits[0].numpy()
            for text in TEXTS
        ]
    return np.array(rows)


@pytest.mark.parametrize("budget", [1, 30, 100_000])
@pytest.mark.parametrize("step", [1, 8])
def test_batches_of_any_size_give_what_rows_alone_give(
    varied: Classifier, budget: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "token_budget", lambda _: budget)
    monkeypatch.setattr(inference, "width_step", lambda _: step)
    found, batches = run(varied, 100)
    expected = one_by_one(varied)
    assert np.abs(found - expected).max() < 1e-5
    assert expected.std(axis=0).min() > 0.3
    assert sum(batches) == len(TEXTS)
    assert (len(batches) == 1) == (budget == 100_000)
    assert batches[0] == {1: 1, 30: 2 if step == 1 else 1, 100_000: len(TEXTS)}[budget]  # the longest has 12 tokens


def test_bf16_is_near_float32(varied: Classifier) -> None:
    found, _ = run(replace(varied, mixed_precision="bf16"), 4)
    expected = one_by_one(varied)
    assert found.dtype == np.float32
    assert 1e-5 < np.abs(found - expected).max() < 0.1
    chances, said = (np.array(varied.decide(logits).probabilities) for logits in (expected, found))
    assert np.abs(chances - said).max() < 0.02


def test_precision_is_given_when_a_model_is_loaded(folder: Path) -> None:
    assert Classifier.load(folder).mixed_precision == "no"
    assert Classifier.load(folder, mixed_precision="bf16").mixed_precision == "bf16"


def test_a_model_that_cannot_compute_in_16_bits_says_so(folder: Path) -> None:
    classifier = replace(Classifier.load(folder), model=model_of(NOT_IN_16_BITS, "eager"), mixed_precision="bf16")
    with pytest.raises(SeqtrackError, match="this model cannot compute in mixed precision") as told:
        run(classifier, 4)
    assert "mixed_precision" in str(told.value)
    assert 'set it to "no"' in str(told.value)
    found, _ = run(replace(classifier, mixed_precision="no"), 4)
    assert np.isfinite(found).all()


def test_results_repeat_bit_for_bit(folder: Path) -> None:
    assert np.array_equal(run(Classifier.load(folder), 4)[0], run(Classifier.load(folder), 4)[0])


def test_names_identity_and_precision_come_from_the_folder(folder: Path) -> None:
    classifier = Classifier.load(folder)
    assert classifier.labels.names == NAMES
    assert classifier.digest == folder_digest(folder)
    assert classifier.run_key == "0" * 64
    assert classifier.encoder.max_length == 12
    assert classifier.model.dtype == torch.float32
    assert not classifier.model.training


def test_loading_is_silent(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Classifier.load(folder)
    assert capfd.readouterr() == ("", "")


def test_a_diverged_model_is_an_error(folder: Path) -> None:
    classifier = Classifier.load(folder)
    with torch.no_grad():
        classifier.model.classifier.bias[0] = float("nan")
    with pytest.raises(SeqtrackError, match=r"not finite.*learning_rate"):
        run(classifier, 8)


def test_a_missing_model_is_explained(tmp_path: Path) -> None:
    with pytest.raises(SeqtrackError, match=r"file not found.*dvc repro"):
        Classifier.load(tmp_path / "model")
