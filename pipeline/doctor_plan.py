"""What params.yaml will use, without torch: data, model, packages, batches, room on the disk.

Promises: looks and asks, but fetches nothing; what would stop a stage later is told now, with what to do.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.batches import accumulation_for
from pipeline.doctor_machine import Limits, free_bytes, unreachable
from pipeline.errors import SeqtrackError
from pipeline.findings import Finding, error, fact, gib, warning
from pipeline.glue import find_task
from pipeline.hub_upload import prepare
from pipeline.model_source import from_cache, is_local, resolve
from pipeline.params import Data, Fetch, Launch, Model, Params, Predict, Register, Train
from pipeline.paths import DATA, FETCHED, MlflowStore, hub_endpoint, hub_offline, root, state
from pipeline.sources_glue import task_folder
from pipeline.sources_sample import PACKAGE as SAMPLE_PACKAGE

BYTES_PER_WEIGHT: Final = 4
TRAINING_COPIES: Final = 4
"""Weights, their gradients and AdamW's two means, in float32; what a batch takes comes on top."""
UPLOAD_FIX: Final = "set HF_ENDPOINT to a hub you can reach, or register.push_to_hub to false"
CHECKPOINT_COPIES: Final = 3
"""Weights and AdamW's two means."""


@dataclass(frozen=True, kw_only=True)
class Extra:
    """A package that only some settings need.

    Attributes:
        key: of params.yaml, which needs it.
        wanted: whether these params do.
        module: what is imported.
        install: what pip installs.
    """

    key: str
    wanted: Callable[[Params], bool]
    module: str
    install: str


EXTRAS: Final = (
    Extra(
        key="fetch.source", wanted=lambda it: it.fetch.source == "sample", module=SAMPLE_PACKAGE, install=".[sample]"
    ),
    Extra(key="train.lora", wanted=lambda it: it.train.lora is not None, module="peft", install=".[lora]"),
    Extra(
        key="report.label_errors",
        wanted=lambda it: it.report.label_errors,
        module="cleanlab",
        install=".[label-errors]",
    ),
    Extra(key="export.format", wanted=lambda it: it.export.format == "onnx", module="onnx", install=".[onnx]"),
    Extra(key="export.format", wanted=lambda it: it.export.format == "onnx", module="onnxruntime", install=".[onnx]"),
    Extra(
        key="model.attn_implementation",
        wanted=lambda it: it.model.attn_implementation == "flash_attention_2",
        module="flash_attn",
        install="flash-attn",
    ),
    Extra(
        key="launch.config_file",
        wanted=lambda it: accelerate_config(it.launch).get("distributed_type") == "DEEPSPEED",
        module="deepspeed",
        install=".[deepspeed]",
    ),
)


def extras(params: Params, wanted: tuple[Extra, ...] = EXTRAS) -> list[Finding]:
    """Name the packages that these params need and that are not installed."""
    needed = [extra for extra in wanted if extra.wanted(params)]
    lacking = [extra for extra in needed if importlib.util.find_spec(extra.module) is None]
    if not lacking:
        names = ", ".join(extra.module for extra in needed)
        return [fact("extras", f"{names}: installed" if needed else "none needed")]
    return [
        error(
            "extras",
            f"{extra.module} is not installed",
            f"{extra.key} needs it",
            f'run `python -m pip install "{extra.install}"`, or change {extra.key}',
        )
        for extra in lacking
    ]


def hub_problem() -> str | None:
    """Return why nothing can come from the hub, or None where it can."""
    if hub_offline():
        return "HF_HUB_OFFLINE is set"
    return unreachable(hub_endpoint())


