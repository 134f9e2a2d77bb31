"""The parts of a report that tell what a run was made of and what it took: resources, params, lineage.

Promises: without what was measured, equal runs give equal sections; what differs from run to run is in `Measured`
alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version

import torch

from pipeline.memory import DEVICE_MEMORY, MEMORY
from pipeline.outputs import Json
from pipeline.paths import SPLIT_NAMES
from pipeline.report_blocks import Block, Facts, Fold, Section, Table, Text
from pipeline.report_inputs import Inputs
from pipeline.report_words import count, duration, plain, size
from pipeline.results import EVALUATION_SPEED, SECONDS, TRAINING_SPEED

MOST_FILES = 50
STAGES = ("fetch", "validate", "split", "vocabulary", "tokenize", "train", "evaluate", "predict", "report")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What differs from run to run.

    Attributes:
        seconds: by stage, as far as known.
        speeds: rows per second, by stage.
        memory: most memory in bytes, by stage.
        device_memory: the same of the accelerator.
        run_id: of the MLflow run.
    """

    seconds: Mapping[str, float]
    speeds: Mapping[str, float]
    memory: Mapping[str, float]
    device_memory: Mapping[str, float]
    run_id: str

    @staticmethod
    def of(metrics: Mapping[str, float], run_id: str) -> Measured:
        """Take what was measured from a run's metrics, as MLflow has them."""
        speeds = {"train": metrics.get(TRAINING_SPEED), "evaluate": metrics.get(EVALUATION_SPEED)}
        return Measured(
            seconds=_by_stage(metrics, SECONDS),
            speeds={stage: speed for stage, speed in speeds.items() if speed is not None},
            memory=_by_stage(metrics, MEMORY),
            device_memory=_by_stage(metrics, DEVICE_MEMORY),
            run_id=run_id,
        )


def _by_stage(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}


@dataclass(frozen=True, kw_only=True)
class Weights:
    """How many numbers a model has, how many of them were trained, and what else was."""

    total: int
    trained: int
    adapters: str | None

    @staticmethod
    def of(model: torch.nn.Module, train: Json) -> Weights:
        """Count.

        Args:
            model: the trained one.
            train: the section of params.yaml that it was trained with.
        """
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        held = [name for name in sizes if any(fnmatchcase(name, pattern) for pattern in train.get("freeze", ()))]
        lora = train.get("lora")
        adapters = None if lora is None else f"adapters of rank {lora['r']} in place of the layers' weights, merged"
        return Weights(
            total=sum(sizes.values()),
            trained=sum(sizes.values()) - sum(sizes[name] for name in held),
            adapters=adapters,
        )


def resources_section(inputs: Inputs, weights: Weights, measured: Measured | None) -> Section:
    """Tell what training used, and what was measured."""
    last = inputs.history[-1] if inputs.history else {}
    identity: Json = inputs.model.get("identity") or {}
    layout: Json = identity.get("layout") or {}
    kept = inputs.leakage["rows"]["kept"]
    trained = f"{count(weights.trained)} of {count(weights.total)}"
    pairs = [
        ("rows", ", ".join(f"{count(kept[split])} {split}" for split in SPLIT_NAMES)),
        ("tokens", f"{count(inputs.tokenization['tokens'])}, of rows of every split"),
    ]
    if last:
        pairs.append(("training", f"{count(int(last['step']))} optimiser steps, {float(last['epoch']):g} epochs"))
    if identity:
        pairs.append(("batch", f"{count(identity['total_batch_size'])} rows a step"))
    pairs += [
        ("weights trained", weights.adapters or trained),
        ("model", f"{inputs.config['model_type']}, {count(weights.total)} weights, {size(inputs.model_bytes)} on disk"),
    ]
    if layout:
        pairs += [
            ("trained on", f"{layout['device']}, {layout['world_size']} process(es) of {layout['threads']} thread(s)"),
            ("precision", f"training {layout['mixed_precision']}, evaluation {inputs.evaluate['mixed_precision']}"),
        ]
    versions = {**(identity.get("libraries") or {}), "captum": version("captum")}
    pairs.append(("versions", ", ".join(f"{name} {found}" for name, found in versions.items())))
    blocks: list[Block] = [Facts(pairs=pairs)]
    if measured is None:
        blocks.append(
            Text(
                text="Seconds and memory differ from run to run, so they are not on this page but on its copy in "
                ".seqtrack/results and in the MLflow run."
            )
        )
    else:
        blocks += _measured(measured)
    return Section(
        anchor="resources", title="Resources", lead="What the run was made of, and what it took.", blocks=blocks
    )


def _measured(measured: Measured) -> list[Block]:
    known = measured.seconds.keys() | measured.memory.keys()
    stages = [stage for stage in STAGES if stage in known]
    rows = [
        plain(
            stage,
            *(
                "" if value is None else written
                for value, written in (
                    (measured.seconds.get(stage), duration(measured.seconds.get(stage, 0))),
                    (measured.speeds.get(stage), f"{measured.speeds.get(stage, 0):,.1f}"),
                    (measured.memory.get(stage), size(measured.memory.get(stage, 0))),
                    (measured.device_memory.get(stage), size(measured.device_memory.get(stage, 0))),
                )
            ),
        )
        for stage in stages
    ]
    table = Table(
        caption="Measured",
        columns=plain("stage", "wall time", "rows/s", "peak memory", "of the device"),
        rows=rows,
        note="Empty: not measured on this machine. Memory is of the main process; stages that were restored from DVC's "
        "cache have the figures of the run that made them.",
    )
    run = Facts(title="MLflow", pairs=[("run", measured.run_id)])
    return [table, run]


def lineage_section(inputs: Inputs) -> Section:
    """Tell what the model comes from, by digests that anyone can compute again."""
    identity: Json = inputs.model.get("identity") or {}
    model = inputs.model["params"]["model"]
    base = [("base model", "from scratch" if model.get("from_scratch") else model["name_or_path"])]
    if model.get("revision"):
        base.append(("revision", model["revision"]))
    digests = [("run_key", inputs.model["run_key"]), *inputs.digests.items()]
    digests += [(name, identity[key]) for name, key in (("base weights", "weights"), ("code", "code")) if identity]
    raw = list(inputs.raw.items())
    if len(raw) > MOST_FILES:
        raw = [*raw[:MOST_FILES], ("more", f"{len(raw) - MOST_FILES:,} files, in data/validated/manifest.json")]
    params = [("train", inputs.model["params"]["train"]), ("model", model), ("evaluate", inputs.evaluate)]
    blocks: list[Block] = [
        Facts(pairs=base),
        Facts(title="sha256 of what the stages wrote", pairs=digests, code=True),
        Facts(title="sha256 of your files", pairs=raw, code=True),
    ]
    blocks += [
        Fold(
            summary=f"{name}: params of this run",
            blocks=[Facts(pairs=[(key, _written(value)) for key, value in sorted(section.items())])],
        )
        for name, section in params
    ]
    lead = "From which data, code and weights the model comes: equal digests mean equal bytes."
    return Section(anchor="lineage", title="Lineage", lead=lead, blocks=blocks)


def _written(value: Json) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_written(inner)}" for key, inner in value.items()) or "{}"
    if isinstance(value, list):
        return ", ".join(map(_written, value)) or "[]"
    return {None: "null", True: "true", False: "false"}.get(value, str(value)) if not isinstance(value, str) else value
