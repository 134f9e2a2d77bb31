"""The upload to the hub: all files, byte for byte, or one line that says why not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from pipeline.outputs import read_manifest
from pipeline.paths import MODEL, REPORTS
from stages import register
from tests.push_hub import TOKEN, Repositories, push_hub
from tests.whole_run import enter_copy, set_params


@pytest.fixture
def hub(finished: Path, mlflow_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repositories]:
    """The stand-in; a working folder whose model is to be uploaded to it."""
    enter_copy(finished, tmp_path / "work", mlflow_root, monkeypatch)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the stand-in takes large files the older way
    set_params(register__name="pushed", register__push_to_hub=True, register__hub_model_id="team/news")
    with push_hub() as kept:
        monkeypatch.setenv("HF_ENDPOINT", kept.endpoint)
        yield kept


def run() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["register"])
        register.main()


def refusal() -> str:
    with pytest.raises(SystemExit) as caught:
        run()
    message = str(caught.value.code)
    assert message.startswith("error: ")
    assert "\n" not in message
    return message


def expected() -> dict[str, bytes]:
    names = (*read_manifest(MODEL)["files"], "manifest.json")
    card = (REPORTS / "model_card.md").read_bytes()
    return {name: (MODEL / name).read_bytes() for name in names} | {"README.md": card}


def test_every_file_arrives_as_it_is(hub: Repositories, capsys: pytest.CaptureFixture[str]) -> None:
    (MODEL / "notes.txt").write_text("not train's")
    run()
    assert f"register: uploaded to {hub.endpoint}/team/news/commit/" in capsys.readouterr().out
    assert hub.private == {"team/news": True}
    assert hub.files == {("team/news", "main"): expected()}
    assert b'model="team/news"' in hub.files["team/news", "main"]["README.md"]
    assert "model.safetensors" in hub.files["team/news", "main"]

    set_params(register__hub_revision="second")  # again, into a branch of what is there
    run()
    assert hub.files["team/news", "second"] == expected()


def test_nothing_is_uploaded_unless_asked_for_and_let_through(hub: Repositories) -> None:
    set_params(register__minimum={"test.accuracy": 2.0})
    assert "the model is not good enough" in refusal()
    set_params(register__minimum={}, register__push_to_hub=False)
    run()
    assert hub.requests == 0


def test_a_public_repository_where_asked_for(hub: Repositories) -> None:
    set_params(register__hub_private_repo=False)
    run()
    assert hub.private == {"team/news": False}


def test_no_token(hub: Repositories, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    message = refusal()
    assert "register.hub_model_id: team/news: no token for the hub; run `hf auth login`, or set HF_TOKEN" in message
    assert hub.requests == 0
    assert not (REPORTS / "model_card.md").exists()


def test_what_the_hub_refuses(hub: Repositories, monkeypatch: pytest.MonkeyPatch) -> None:
    set_params(register__hub_model_id="gone/news")
    assert "the hub refused the upload; found status 404" in refusal()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    message = refusal()
    assert "found status 401" in message
    assert message.endswith("run `hf auth login`, or set HF_TOKEN to a token that may write.")
    assert hub.files == {}


def test_no_hub_to_be_reached(hub: Repositories, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "the hub cannot be reached; found http://127.0.0.1:9" in refusal()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE forbids the upload" in refusal()
    set_params(register__hub_model_id="not/a/name")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert "not a name that the hub takes" in refusal()
