"""The pages on checks and formats name all that there is, as it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, get_args

from ruamel.yaml import YAML

from pipeline.checks import NAMES
from pipeline.params import Data, Policy, Tokenize
from pipeline.reading import EXTENSIONS
from pipeline.reading_bytes import COMPRESSIONS

ROOT: Final = Path(__file__).parents[1]
CHECKS: Final = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
FORMATS: Final = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
PARAMS: Final = YAML(typ="safe").load(ROOT / "params.yaml")


def test_every_check_has_its_policies_and_a_section() -> None:
    rows = re.findall(r"^\| \[(\w+)\]\(#(\w+)\) \|[^|]*\| (\w+) \| ([^|]*) \|$", CHECKS, re.MULTILINE)
    assert [name for name, *_ in rows] == [*NAMES, "near_duplicates", "truncation"]
    assert re.findall(r"^### (\w+)$", CHECKS, re.MULTILINE) == [name for name, *_ in rows]
    fields = {field.alias or name: field.annotation for name, field in Policy.model_fields.items()}
    fields["truncation"] = Tokenize.model_fields["truncation"].annotation
    defaults = {**PARAMS["validate"]["policy"], "truncation": PARAMS["tokenize"]["truncation"]}
    for name, anchor, default, allowed in rows:
        assert anchor == name
        if name != "near_duplicates":
            assert (default, tuple(allowed.split(", "))) == (defaults[name], get_args(fields[name])), name


def test_every_format_and_every_setting_is_named() -> None:
    for suffix in (*EXTENSIONS, *COMPRESSIONS):
        assert f"`{suffix}`" in FORMATS, suffix
    for key in Data.model_fields:
        assert f"data.{key}" in FORMATS, key
