"""Results: whole or absent, byte-identical."""

from __future__ import annotations

import contextlib
import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SeqtrackError
from pipeline.outputs import (
    canonical_json,
    folder_digest,
    output_folder,
    read_json,
    read_manifest,
    replacing,
    sha256_file,
    sha256_json,
    write_json,
    write_manifest,
    write_text,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


class Stop(BaseException):
    """Even what is no Exception, such as an interruption, leaves nothing."""


@given(JSON)
def test_json_is_canonical(value: Any) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert text.endswith("\n")
    if isinstance(value, dict):
        assert canonical_json(dict(reversed(value.items()))) == text
        assert sha256_json(dict(reversed(value.items()))) == hashlib.sha256(text.encode()).hexdigest()


def test_json_keeps_other_scripts_and_refuses_nan() -> None:
    assert canonical_json({"b": "文", "a": 1}) == '{\n  "a": 1,\n  "b": "文"\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"loss": float("nan")})


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    write_json(path, [1])
    assert path.read_bytes() == b"[\n  1\n]\n"
    with contextlib.suppress(Stop), replacing(path) as temporary:
        temporary.write_text("half")
        raise Stop
    assert read_json(path) == [1]
    write_text(path, "a\r\nb\n")
    assert path.read_bytes() == b"a\r\nb\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [file.name for file in path.parent.iterdir()] == ["file.json"]


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("inf"))
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]
    assert read_json(path) == 1


@pytest.mark.parametrize("before", [False, True])
def test_a_folder_that_fails_leaves_nothing(tmp_path: Path, before: bool) -> None:
    path = tmp_path / "out"
    if before:
        with output_folder(path) as folder:
            (folder / "old").write_text("old")
    with contextlib.suppress(Stop), output_folder(path) as folder:
        (folder / "new").write_text("new")
        raise Stop
    assert [file.relative_to(tmp_path).as_posix() for file in sorted(tmp_path.rglob("*"))] == (
        ["out", "out/old"] if before else []
    )


def test_a_folder_takes_the_place_of_the_old_one_and_of_what_a_kill_left(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out"
    for name in ("old", "new"):
        leftover = path.parent / ".out.tmp"
        leftover.mkdir(parents=True, exist_ok=True)
        (leftover / "garbage").touch()
        with output_folder(path) as folder:
            (folder / "inner").mkdir()
            (folder / "inner" / name).write_text(name)
            (folder / "inner" / name).chmod(0o600)
    assert [file.relative_to(tmp_path).as_posix() for file in sorted(tmp_path.rglob("*"))] == [
        "deep",
        "deep/out",
        "deep/out/inner",
        "deep/out/inner/new",
    ]
    assert stat.S_IMODE((path / "inner" / "new").stat().st_mode) == 0o644


def test_a_manifest_describes_every_file(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "b.txt").write_text("b")
    (tmp_path / "a.txt").write_text("a")
    write_manifest(tmp_path, inputs={"x": "1"}, params={"k": 2}, rows={"train": 3}, run_key="r")
    assert read_manifest(tmp_path) == {
        "schema_version": 1,
        "inputs": {"x": "1"},
        "params": {"k": 2},
        "rows": {"train": 3},
        "files": {name: sha256_file(tmp_path / name) for name in ("a.txt", "inner/b.txt")},
        "run_key": "r",
    }
    before = folder_digest(tmp_path)
    write_manifest(tmp_path, inputs={"x": "1"}, params={"k": 2}, rows={"train": 3}, run_key="r")
    assert folder_digest(tmp_path) == before  # the manifest does not describe itself
    (tmp_path / "a.txt").write_text("A")
    write_manifest(tmp_path, inputs={"x": "1"}, params={"k": 2}, rows={"train": 3}, run_key="r")
    assert folder_digest(tmp_path) != before


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "file not found; run `dvc repro`"),
        ("{", "not valid JSON"),
        ("[]", "another version.*expected schema_version 1; found None"),
        ('{"schema_version": 0}', "another version.*found 0"),
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, content: str | None, problem: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(SeqtrackError, match=problem):
        read_manifest(tmp_path)
    if content is None:
        with pytest.raises(SeqtrackError, match=problem):
            folder_digest(tmp_path)
