"""Presets: named sets of params.yaml's keys, one per task.

Promises: a preset changes the keys it names and takes back what an earlier preset left; comments, order and the user's
own values stay; params.yaml is whole and valid, or as it was.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from pipeline.errors import SeqtrackError
from pipeline.outputs import write_text
from pipeline.params import parse_params, section_names
from pipeline.paths import PARAMS_FILE, PRESETS
from pipeline.suggestions import did_you_mean, nearest

DEFAULT: Final = "default"
_PLAIN: Final = re.compile(r"[A-Za-z][\w./-]*")  # strings that `dvc exp run -S` takes without quotes
_SECTIONS: Final = section_names()
_WORDS: Final = {"null", "true", "false", "none", "nan", "inf"}


@dataclass(frozen=True, kw_only=True)
class Change:
    """A key of params.yaml with its value before and after."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key}: {flag(self.before)} -> {flag(self.after)}"


def names() -> list[str]:
    """Return the names of the presets, sorted."""
    return sorted(file.stem for file in PRESETS.glob("*.yaml"))


def description(name: str) -> str:
    """Return the first line of a preset: its task and metrics."""
    return _text(name).partition("\n")[0].removeprefix("# ")


def keys(name: str) -> dict[str, Any]:
    """Return a preset's keys, dotted, with their values.

    Raises:
        SeqtrackError: there is no such preset; the message has the nearest name.
    """
    return _dotted(YAML(typ="rt").load(_text(name)))  # in which 1e-4 stays as it is written


def settings(name: str, current: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dotted keys that applying a preset sets, with their values.

    Those are the preset's own, and, with their defaults, those that hold what another preset put there.

    Args:
        name: the preset.
        current: params.yaml, dotted.
        overrides: keys that go before the preset's.
    """
    chosen, default = keys(name), keys(DEFAULT)
    others = [keys(other) for other in names() if other != DEFAULT]
    left = {
        key: value
        for key, value in default.items()
        if key not in chosen and any(key in other and other[key] == current.get(key) for other in others)
    }
    return {**left, **chosen, **overrides}


def apply(name: str, overrides: Mapping[str, Any], path: Path = PARAMS_FILE) -> list[Change]:
    """Write a preset's keys into params.yaml.

    Args:
        name: the preset; `default` takes back what presets have set.
        overrides: dotted keys that go before the preset's.
        path: params.yaml.

    Returns:
        What changed, in the file's order.

    Raises:
        SeqtrackError: there is no such preset, or a key or value that params.yaml cannot have.
    """
    current = dotted(path.read_text(encoding="utf-8"))
    return set_keys(settings(name, current, overrides), path)


def dotted(text: str) -> dict[str, Any]:
    """Return all keys of params.yaml's text, dotted, with their values; what is the value of a key stays whole."""
    return _dotted(_round_trip().load(text))


def set_keys(wanted: Mapping[str, Any], path: Path = PARAMS_FILE) -> list[Change]:
    """Write dotted keys into params.yaml; comments and order stay.

    Returns:
        What changed, in the file's order.

    Raises:
        SeqtrackError: a key or value that params.yaml cannot have.
    """
    text, changes = with_keys(path.read_text(encoding="utf-8"), wanted, path)
    if changes:
        write_text(path, text)
    return changes


def with_keys(text: str, wanted: Mapping[str, Any], path: Path = PARAMS_FILE) -> tuple[str, list[Change]]:
    """Return params.yaml's text with other values, checked, and what changed; `path` is for messages.

    Raises:
        SeqtrackError: a key or value that params.yaml cannot have; the message has the nearest key.
    """
    document = _round_trip().load(text)
    current = _dotted(document)
    unknown = [key for key in wanted if key not in current]
    if unknown:
        near = nearest(unknown[0], current)
        fix = f"did you mean {near}?" if near else "add it there"
        raise SeqtrackError(f"no key {unknown[0]}", where=str(path), fix=fix)
    changes = [
        Change(key=key, before=current[key], after=wanted[key])
        for key in current
        if key in wanted and wanted[key] != current[key]
    ]
    for change in changes:
        *sections, last = change.key.split(".")
        node = document
        for section in sections:
            node = node[section]
        node[last] = _flow(change.after)
        _align(node, last)
    stream = io.StringIO()
    _round_trip().dump(document, stream)
    parse_params(stream.getvalue(), path)
    return stream.getvalue(), changes


def flags(name: str, overrides: Mapping[str, Any], path: Path = PARAMS_FILE) -> list[str]:
    """Return the same as arguments of `dvc exp run`: `-S`, `key=value`, and so on; no blanks in any of them."""
    wanted = settings(name, _dotted(_round_trip().load(path.read_text(encoding="utf-8"))), overrides)
    return [part for key, value in wanted.items() for part in ("-S", f"{key}={flag(value)}")]


def parse_override(text: str) -> tuple[str, Any]:
    """Parse `key=value`, the value as YAML.

    Raises:
        SeqtrackError: it is something else.
    """
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise SeqtrackError("not key=value", found=text, fix="write, for example, fetch.path=/data/glue")
    try:
        return key, YAML(typ="safe").load(value)
    except YAMLError as error:
        raise SeqtrackError(f"the value of {key} is no YAML", found=value) from error


def _text(name: str) -> str:
    if name not in names():
        raise SeqtrackError(
            f"no preset {name!r}{did_you_mean(name.lower().replace('-', ''), names(), cutoff=0.4)}",
            where=str(PRESETS),
            expected="one of " + ", ".join(names()),
        )
    return (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")


def _dotted(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return all keys with their values; a mapping that is no section, but a key's value, stays whole."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        inner = isinstance(value, Mapping) and f"{prefix}{key}" in _SECTIONS
        found |= _dotted(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found


def _round_trip() -> YAML:
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 10_000  # no line is broken that was not
    yaml.indent(mapping=2, sequence=4, offset=2)
    # The file says null where ruamel would leave the value out.
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def _align(node: CommentedMap, key: str) -> None:
    """Put the comment behind a value where most comments of its section stand, or two blanks behind a longer value.

    Where no column has most of them it is the leftmost: a long value pushes its own comment to the right.
    """
    comments = [tokens[2] for tokens in node.ca.items.values() if len(tokens) > 2 and tokens[2] is not None]
    own = node.ca.items.get(key, [None] * 3)[2]
    if own is not None:
        columns = Counter(comment.start_mark.column for comment in comments)
        common = min(columns, key=lambda column: (-columns[column], column))
        value = node[key]
        written = ", ".join(f"{name}: {inner}" for name, inner in value.items()) if isinstance(value, dict) else value
        end = int(node.lc.key(key)[1]) + len(f"{key}: {written}") + (2 if isinstance(value, dict) else 0)
        own.start_mark.column = max(common, end + 2)


def _flow(value: Any) -> Any:
    """Return a list or mapping so that it is written in one line."""
    if isinstance(value, list):
        sequence = CommentedSeq(value)
        sequence.fa.set_flow_style()
        return sequence
    if isinstance(value, dict):
        mapping = CommentedMap(value)
        mapping.fa.set_flow_style()
        return mapping
    return value


def flag(value: Any) -> str:
    """Return a value as `dvc exp run -S key=<value>` takes it, without blanks."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value.lower() not in _WORDS else f"'{value}'"
    if isinstance(value, Sequence):
        return f"[{','.join(map(flag, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{flag(item)}" for key, item in value.items()) + "}"
    return repr(value)