def source(fetch: Fetch, data: Data) -> Finding:
    """Say where the data come from, and whether they are there."""
    name, path = "data", Path(data.path)
    if fetch.source == "none" and path == FETCHED:
        problem = "fetch.source is none, so that data/fetched stays empty"
        return error(name, data.path, problem, "set data.path to your files, or fetch.source to sample, hub or glue")
    if path != FETCHED and not _below(path, FETCHED):
        if path.exists():
            return fact(name, f"{data.path} (your own files)")
        if Path(f"{data.path}.dvc").is_file():
            fix = "run `dvc pull`, or `dvc checkout` where the cache has them"
            return error(name, data.path, f"{data.path}.dvc says that DVC has these files, but they are not here", fix)
        return error(name, data.path, "there is no such file or folder", "set data.path in params.yaml")
    if fetch.source == "sample":
        return fact(name, f"the sample of {SAMPLE_PACKAGE}")
    what = f"{fetch.source} {fetch.name}"
    if fetch.source == "glue":
        try:
            folder = task_folder(Path(fetch.path), find_task(str(fetch.name)))
        except SeqtrackError as unknown:
            return error(name, what, str(unknown).rstrip("."), "set fetch.name in params.yaml")
        if folder is not None:
            return fact(name, f"{what} in {folder}")
    reason = hub_problem()
    if reason is None:
        return fact(name, f"{what} from {hub_endpoint()}")
    fix = "set HF_ENDPOINT to a hub you can reach" + (
        ", or put the task's files into fetch.path" if fetch.source == "glue" else ""
    )
    if (FETCHED / "manifest.json").is_file():
        problem = f"the hub is out of reach ({reason}); what was fetched before is used while fetch's params stay"
        return warning(name, what, problem, fix)
    return error(name, what, f"it comes from the hub, which is out of reach ({reason})", fix)


def _below(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents


def to_classify(predict: Predict) -> Finding:
    """Say what predict will read; what a stage writes need not be there yet."""
    path = Path(predict.path)
    if path.exists() or _below(path, DATA / "splits") or _below(path, FETCHED):
        return fact("predict", predict.path)
    return error("predict", predict.path, "there is no such file or folder", "set predict.path in params.yaml")


def upload(settings: Register) -> Finding:
    """Say whether `make register` uploads the model, and could."""
    name = "push to hub"
    if not settings.push_to_hub:
        return fact(name, "off")
    what = f"{settings.hub_model_id} on {hub_endpoint()}"
    if (reason := hub_problem()) is not None:
        return error(name, what, f"`make register` will end: the hub is out of reach ({reason})", UPLOAD_FIX)
    try:
        prepare(settings)
    except SeqtrackError as problem:
        return error(name, what, f"`make register` will end: {problem.problem}", problem.fix or UPLOAD_FIX)
    return fact(name, f"{what}, with a token that is there")


def model(settings: Model) -> tuple[Finding, Path | None]:
    """Say which model is trained and where its files are; return its folder, None where there is none yet."""
    name = settings.name_or_path
    if settings.from_scratch is not None:
        return fact("model", f"a {settings.from_scratch.model_type} from scratch, made by vocabulary"), None
    if is_local(name):
        try:
            folder = resolve(settings, weights=True).folder
        except SeqtrackError as problem:
            return error("model", name, problem.problem, problem.fix or "set model.name_or_path in params.yaml"), None
        return _described(name, folder, f"local: {folder}")
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # takes a while

    try:
        cached = from_cache(settings)
    except HFValidationError:
        fix = "set model.name_or_path to a hub id, a local folder or package:<module>/<folder>"
        return error("model", name, "neither a folder nor a hub id", fix), None
    except LocalEntryNotFoundError:
        if (reason := hub_problem()) is None:
            return fact("model", f"{name}: downloaded from {hub_endpoint()} when needed"), None
        fix = "set model.name_or_path to a local folder, or HF_ENDPOINT to a hub you can reach"
        return error("model", name, f"not in the cache, and the hub is out of reach ({reason})", fix), None
    return _described(name, cached, "in the hub's cache")


def _described(name: str, folder: Path, place: str) -> tuple[Finding, Path]:
    weights = parameters(folder)
    if weights is None:
        return fact("model", f"{name} ({place})"), folder
    return fact("model", f"{name}: {weights / 1e6:.1f} million parameters ({place})"), folder


def parameters(folder: Path) -> int | None:
    """Return the number of weights in a model's safetensors files, from their heads; None where there are none."""
    files = sorted(folder.glob("*.safetensors"))
    return sum(map(_weights, files)) if files else None


def _weights(file: Path) -> int:
    with file.open("rb") as stream:  # 8 bytes: the length of a JSON head that names each tensor and its shape
        head: dict[str, Any] = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in head.items() if name != "__metadata__")


