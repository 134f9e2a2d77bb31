"""params.yaml as a JSON Schema, which editors read to complete, explain and check keys while one types.

Promises: made from the typed params alone, with the values that params.yaml has as defaults; equal inputs give equal
bytes; what the schema refuses, the pipeline refuses. The reverse holds for keys, types, choices and bounds: keys that
do not fit together, files that are not there and the like only the pipeline sees.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.outputs import Json, write_text
from pipeline.params import Params, load_params
from pipeline.params_page import page
from pipeline.paths import PARAMS_FILE

SCHEMA_FILE: Final = Path("params.schema.json")
PAGE_FILE: Final = Path("docs/params.md")
_PYDANTICS_OWN: Final = ("title", "$defs", "$ref")


def params_schema(params: Params) -> dict[str, Json]:
    """Return the JSON Schema (draft 2020-12) of params.yaml.

    Args:
        params: whose values become the schema's defaults.
    """
    whole = Params.model_json_schema(by_alias=True)
    values = params.model_dump(mode="json", by_alias=True)
    schema = _tidy(whole, whole["$defs"])
    for name, section in schema["properties"].items():
        _set_defaults(section, values[name])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "seqtrack's params.yaml",
        **schema,
    }


def partial_schema(schema: Mapping[str, Json]) -> dict[str, Json]:
    """Return a schema for a part of params.yaml, such as a preset: as the whole's, but no key has to be there."""
    return {
        key: {name: partial_schema(inner) for name, inner in value.items()} if key == "properties" else value
        for key, value in schema.items()
        if key != "required"
    }


def _tidy(node: Json, definitions: Mapping[str, Json]) -> Json:
    """Return a node of pydantic's schema with its references put in place and its docstrings on one line."""
    if isinstance(node, list):
        return [_tidy(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    tidy: dict[str, Json] = {}
    if "$ref" in node:
        tidy = _tidy(definitions[node["$ref"].rsplit("/", 1)[1]], definitions)
    for key, value in node.items():
        if key == "properties":
            tidy[key] = {name: _tidy(inner, definitions) for name, inner in value.items()}
        elif key == "description":
            tidy[key] = " ".join(value.split())
        elif key not in _PYDANTICS_OWN:
            tidy[key] = value if key == "required" else _tidy(value, definitions)
    return tidy


def _set_defaults(node: dict[str, Any], value: Json) -> None:
    """Give each key that is no section the value that params.yaml has."""
    if "properties" not in node:
        node["default"] = value
        return
    node.pop("default", None)
    for name, inner in node["properties"].items():
        _set_defaults(inner, value[name])


def schema_text(schema: Mapping[str, Json]) -> str:
    """Return a schema as the file has it: keys in the order of params.yaml's sections, so that changes read well."""
    return json.dumps(schema, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


if __name__ == "__main__":
    made = params_schema(load_params(PARAMS_FILE))
    write_text(SCHEMA_FILE, schema_text(made))
    write_text(PAGE_FILE, page(made))
    print(f"{SCHEMA_FILE} and {PAGE_FILE} are as the code and {PARAMS_FILE} say")
