"""The classifier: a head that follows the seed, an encoder that is truly the pretrained one, an export that works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    MambaConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    pipeline,
)

from pipeline.encoding import Encoder
from pipeline.errors import SeqtrackError
from pipeline.labels import LabelSet
from pipeline.model_source import ModelSource
from pipeline.modeling import export, load_classifier
from tests.tiny import save_tiny_encoder
from tests.toy import equal_weights

LABELS = LabelSet(problem_type="single_label_classification", names=("2", "10", "体育"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tiny_encoder(tmp_path / "encoder", ["red green blue"])
    return tmp_path / "encoder"


def load(folder: Path, seed: int = 1, labels: LabelSet = LABELS) -> PreTrainedModel:
    source = ModelSource(name="some/model", folder=folder, commit=None)
    return load_classifier(source, labels, seed=seed, trust_remote_code=False)


def complaint(folder: Path) -> str:
    with pytest.raises(SeqtrackError) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("params.yaml: model.name_or_path: some/model: ")
    return message


def test_the_head_follows_the_seed_and_the_encoder_the_files(folder: Path) -> None:
    one, same, other = load(folder), load(folder), load(folder, seed=2)
    assert equal_weights(one, same)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    assert equal_weights(one.bert, other.bert)
    saved = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in one.bert.state_dict().items())
    assert one.config.id2label == {0: "2", 1: "10", 2: "体育"}
    assert one.config.problem_type == "single_label_classification"


def test_weights_are_float32_whatever_the_files_hold(folder: Path) -> None:
    weights = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert {parameter.dtype for parameter in load(folder).parameters()} == {torch.float32}


def test_a_head_of_another_width_gives_way(tmp_path: Path) -> None:
    save_tiny_encoder(tmp_path, ["red"], num_labels=7)
    assert load(tmp_path).classifier.weight.shape == (3, 32)


def test_loading_is_silent(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    load(folder)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("damage", ["gone", "cut", "garbage"])
def test_damaged_weights_are_explained(folder: Path, damage: str) -> None:
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.unlink()
    if damage != "gone":
        file.write_bytes(data[: len(data) // 2] if damage == "cut" else b"garbage")
    assert "cannot load a sequence classifier" in complaint(folder)


@pytest.mark.parametrize("config", ["{", '{"model_type": "no-such-model"}', '{"model_type": "whisper"}', "{}"])
def test_models_that_are_no_encoders_are_explained(folder: Path, config: str) -> None:
    (folder / "config.json").write_text(config)
    assert "cannot load a sequence classifier" in complaint(folder)


def test_an_encoder_is_never_left_random(folder: Path) -> None:
    """transformers would make up what the file does not hold and say so in a report that is noise otherwise."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file({f"encoder_of_another.{name}": tensor for name, tensor in weights.items()}, file)
    assert "the weights do not fit config.json: 39 of the encoder's 39 tensors are missing" in complaint(folder)
    name = "embeddings.word_embeddings.weight"
    save_file(weights | {name: torch.cat([weights[name], weights[name]])}, file)
    assert "0 of the encoder's 39 tensors are missing, 1 have another shape" in complaint(folder)


def test_an_encoder_without_a_pooler_is_in_order(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: t for name, t in weights.items() if "pooler" not in name}, folder / "model.safetensors")
    assert equal_weights(load(folder), load(folder))


def test_the_export_is_a_pipeline_with_names(folder: Path, tmp_path: Path) -> None:
    model = load(folder).eval()
    encoder = Encoder.load(folder, 12)
    encoder.encode(["red " * 50], None)  # leaves truncation behind in the backend
    export(model, encoder, LABELS, tmp_path / "out")
    classify = pipeline("text-classification", str(tmp_path / "out"), device="cpu")
    text = "red green " * 30
    found = classify(text, truncation=True, top_k=None)
    inputs = encoder.tokenizer(text, truncation=True, max_length=12, return_tensors="pt")
    expected = model(**inputs).logits.softmax(-1)[0]
    assert {score["label"] for score in found} == set(LABELS.names)
    for score in found:
        assert score["score"] == pytest.approx(expected[LABELS.names.index(score["label"])].item(), abs=1e-6)
    assert LabelSet.read(tmp_path / "out" / "labels.json") == LABELS
    backend = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    assert backend["truncation"] is None
    assert backend["padding"] is None


def test_the_export_has_the_same_bytes_wherever_the_base_model_lay(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in folder.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    contents = []
    for place in (folder, moved):
        out = tmp_path / f"out-of-{place.name}"
        export(load(place), Encoder.load(place, 12), LABELS, out)
        assert not any(str(place).encode() in file.read_bytes() for file in out.iterdir())
        contents.append({file.name: file.read_bytes() for file in out.iterdir()})
    assert contents[0] == contents[1]
    assert "model.safetensors" in contents[0]
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out-of-moved", dtype=torch.float32)
    assert equal_weights(again, load(folder))


SMALL = {
    "vocab_size": 50,
    "pad_token_id": 0,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
CONFIGS = [
    BertConfig(**SMALL, classifier_dropout=0.3),
    DistilBertConfig(vocab_size=50, dim=32, hidden_dim=32, n_layers=2, n_heads=2),
    RobertaConfig(**SMALL),
    DebertaV2Config(**SMALL),
    ModernBertConfig(**SMALL, attention_dropout=0.1, embedding_dropout=0.1, mlp_dropout=0.1, classifier_dropout=0.1),
    ElectraConfig(**SMALL, embedding_size=16),
    AlbertConfig(**SMALL, embedding_size=16),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_dropout_of_every_kind_is_what_was_asked_for(config: PreTrainedConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    source = ModelSource(name="scratch", folder=tmp_path, commit=None, pretrained=False)
    # PyTorch's layers, those of models of their own (StableDropout), and numbers that functions get.
    for dropout in (0.0, 0.25):
        model = load_classifier(source, LABELS, seed=1, trust_remote_code=False, dropout=dropout)
        layers = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
        numbers = [
            value
            for module in model.modules()
            for name, value in vars(module).items()
            if "drop" in name and isinstance(value, float)
        ]
        assert layers or numbers
        assert {*layers, *numbers} == {dropout}


def test_dropout_is_left_alone_or_taken_from_pretrained_models_too(folder: Path) -> None:
    source = ModelSource(name="some/model", folder=folder, commit=None)
    assert load(folder).config.hidden_dropout_prob == 0.1
    model = load_classifier(source, LABELS, seed=1, trust_remote_code=False, dropout=0.0)
    assert model.config.hidden_dropout_prob == model.config.attention_probs_dropout_prob == 0.0
    assert equal_weights(model, load(folder))
    model.train()
    ids = torch.tensor([[2, 5, 3]])
    assert torch.equal(model(ids).logits, model(ids).logits)


def test_a_model_without_dropout_is_told(tmp_path: Path) -> None:
    MambaConfig(hidden_size=8, num_hidden_layers=1).save_pretrained(tmp_path)
    source = ModelSource(name="scratch", folder=tmp_path, commit=None, pretrained=False)
    with pytest.raises(SeqtrackError, match=r"train\.dropout: the configuration of mamba names none"):
        load_classifier(source, LABELS, seed=1, trust_remote_code=False, dropout=0.1)
