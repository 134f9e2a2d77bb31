"""The trained model on the Hugging Face hub: its folder as train wrote it, and the model card as README.md.

Promises: files arrive byte for byte, in one commit; what can be told beforehand (no token, no network allowed) is told
before anything is written anywhere; whatever the hub answers ends in one line.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pipeline.errors import SeqtrackError
from pipeline.outputs import MANIFEST
from pipeline.params import Register
from pipeline.paths import hub_endpoint, hub_offline
from pipeline.trained import Trained

README: Final = "README.md"  # what the hub shows as a model's card
TOKEN_PLACES: Final = "run `hf auth login`, or set HF_TOKEN to a token that may write"


def prepare(settings: Register) -> Callable[[Trained, Path], str]:
    """Check what can be checked without the hub, and return the upload.

    Args:
        settings: the section, with hub_model_id.

    Returns:
        A function of the model and its card that uploads them and returns the address; it raises SeqtrackError where
        the hub refuses or cannot be reached.

    Raises:
        SeqtrackError: the network is forbidden, or there is no token.
    """
    from huggingface_hub import get_token

    where = f"params.yaml: register.hub_model_id: {settings.hub_model_id}"
    if hub_offline():
        raise SeqtrackError(
            "HF_HUB_OFFLINE forbids the upload", where=where, fix="unset it, or set register.push_to_hub to false"
        )
    token = get_token()
    if not token:
        raise SeqtrackError("no token for the hub", where=where, fix=TOKEN_PLACES)
    return lambda trained, card: _upload(trained, card, settings, token, where)


def upload_folder(trained: Trained, card: Path, folder: Path) -> None:
    """Fill an empty folder with what is uploaded: the files that train wrote, their manifest, and the card."""
    for name in (*trained.manifest["files"], MANIFEST):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(trained.folder / name, folder / name)
    shutil.copyfile(card, folder / README)


def _upload(trained: Trained, card: Path, settings: Register, token: str, where: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but not marked so
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    api = HfApi(endpoint=hub_endpoint(), token=token)
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory() as place, _told(where):
            upload_folder(trained, card, Path(place))
            assert settings.hub_model_id is not None  # params.yaml is checked for it
            made = api.create_repo(settings.hub_model_id, private=settings.hub_private_repo, exist_ok=True)
            if settings.hub_revision is not None:
                api.create_branch(made.repo_id, branch=settings.hub_revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=made.repo_id,
                folder_path=place,
                revision=settings.hub_revision,
                commit_message=f"Model {trained.digest[:10]} of run_key {trained.run_key[:10]}",
            )
    finally:
        if shown:
            enable_progress_bars()
    return str(commit.commit_url)


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Turn what the hub's client raises into one line."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # kept there for libraries like this one

    try:
        yield
    except HFValidationError as error:
        raise SeqtrackError("not a name that the hub takes", where=where, found=str(error)) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        fixes = {
            401: TOKEN_PLACES,
            403: "use a token that may write there",
            404: "check the name and its team, and whether the token may see it",
        }
        raise SeqtrackError(
            "the hub refused the upload",
            where=where,
            found=f"status {status} of {hub_endpoint()}: {str(error).strip().splitlines()[0]}",
            fix=fixes.get(status, "try again"),
        ) from None
    except (httpx.HTTPError, OSError) as error:
        raise SeqtrackError(
            "the hub cannot be reached",
            where=where,
            found=f"{hub_endpoint()}: {error}",
            fix="check HF_ENDPOINT, try again",
        ) from None
    except json.JSONDecodeError:
        raise SeqtrackError(
            "what answers is no hub (a proxy or login page?)", where=where, found=hub_endpoint()
        ) from None
    except (ValueError, RuntimeError) as error:  # what the hub's client says of a file that it could not hand over
        raise SeqtrackError(
            "the upload failed", where=where, found=f"{error} {error.__cause__ or ''}".strip(), fix="try again"
        ) from error
