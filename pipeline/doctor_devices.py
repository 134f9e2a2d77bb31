"""What torch will train on: the device, its memory, its precision, the processes and their threads.

Promises: torch and accelerate, which take seconds, are imported when a function here is called, and not before.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.doctor_machine import SET_UP, Limits
from pipeline.doctor_plan import Processes
from pipeline.findings import Finding, error, fact, gib, warning
from pipeline.params import Launch


@dataclass(frozen=True, kw_only=True)
class Devices:
    """What torch finds.

    Attributes:
        kind: `cuda`, `mps`, ...; `cpu` where there is no accelerator.
        names: one per device, with its memory where torch tells it; empty for `cpu`.
        bfloat16: whether they multiply in bfloat16.
    """

    kind: str
    names: tuple[str, ...]
    bfloat16: bool


def installed() -> Finding | None:
    """Return what is wrong where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return error("torch", "not installed", "train needs it", SET_UP)
    return None


def devices() -> Devices:
    """Ask torch which accelerators there are."""
    import torch

    if not torch.accelerator.is_available():
        return Devices(kind="cpu", names=(), bfloat16=True)
    kind = torch.accelerator.current_accelerator(check_available=True)
    name = "cpu" if kind is None else kind.type
    count = torch.accelerator.device_count()
    if name != "cuda":
        return Devices(kind=name, names=tuple(f"{name}:{index}" for index in range(count)), bfloat16=True)
    names = []
    for index in range(count):
        free, total = torch.cuda.mem_get_info(index)
        names.append(f"{torch.cuda.get_device_name(index)}, {gib(free)} free of {gib(total)}")
    return Devices(kind=name, names=tuple(names), bfloat16=torch.cuda.is_bf16_supported(including_emulation=False))


def found(these: Devices) -> list[Finding]:
    """Say which devices there are."""
    if not these.names:
        return [fact("device", "the CPU: torch finds no accelerator")]
    return [fact(f"device {index}", name) for index, name in enumerate(these.names)]


def used(these: Devices, started: Processes, instructions: tuple[str, ...] | None) -> list[Finding]:
    """Say what training runs on, and whether that can be.

    Args:
        these: what there is.
        started: what is asked for.
        instructions: the processor's own for bfloat16, None where unknown.
    """
    cpu = started.use_cpu or these.kind == "cpu"
    where = "the CPU" if cpu else these.kind
    value = f"{started.here} on {where}" + (f", {started.total} in all" if started.total != started.here else "")
    findings = []
    if not cpu and started.here > len(these.names):
        problem = f"more than the {len(these.names)} devices of this machine"
        findings.append(error("processes", value, problem, "lower launch.num_processes"))
    elif not cpu and started.total == 1 and len(these.names) > 1:
        problem = f"{len(these.names) - 1} of {len(these.names)} devices stay idle"
        fix = f"set launch.num_processes: {len(these.names)} and launch.multi_gpu: true"
        findings.append(warning("processes", value, problem, fix))
    else:
        findings.append(fact("processes", value))
    if started.precision == "fp16" and cpu:
        fix = "set launch.mixed_precision to bf16 or no"
        findings.append(error("precision", "fp16", "float16 needs a GPU", fix))
    elif started.precision == "bf16" and not cpu and not these.bfloat16:
        fix = "set launch.mixed_precision to fp16 or no"
        findings.append(error("precision", "bf16", "this GPU does not multiply in bfloat16", fix))
    elif started.precision == "bf16" and cpu and instructions == ():
        problem = "this processor has no instructions for bfloat16, so that float32 is faster"
        findings.append(warning("precision", "bf16", problem, 'set launch.mixed_precision: "no"'))
    else:
        findings.append(fact("precision", {"no": "float32"}.get(started.precision, started.precision)))
    return findings


def threads(launch: Launch, started: Processes, limits: Limits) -> Finding:
    """Say how many threads each training process has, and whether there are processors for all of them."""
    from pipeline.launching import fair_threads

    each = launch.num_cpu_threads_per_process or fair_threads(started.here)
    usable: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1
    usable = usable if limits.cpus is None else min(usable, limits.cpus)
    value = f"{each} for each of {started.here} processes" if started.here > 1 else str(each)
    if each * started.here > usable:
        fair = max(1, int(usable) // started.here)
        problem = (
            f"{each * started.here} threads share {usable:g} processors, and training slows down several times over"
        )
        return warning("threads", value, problem, f"set launch.num_cpu_threads_per_process: {fair}")
    return fact("threads", value)


def accelerate_default(launch: Launch) -> Finding | None:
    """Warn of the config file that `accelerate config` leaves in the home folder, which accelerate reads by itself."""
    from accelerate.commands.config.config_args import default_json_config_file, default_yaml_config_file

    there = [path for path in (default_yaml_config_file, default_json_config_file) if Path(path).is_file()]
    if launch.config_file or not there:
        return None
    problem = "accelerate takes from it what the launch section does not say"
    return warning("accelerate default", there[0], problem, "move it away, or name it in launch.config_file")
