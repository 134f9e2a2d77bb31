"""`make doctor`: what this machine has, what params.yaml will use, what will go wrong.

Promises: findings come one by one as they are made, those that need torch last; nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pipeline import doctor_devices, doctor_machine, doctor_plan
from pipeline.errors import SeqtrackError
from pipeline.findings import Finding, error
from pipeline.params import load_params
from pipeline.paths import PARAMS_FILE, mlflow_store, root

MACHINE: Final = "this machine"
PLAN: Final = "what params.yaml uses"
DEVICES: Final = "what training runs on"


def examine() -> Iterator[tuple[str, Finding]]:
    """Yield findings with the part they belong to: `MACHINE`, `PLAN` or `DEVICES`, in this order."""
    for finding in machine():
        yield MACHINE, finding
    try:
        params = load_params()
    except SeqtrackError as problem:
        message = str(problem).rstrip(".")
        yield PLAN, error("params.yaml", str(PARAMS_FILE), message, "correct it; what it uses is looked at then")
        return
    limits, store = doctor_machine.cgroup_limits(), mlflow_store()
    started = doctor_plan.processes(params.launch)
    model, folder = doctor_plan.model(params.model)
    weights = None if folder is None else doctor_plan.parameters(folder)
    yield PLAN, doctor_plan.source(params.fetch, params.data)
    yield PLAN, model
    for finding in doctor_plan.extras(params):
        yield PLAN, finding
    yield PLAN, doctor_plan.launcher(params.launch)
    yield PLAN, doctor_plan.batch(params.train, started)
    if weights is not None:
        yield PLAN, doctor_plan.room(weights, params.train, store)
    yield PLAN, doctor_plan.to_classify(params.predict)
    yield PLAN, doctor_plan.upload(params.register_)
    if (absent := doctor_devices.installed()) is not None:
        yield DEVICES, absent
        return
    these, instructions = doctor_devices.devices(), doctor_machine.bfloat16_instructions()
    for finding in (*doctor_devices.found(these), *doctor_devices.used(these, started, instructions)):
        yield DEVICES, finding
    yield DEVICES, doctor_devices.threads(params.launch, started, limits)
    if weights is not None and (started.use_cpu or these.kind == "cpu"):
        yield DEVICES, doctor_plan.memory_needed(weights * started.here, params.train, limits)
    if (default := doctor_devices.accelerate_default(params.launch)) is not None:
        yield DEVICES, default


def machine() -> Iterator[Finding]:
    """Yield what this machine has, without torch."""
    home, limits, store = root(), doctor_machine.cgroup_limits(), mlflow_store()
    yield doctor_plan.repository()
    yield doctor_machine.python(home)
    yield from doctor_machine.packages(home)
    yield doctor_machine.cores(limits)
    yield doctor_machine.cpu_bfloat16(doctor_machine.bfloat16_instructions())
    yield doctor_machine.memory(limits)
    yield doctor_machine.disk("disk: project", home)
    yield from doctor_machine.dvc(home)
    if store.artifact_location is not None:
        yield doctor_machine.disk("disk: MLflow", home / "mlartifacts")
    yield doctor_machine.mlflow(store)
    yield doctor_machine.git(home)
    yield doctor_machine.hub()
