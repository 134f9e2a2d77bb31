"""dvc.yaml lists, for each stage, exactly the source files it runs on and the params it reads."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.code import HOME, closure
from pipeline.params import Params

GRAPH = YAML(typ="safe").load(HOME / "dvc.yaml")
STAGES = sorted(GRAPH["stages"])
SECTIONS = {name: field.alias or name for name, field in Params.model_fields.items()}


def listed(stage: str, part: str) -> list[str]:
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in GRAPH["stages"][stage].get(part, [])]


def params_read(script: Path) -> set[str]:
    """Return the params.yaml keys that a stage's script reads: whole sections, or single keys of one."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    chains = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            parts: list[str] = []
            while isinstance(node, ast.Attribute):
                parts.append(node.attr)
                node = node.value  # type: ignore[assignment]
            if isinstance(node, ast.Name) and node.id == "params":
                # `flat` only hands values on for logging; a key of a section counts as the section.
                section = parts[-1]
                if section != "flat":
                    chains.add(SECTIONS[section])
    return chains


@pytest.mark.parametrize("stage", STAGES)
def test_every_source_file_a_stage_runs_on_is_a_dependency(stage: str) -> None:
    code = [file.relative_to(HOME).as_posix() for file in closure(f"stages.{stage}")]
    deps = [dep for dep in listed(stage, "deps") if dep.endswith(".py")]
    assert deps == code, "dvc.yaml should list:\n" + "\n".join(f"      - {file}" for file in code)


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_exactly_those_the_stage_reads(stage: str) -> None:
    assert set(listed(stage, "params")) == params_read(HOME / "stages" / f"{stage}.py")


@pytest.mark.parametrize("stage", STAGES)
def test_stage_is_started_as_a_module(stage: str) -> None:
    command = GRAPH["stages"][stage]["cmd"]
    last = command if isinstance(command, str) else command[-1]
    assert last.endswith(f"-m stages.{stage}")


def test_no_library_module_that_stages_run_on_takes_the_whole_of_params() -> None:
    """Only so can a stage's params be read off its script."""
    for file in {file for stage in STAGES for file in closure(f"stages.{stage}") if file.parent.name == "pipeline"}:
        if file.name == "params.py":
            continue
        names = {
            alias.name
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and node.module == "pipeline.params"
            for alias in node.names
        }
        assert not names & {"Params", "load_params"}, file


def test_the_library_never_imports_the_stages() -> None:
    for file in (HOME / "pipeline").glob("*.py"):
        module = f"pipeline.{file.stem}" if file.stem != "__init__" else "pipeline"
        assert not [used for used in closure(module) if used.parent.name == "stages"], file


def test_only_two_modules_read_the_environment() -> None:
    readers = {
        file.name
        for file in (HOME / "pipeline").glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr in {"environ", "getenv"}
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    }
    assert readers <= {"params.py", "paths.py"}


@pytest.mark.parametrize("stage", ["fetch", "validate", "split"])
def test_data_stages_never_import_heavy_packages(stage: str) -> None:
    """At module level, that is: fetch imports the hub's client only when it talks to the hub."""
    heavy = {"torch", "transformers", "mlflow", "datasets", "accelerate", "sklearn", "matplotlib", "evaluate"}
    for file in closure(f"stages.{stage}"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            assert not {name.partition(".")[0] for name in names} & heavy, file


def test_stage_scripts_are_thin() -> None:
    for stage in STAGES:
        lines = (HOME / "stages" / f"{stage}.py").read_text(encoding="utf-8").splitlines()
        assert len(lines) < 60, stage
