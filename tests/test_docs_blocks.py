"""Every code block of the pages is of a known kind and holds together: syntax, targets, modules, keys of params.yaml.

What the blocks do when they run is seen in slow/test_docs_blocks_run.py.
"""

from __future__ import annotations

import ast
import copy
import itertools
import json
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from ruamel.yaml import YAML

from pipeline.code import HOME
from pipeline.params import Params, load_params
from tests.clone import Clone, make_small
from tests.doc_blocks import PROGRAMS, READ, RUN, SERVER, SHOWN, Block, blocks, give_environment, pages

ALL: Final = [block for page in pages() for block in blocks(page)]
SHIPPED: Final = load_params(HOME / "params.yaml").model_dump(mode="json", by_alias=True)
MAKEFILE: Final = (HOME / "Makefile").read_text(encoding="utf-8")
TARGETS: Final = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
# What needs no trained model and is done in seconds; all else waits for the slow test.
CHEAP: Final = re.compile(
    r"make (doctor|preset)\b|python -m (stages\.preset|pipeline\.params)|dvc (remote add|params diff|status)|git status"
)
# A page in another language has the commands of its original, so that running that one is enough.
TRANSLATIONS: Final = {
    Path("README.zh.md"): Path("README.md"),
    Path("docs/quickstart.zh.md"): Path("docs/quickstart.md"),
}


def of(*languages: str) -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in ALL if block.language in languages]


def test_there_are_pages_with_blocks_of_all_kinds() -> None:
    assert len(pages()) > 20
    assert {block.language for block in ALL} >= {*RUN, *READ, "console"}


@pytest.mark.parametrize("block", [pytest.param(block, id=str(block)) for block in ALL])
def test_a_block_says_what_it_is(block: Block) -> None:
    assert block.language in (*RUN, *READ, *SHOWN, ""), f"{block}: tag it with one of {RUN + READ + SHOWN}"
    if not block.language:
        first = block.text.split()[:1]
        assert not set(first) & set(PROGRAMS), (
            f"{block}: these are commands: tag them bash, or console if they cannot run"
        )


@pytest.mark.parametrize("block", of("bash"))
def test_commands_can_be_read_and_exist(block: Block) -> None:
    """What stands before a pipe or behind it counts, too."""
    checked = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, f"{block}: {checked.stderr}"
    for words in (shlex.split(command, comments=True) for command in block.commands):
        assert not re.search(r"<[a-z_ ]+>", " ".join(words)), f"{block}: a placeholder cannot run: tag it console"
        for before, word in itertools.pairwise(words):
            if before == "make" and re.fullmatch(r"[a-z-]+", word):
                assert word in TARGETS, f"{block}: no target {word}"
            if before == "-m" and re.match(r"(stages|pipeline|benchmarks)\.", word):
                assert (HOME / f"{word.replace('.', '/')}.py").is_file(), f"{block}: no module {word}"
            if before == "-S":
                key = word.partition("=")[0]
                assert key.startswith("+") or key in known_keys(), f"{block}: no key {key} in params.yaml"


@pytest.mark.parametrize("block", of("console"))
def test_commands_that_are_not_run_name_keys_that_exist(block: Block) -> None:
    for key in re.findall(r"-S '?([a-z_.]+)=", block.text):
        assert key in known_keys(), f"{block}: no key {key} in params.yaml"
    for target in re.findall(r"^make ([a-z-]+)", block.text, re.MULTILINE):
        assert target in TARGETS, f"{block}: no target {target}"


def known_keys() -> set[str]:
    def dotted(node: Mapping[str, Any], prefix: str = "") -> set[str]:
        inner = [dotted(value, f"{prefix}{key}.") for key, value in node.items() if isinstance(value, dict)]
        return {f"{prefix}{key}" for key in node}.union(*inner)

    return dotted(SHIPPED)


@pytest.mark.parametrize("block", of("python"))
def test_python_is_python(block: Block) -> None:
    ast.parse(block.text, str(block))


@pytest.mark.parametrize("block", of("json"))
def test_json_is_json(block: Block) -> None:
    for line in block.text.strip().splitlines():
        json.loads(line)


@pytest.mark.parametrize("block", of("yaml"))
def test_settings_are_such_that_params_yaml_takes_them(block: Block) -> None:
    """A block is put into params.yaml as it ships; classes are those that the page is about."""
    settings = YAML(typ="safe", pure=True).load(block.text)
    whole = merged(SHIPPED, settings)
    if "total_train_batch_size" in settings.get("train", {}):
        whole["train"]["gradient_accumulation_steps"] = 1
    Params.model_validate(whole)


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(dict(base))
    for key, value in change.items():
        inner = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if inner else value
    return result


@pytest.mark.parametrize("page", TRANSLATIONS)
def test_a_translation_has_the_commands_of_its_original(page: Path) -> None:
    def commands(of_page: Path) -> list[list[str]]:
        found = [block for block in blocks(of_page) if block.language in RUN]
        return [shlex.split(line, comments=True) for block in found for line in block.commands]

    assert commands(page) == commands(TRANSLATIONS[page])


def test_a_server_stands_last_in_its_block() -> None:
    """It does not end: what stands behind it would never run."""
    for block in ALL:
        if block.language == "bash":
            assert not any(SERVER.match(command) for command in block.commands[:-1]), block


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which nothing has run."""
    clone = Clone.make(tmp_path_factory.mktemp("clone"))
    make_small(clone, tmp_path_factory.mktemp("encoder") / "tiny")
    give_environment(clone.folder)
    return clone


CHEAP_COMMANDS: Final = sorted(
    {
        " ".join(shlex.quote(word) if " " in word else word for word in shlex.split(command, comments=True))
        for block in ALL
        if block.language == "bash" and block.page.name != "CONTRIBUTING.md"
        for command in block.commands
        if CHEAP.match(command)
    }
)


@pytest.mark.parametrize("command", CHEAP_COMMANDS)
def test_a_command_that_costs_little_runs(clone: Clone, command: str) -> None:
    clone.run("bash", "-euo", "pipefail", "-c", command.replace("/tmp/", f"{clone.folder.parent}/"))
    clone.run("git", "checkout", "--quiet", ".")
