"""The classifier: order restored, names and identity as saved, no noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipeline.errors import SeqtrackError
from pipeline.inference import Classifier
from pipeline.outputs import folder_digest
from tests.tiny import save_tiny_classifier

NAMES = ("10", "2", "sport")
TEXTS = [" ".join(["red green blue", "fish bird", "one"][i % 3].split() * (1 + i % 5)) for i in range(23)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_tiny_classifier(path, TEXTS, NAMES, max_length=12)
    return path


def run(classifier: Classifier, batch_size: int) -> tuple[npt.NDArray[np.float32], list[int]]:
    encoded = classifier.encoder.encode(TEXTS, None)
    batches: list[int] = []

    def make_batch(rows: npt.NDArray[np.int64]) -> dict[str, torch.Tensor]:
        return classifier.encoder.padding.batch(
            [encoded.input_ids[row] for row in rows], [encoded.token_type_ids[row] for row in rows]
        )

    lengths = np.array([len(ids) for ids in encoded.input_ids])
    return classifier.logits(lengths, make_batch, batch_size=batch_size, on_batch=batches.append), batches


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
