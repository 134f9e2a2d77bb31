"""The export stage: off unless asked for; an ONNX graph that computes what PyTorch computes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from tokenizers import Tokenizer

from pipeline import exporting, onnx_export
from pipeline.code import HOME
from pipeline.errors import SeqtrackError
from pipeline.exporting import Exported, export_model, write_nothing
from pipeline.inference import Classifier
from pipeline.onnx_parity import Compared, require_parity
from pipeline.outputs import read_json, read_manifest
from pipeline.params import Export
from pipeline.paths import MODEL, ONNX, REPORTS, ROWS, SPLITS, TOKENIZED
from tests.whole_run import enter_copy, set_params

REPORT = REPORTS / "export.json"
HEAVY = {"onnx", "onnxruntime", "onnxscript", "torch", "transformers", "mlflow", "sklearn", "pandas"}


def run(folder: Path = ONNX, **changes: Any) -> Exported:
    settings = Export(**({"format": "onnx", "int8": True, "tolerance": 1e-3} | changes))
    return export_model(MODEL, folder, REPORT, tokenized=TOKENIZED, splits=SPLITS, rows=ROWS, export=settings)


@pytest.fixture(scope="module")
def exported(finished: Path, mlflow_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the export, made once."""
    folder = tmp_path_factory.mktemp("exported") / "work"
    with pytest.MonkeyPatch.context() as patch:
        enter_copy(finished, folder, mlflow_root, patch)
        done = run()
        assert set(done.samples_per_second) == {"pytorch", "onnx", "onnx_int8"}
        assert min(done.samples_per_second.values()) > 0
    return folder


@pytest.fixture
def work(exported: Path, mlflow_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    enter_copy(exported, tmp_path / "work", mlflow_root, monkeypatch)
    return tmp_path


def session(name: str) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(ONNX / name), providers=["CPUExecutionProvider"])


@pytest.mark.usefixtures("work")
def test_any_batch_gives_pytorchs_logits() -> None:
    classifier, graph = Classifier.load(MODEL), session("model.onnx")
    assert [(value.name, value.shape) for value in graph.get_inputs()] == [
        (name, ["batch", "sequence"]) for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    assert [(value.name, value.shape) for value in graph.get_outputs()] == [("logits", ["batch", 3])]
    texts = ["a", "great film word1", " ".join(["it was awful"] * 20)]
    for chosen in (texts, texts[:1], texts[2:]):
        encoded = classifier.encoder.encode(chosen, None)
        batch = classifier.encoder.padding.batch(encoded.input_ids, encoded.token_type_ids, multiple_of=1)
        theirs = classifier.model(**batch).logits.detach().numpy()
        (ours,) = graph.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
        assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.usefixtures("work")
def test_the_folder_is_enough_without_transformers() -> None:
    """As docs/export.md shows it."""
    names = read_json(ONNX / "labels.json")["names"]
    tokenizer = Tokenizer.from_file(str(ONNX / "tokenizer.json"))
    tokenizer.enable_truncation(read_manifest(ONNX)["max_length"])
    tokenizer.enable_padding(pad_id=0)
    encoded = tokenizer.encode_batch(["great film word1", "awful"])
    inputs = {
        "input_ids": np.array([each.ids for each in encoded]),
        "attention_mask": np.array([each.attention_mask for each in encoded]),
        "token_type_ids": np.array([each.type_ids for each in encoded]),
    }
    classifier = Classifier.load(MODEL)
    for name, allowed in (("model.onnx", 1e-5), ("model_quantized.onnx", 1.0)):
        (logits,) = session(name).run(None, inputs)
        for row, text in zip(logits, ("great film word1", "awful"), strict=True):
            theirs = classifier.model(**classifier.encoder.tokenizer(text, return_tensors="pt")).logits[0]
            assert row == pytest.approx(theirs.detach().numpy(), abs=allowed)
            assert names[int(row.argmax())] in classifier.labels.names
    assert not list(ONNX.glob("*.safetensors"))


@pytest.mark.usefixtures("work")
def test_what_the_report_says() -> None:
    report = read_json(REPORT)
    formats = report["formats"]
    assert formats["onnx"]["largest_logit_difference"] < 1e-4
    assert formats["onnx"]["label_agreement"] == 1.0
    metrics = read_json(REPORTS / "metrics.json")["validation"]
    for name, value in formats["pytorch"]["metrics"].items():
        assert value == pytest.approx(metrics[name], abs=1e-6)
    assert formats["onnx_int8"]["metrics"].keys() == formats["pytorch"]["metrics"].keys()
    assert formats["onnx_int8"]["bytes"] < formats["onnx"]["bytes"]
    assert "second" not in REPORT.read_text()
    assert report["run_key"] == read_manifest(MODEL)["run_key"]


@pytest.mark.usefixtures("work")
def test_the_same_model_gives_the_same_bytes() -> None:
    before = {file.name: file.read_bytes() for file in (*ONNX.iterdir(), REPORT)}
    run()
    assert {file.name: file.read_bytes() for file in (*ONNX.iterdir(), REPORT)} == before
    graph = onnx.load(ONNX / "model.onnx")
    assert not graph.graph.node[0].metadata_props
    assert str(HOME).encode() not in before["model.onnx"]


@pytest.mark.usefixtures("work")
def test_an_export_that_computes_something_else_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ONNX.rename("kept")

    def changed(_: Classifier, file: Path) -> None:
        graph = onnx.load(kept / "model.onnx")
        bias = next(each for each in graph.graph.initializer if list(each.dims) == [3])
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.5), bias.name))
        onnx.save(graph, file)

    monkeypatch.setattr(onnx_export, "onnx_model", changed)
    with pytest.raises(SeqtrackError, match=r"logits within 0\.\d+ on validation .*; found a difference of 0\.5"):
        run(int8=False)
    assert not ONNX.exists()


@pytest.mark.parametrize(("difference", "passes"), [(0.009, True), (0.011, False), (float("nan"), False)])
def test_the_tolerance_grows_with_the_logits(difference: float, passes: bool) -> None:
    compared = Compared(
        largest_difference=difference, largest_logit=10.0, agreement=1.0, metrics={}, samples_per_second=1.0
    )
    if passes:
        require_parity(compared, 1e-3)
    else:
        with pytest.raises(SeqtrackError, match="does not compute what PyTorch's does"):
            require_parity(compared, 1e-3)


def test_where_nothing_is_asked_for_nothing_is_loaded_or_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    set_params()
    program = (
        "import json, sys\n"
        f"sys.path.insert(0, {str(HOME)!r})\n"
        "from stages.export import export\n"
        "from pipeline.params import load_params\n"
        "export(load_params())\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout.splitlines()[-1])) & HEAVY == set()
    assert [file.name for file in ONNX.iterdir()] == ["manifest.json"]
    assert read_json(REPORT) == {"format": None}


def test_the_folder_of_another_export_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ONNX.mkdir(parents=True)
    (ONNX / "model.onnx").write_bytes(b"old")
    write_nothing(ONNX, REPORT)
    assert [file.name for file in ONNX.iterdir()] == ["manifest.json"]


def test_a_missing_package_is_one_command_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        exporting.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name)
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SeqtrackError, match=r'onnxscript is not installed; .*pip install "\.\[onnx\]"'):
        run()
    assert not ONNX.exists()