def room(weights: int, train: Train, store: MlflowStore) -> Finding:
    """Compare what training will write with what is free: checkpoints, the model, and MLflow's copies."""
    size, checkpoint = weights * BYTES_PER_WEIGHT, train.checkpoint
    one = (CHECKPOINT_COPIES + averages(train)) * size
    here = (checkpoint.keep + 1) * one + 2 * size  # the best and one in flight at most; the model, and DVC's copy
    copies = {"none": 0, "best": 1, "last": 1, "all": checkpoint.keep + 1}[checkpoint.log_to_mlflow]
    logged = copies * one + size if store.artifact_location is not None else 0
    free = free_bytes(state())
    value = (
        f"about {gib(here + logged)} (a checkpoint {gib(one)}, {checkpoint.keep} and the best kept), {gib(free)} free"
    )
    if here + logged > free:
        fix = "make room, or lower train.checkpoint.keep and set train.checkpoint.log_to_mlflow: none"
        return error("training writes", value, "the disk will be full before training is over", fix)
    return fact("training writes", value)


def averages(train: Train) -> int:
    """Return how many averages of the weights are kept beside them."""
    return int(train.weight_averaging is not None)


def memory_needed(weights: int, train: Train, limits: Limits) -> Finding:
    """Compare what weights and optimiser take, on a CPU, with the memory that is free."""
    needed = weights * BYTES_PER_WEIGHT * (TRAINING_COPIES + averages(train))
    free = psutil.virtual_memory().available
    free = free if limits.memory is None else min(free, limits.memory)
    value = f"{gib(needed)} for weights, gradients and optimiser, and more for each batch; {gib(free)} free"
    if needed > free:
        fix = "take a smaller model, or train adapters: train.lora: {r: 8, lora_alpha: 16}"
        return error("training's memory", value, "more than there is", fix)
    return fact("training's memory", value)


def accelerate_config(launch: Launch) -> dict[str, Any]:
    """Return what launch.config_file states; empty where there is none, or none that can be read."""
    try:
        found = YAML(typ="safe").load(Path(launch.config_file)) if launch.config_file else {}
    except (OSError, UnicodeDecodeError, YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def launcher(launch: Launch) -> Finding:
    """Say which accelerate config is used, and whether it can be read."""
    if not launch.config_file:
        return fact("accelerate config", "none: the launch section says it all")
    if not accelerate_config(launch):
        fix = "use one in configs/accelerate, or make one with `accelerate config --config_file <path>`"
        return error("accelerate config", launch.config_file, "not there, or not a config file of accelerate", fix)
    kind = accelerate_config(launch).get("distributed_type")
    return fact("accelerate config", f"{launch.config_file} ({kind}), which goes before the launch section")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """How training is started.

    Attributes:
        total: processes over all machines.
        here: those of this machine.
        use_cpu: whether the CPU is asked for, where there is a GPU.
        precision: `no`, `bf16` or `fp16`.
    """

    total: int
    here: int
    use_cpu: bool
    precision: str


def processes(launch: Launch) -> Processes:
    """Return how training is started; a config file goes before the launch section."""
    stated = accelerate_config(launch)
    total = int(stated.get("num_processes") or launch.num_processes)
    return Processes(
        total=total,
        here=max(1, total // int(stated.get("num_machines") or launch.num_machines)),
        use_cpu=bool(stated.get("use_cpu", launch.cpu)),
        precision=str(stated.get("mixed_precision") or launch.mixed_precision),
    )


def batch(train: Train, started: Processes) -> Finding:
    """Say how many rows an optimiser step has, over all processes."""
    per_device, total = train.per_device_train_batch_size, train.total_train_batch_size
    try:
        steps = (
            train.gradient_accumulation_steps if total is None else accumulation_for(total, per_device, started.total)
        )
    except SeqtrackError as problem:
        value = f"train.total_train_batch_size {total}"
        return error("total batch", value, problem.problem, f"set it to {problem.expected}")
    rows = per_device * started.total * steps
    return fact("total batch", f"{rows} rows = {per_device} per device x {started.total} processes x {steps} steps")


def repository() -> Finding:
    """Say where the project is; without dvc.yaml there is no pipeline to run."""
    home = root()
    if (home / "dvc.yaml").is_file():
        return fact("project", str(home))
    return error("project", str(home), "no dvc.yaml here", "run from the folder that holds dvc.yaml and params.yaml")
