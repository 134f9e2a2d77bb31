"""The licence of the base model, from its own card.

Promises: no network; None where its card is not at hand or says nothing.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import SeqtrackError
from pipeline.model_source import resolve
from pipeline.outputs import Json
from pipeline.params import Model
from pipeline.trained import is_local

README = "README.md"


def base_licence(model: Json) -> str | None:
    """Return what the metadata of a base model's card name as its licence.

    Args:
        model: the `model` section that a training had, as its manifest has it.
    """
    if model.get("from_scratch") is not None or (file := _card(model)) is None:
        return None
    import yaml  # type: ignore[import-untyped]  # comes with huggingface_hub
    from huggingface_hub import ModelCard

    try:
        found = ModelCard(file.read_text(encoding="utf-8"), ignore_metadata_errors=True).data
    except (ValueError, yaml.YAMLError):  # whatever it is, it names no licence
        return None
    name = found.get("license_name") if found.get("license") == "other" else found.get("license")
    return name if isinstance(name, str) else None


def _card(model: Json) -> Path | None:
    """Return the file on this machine, None where there is none."""
    name: str = model["name_or_path"]
    if is_local(name) or name.startswith("package:"):
        source = Model(name_or_path=name, revision=None, trust_remote_code=False)
        try:
            file = resolve(source, weights=False).folder / README
        except SeqtrackError:  # gone since the training
            return None
        return file if file.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, README, revision=model["revision"])
    return Path(cached) if isinstance(cached, str) else None
