"""Writing results so that they are whole or absent, and byte-identical on every run.

Promises: a file or folder appears under its final name only when complete; JSON is written in one canonical form; each
output folder carries a `manifest.json` with the schema version, digests of what went in, the params used, row counts
and the digest of every file beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import SeqtrackError

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1

Json = Any  # what json.dumps takes; the standard library has no name for it


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Json) -> str:
    """Return the hex sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def canonical_json(value: Json) -> str:
    """Return indented JSON with sorted keys and a final newline; NaN is an error, since JSON has none."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Json) -> None:
    """Write canonical JSON atomically, making the folder if needed."""
    write_text(path, canonical_json(value))


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically (no newline translation), making the folder if needed."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode())


def read_json(path: Path) -> Json:
    """Read a JSON file that an earlier stage wrote.

    Raises:
        SeqtrackError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SeqtrackError("file not found", where=str(path), fix="run `dvc repro` to build it") from None
    except ValueError as error:
        raise SeqtrackError(f"not valid JSON ({error})", where=str(path), fix="run `dvc repro` to rebuild it") from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there when the block succeeds, delete it when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def output_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; put it in place of `path` when the block succeeds.

    A block that fails leaves nothing: neither the temporary folder nor a changed `path`. What a killed process left of
    an earlier attempt is cleared first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                file.chmod(0o644)  # some libraries write for the owner alone
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_manifest(
    folder: Path, *, inputs: Mapping[str, str], params: Json, rows: Mapping[str, int], **extra: Json
) -> None:
    """Write `folder`/manifest.json: the last file of an output folder, describing all others.

    Args:
        folder: the (temporary) output folder, complete but for the manifest.
        inputs: name to sha256 of what the stage read.
        params: the parameters that shaped the output.
        rows: row counts by name.
        extra: further facts, each under its own key.
    """
    files = {
        file.relative_to(folder).as_posix(): sha256_file(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    write_json(
        folder / MANIFEST,
        {
            "schema_version": SCHEMA_VERSION,
            "inputs": dict(inputs),
            "params": params,
            "rows": dict(rows),
            "files": files,
            **extra,
        },
    )


def read_manifest(folder: Path) -> dict[str, Json]:
    """Read `folder`/manifest.json.

    Raises:
        SeqtrackError: it is missing, damaged, or of another schema version.
    """
    manifest: dict[str, Json] = read_json(folder / MANIFEST)
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise SeqtrackError(
            "output of another version of this project",
            where=str(folder / MANIFEST),
            expected=f"schema_version {SCHEMA_VERSION}",
            found=repr(version),
            fix="run `dvc repro --force` to rebuild it",
        )
    return manifest


def folder_digest(folder: Path) -> str:
    """Return the digest of an output folder: that of its manifest, which names the digest of every file."""
    if not (folder / MANIFEST).is_file():
        read_manifest(folder)  # explains what is missing
    return sha256_file(folder / MANIFEST)
