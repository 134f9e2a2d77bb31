"""docs/params.md: every key of params.yaml with its values, its default and what it does, from the JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final

from pipeline.outputs import Json

_HEAD: Final = """\
# Every key of params.yaml

`make repro` checks params.yaml whole before it starts, and says in one line what is wrong and where. Editors that know
JSON Schema (VS Code with the YAML extension, PyCharm, Neovim with yaml-language-server, ...) complete and check keys as
you type: the file's first line names `params.schema.json`. Defaults are the values that params.yaml ships with.

This page is generated: `python -m pipeline.params_schema` writes it, and the schema, from `pipeline/params.py`.
"""


def page(schema: Mapping[str, Json]) -> str:
    """Return the page as Markdown: a section per section of params.yaml, a table row per key."""
    parts = [_HEAD]
    for name, section in schema["properties"].items():
        parts.append(f"## {name}\n\n{_cell(section['description'])}\n")
        parts.append("| Key | Values | Default | What it does |\n| --- | --- | --- | --- |")
        parts[-1] += "".join(
            f"\n| `{key}` | {_values(node)} | {_default(node)} | {_cell(node.get('description', ''))} |"
            for key, node in _keys(section, f"{name}.")
        )
        parts[-1] += "\n"
    return "\n".join(parts)


def _keys(node: Mapping[str, Json], prefix: str) -> Iterator[tuple[str, Mapping[str, Json]]]:
    """Yield the dotted keys under a section, those of a mapping that may be null (such as train.lora) after it."""
    for name, inner in node["properties"].items():
        if "properties" not in inner:
            yield f"{prefix}{name}", inner
        for option in (inner, *inner.get("anyOf", ())):
            if "properties" in option:
                yield from _keys(option, f"{prefix}{name}.")


def _values(node: Mapping[str, Json]) -> str:
    """Say in words which values a key takes."""
    if "anyOf" in node:
        return " or ".join(_values(option) for option in node["anyOf"])
    if "enum" in node or "const" in node:
        return ", ".join(f"`{choice}`" for choice in node.get("enum", [node.get("const")]))
    if node["type"] == "array":
        return f"list of {_values(node['items'])}s"
    if node["type"] == "object":
        return "mapping"
    words = {"boolean": "true, false", "null": "null"}.get(node["type"], str(node["type"]))
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {node[bound]:.12g}" for bound, sign in bounds.items() if bound in node]
    return " ".join([words, " and ".join(limits)]).strip()


def _default(node: Mapping[str, Json]) -> str:
    """Return a default as YAML's flow style has it: JSON, with strings that need no quotes without them."""
    if "default" not in node:
        return ""
    value = node["default"]
    return f"`{value}`" if isinstance(value, str) and value else f"`{json.dumps(value, ensure_ascii=False)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
