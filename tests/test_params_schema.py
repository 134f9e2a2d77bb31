"""The JSON Schema of params.yaml: kept current, named where editors look, and as strict as the pipeline itself."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Final

import pytest
from dvc.utils.hydra import apply_overrides
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from ruamel.yaml import YAML

from pipeline.code import HOME
from pipeline.params import Params, load_params
from pipeline.params_page import page
from pipeline.params_schema import PAGE_FILE, SCHEMA_FILE, params_schema, partial_schema, schema_text

PARAMS: Final = HOME / "params.yaml"
SCHEMA: Final = params_schema(load_params(PARAMS))
VALIDATOR: Final = Draft202012Validator(SCHEMA)
SHIPPED: Final = load_params(PARAMS).model_dump(mode="json", by_alias=True)
REMEDY: Final = "run: python -m pipeline.params_schema"


def plain(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path)


def leaves(node: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, inner in node.get("properties", {}).items():
        found += leaves(inner, (*prefix, name)) if "properties" in inner else [(*prefix, name)]
    return found


def node_at(path: tuple[str, ...]) -> dict[str, Any]:
    node = SCHEMA
    for name in path:
        node = node["properties"][name]
    return node


LEAVES: Final = leaves(SCHEMA)


def test_the_schema_is_one_and_current() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert (HOME / SCHEMA_FILE).read_text(encoding="utf-8") == schema_text(SCHEMA), REMEDY


def test_the_page_of_keys_is_current() -> None:
    text = (HOME / PAGE_FILE).read_text(encoding="utf-8")
    assert text == page(SCHEMA), REMEDY
    assert [f"`{'.'.join(path)}`" in text for path in LEAVES] == [True] * len(LEAVES)


def test_params_yaml_names_the_schema_in_its_first_line() -> None:
    first, _, _ = PARAMS.read_text(encoding="utf-8").partition("\n")
    assert first == f"# yaml-language-server: $schema={SCHEMA_FILE}"


def test_dvc_keeps_that_line(tmp_path: Path) -> None:
    """Presets keep all lines but those of their keys: test_presets.py."""
    copied = tmp_path / "params.yaml"
    copied.write_bytes(PARAMS.read_bytes())
    apply_overrides(copied, ["train.learning_rate=3e-5", "train.seed=7"])
    text = copied.read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: ")
    assert load_params(copied).train.seed == 7


def test_params_yaml_fits() -> None:
    assert list(VALIDATOR.iter_errors(plain(PARAMS))) == []


@pytest.mark.parametrize("preset", sorted((HOME / "presets").glob("*.yaml")), ids=lambda file: file.stem)
def test_presets_fit(preset: Path) -> None:
    assert list(Draft202012Validator(partial_schema(SCHEMA)).iter_errors(plain(preset))) == []


def test_a_preset_may_not_name_what_is_no_key() -> None:
    partial = Draft202012Validator(partial_schema(SCHEMA))
    assert partial.is_valid({"train": {"seed": 1}})
    assert not partial.is_valid({"train": {"sed": 1}})
    assert not partial.is_valid({"train": {"seed": "1"}})


def test_every_key_is_explained_and_has_the_default_of_params_yaml() -> None:
    for path in LEAVES:
        node = node_at(path)
        value = SHIPPED
        for name in path:
            value = value[name]
        assert node.get("description"), path
        assert "\n" not in node["description"]
        assert node["default"] == value, path
    text = json.dumps(SCHEMA)
    assert "$ref" not in text
    assert "$defs" not in text


def fits_pydantic(document: dict[str, Any]) -> tuple[bool, bool]:
    """Whether params can be this, and whether keys, types, choices and bounds alone forbid it."""
    try:
        Params.model_validate(document)
    except ValidationError as error:
        return False, any(finding["type"] != "value_error" for finding in error.errors())
    return True, False


def replaced(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    document = copy.deepcopy(SHIPPED)
    node = document
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    return document


def takes_integers_alone(path: tuple[str, ...]) -> bool:
    text = json.dumps(node_at(path))
    return '"integer"' in text and '"number"' not in text


VALUES: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 1, 2, 3, 16, 1000, 1024, 1025, 65536, 2**32, 0.5, 0.95, 1.0, 1.5, -0.1])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["no", "error", "off", "balanced", "1 epoch", "custom.losses:FocalLoss", "linear"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=400)
@given(path=st.sampled_from(LEAVES), value=VALUES)
def test_it_refuses_the_values_that_the_pipeline_refuses(path: tuple[str, ...], value: Any) -> None:
    # To JSON Schema 2.0 is an integer, and to the pipeline it is not.
    assume(not (isinstance(value, float) and value.is_integer() and takes_integers_alone(path)))
    document = replaced(path, value)
    valid, refused_by_form = fits_pydantic(document)
    fits = VALIDATOR.is_valid(document)
    if refused_by_form:
        assert not fits
    if not fits:
        assert not valid


@given(path=st.sampled_from(LEAVES), name=st.text(max_size=8))
def test_it_refuses_keys_that_are_missing_or_unknown_as_the_pipeline_does(path: tuple[str, ...], name: str) -> None:
    lacking, added = copy.deepcopy(SHIPPED), copy.deepcopy(SHIPPED)
    node, other = lacking, added
    for part in path[:-1]:
        node, other = node[part], other[part]
    del node[path[-1]]
    assert VALIDATOR.is_valid(lacking) == fits_pydantic(lacking)[0]
    assume(name not in other)
    other[name] = 1
    assert not VALIDATOR.is_valid(added)
    assert not fits_pydantic(added)[0]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("train", "checkpoint", "every"), "500"),
        (("train", "checkpoint", "every"), "10 hours"),
        (("train", "custom", "loss"), "FocalLoss"),
        (("train", "custom", "metrics"), ["custom.metrics"]),
        (("train", "class_weights"), {}),
        (("train", "class_weights"), {"spam": 0}),
        (("train", "lora"), {"r": 0}),
        (("train", "lora"), {"rank": 8}),
        (("model", "from_scratch"), {"hidden_size": 128}),
        (("data", "label_names"), []),
        (("split", "ratios", "train"), 0),
    ],
)
def test_what_it_refuses_by_form(path: tuple[str, ...], value: Any) -> None:
    document = replaced(path, value)
    assert not VALIDATOR.is_valid(document)
    assert not fits_pydantic(document)[0]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("train", "checkpoint", "every"), "10 minutes"),
        (("train", "class_weights"), {"spam": 5.0}),
        (("train", "lora"), {"r": 8}),
        (("model", "from_scratch"), {"model_type": "bert", "hidden_size": 128}),
        (("train", "custom", "metrics"), ["custom.metrics:cohen_kappa"]),
    ],
)
def test_what_it_takes(path: tuple[str, ...], value: Any) -> None:
    document = replaced(path, value)
    assert list(VALIDATOR.iter_errors(document)) == []
    assert fits_pydantic(document)[0]
