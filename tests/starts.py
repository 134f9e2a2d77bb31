"""Starting trainings as processes of their own, cheaply, and killing them at a chosen or a random moment.

A server process imports the libraries once and forks for every start, so a start costs a fraction of a second.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from ruamel.yaml import YAML
from safetensors.torch import save_file

from pipeline import checkpoints, training
from pipeline.errors import SeqtrackError, Stopped
from pipeline.freezing import freeze
from pipeline.lora import add_adapters
from pipeline.modeling import enable_gradient_checkpointing
from pipeline.sharding import is_divided
from tests.toy import REPOSITORY, Recorder, make_toy, recipe

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.starts"])


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of a training.

    Attributes:
        toy: the task's folder; made before.
        folder: for checkpoints, and results by rank.
        changes: to the recipe.
        world_size: processes.
        precision: mixed precision.
        fsdp2: whether the processes divide the weights among themselves.
        texts: of the task, where it has texts of its own.
        train, validation: rows of the task.
        dropout: whether the model has any.
        kill: (rank, event): that process kills itself at its event of that number.
        signal: (rank, number, step): that process gets a signal in that step.
    """

    toy: Path
    folder: Path
    changes: dict[str, Any] = field(default_factory=dict)
    world_size: int = 1
    precision: str = "no"
    fsdp2: bool = False
    texts: Sequence[str] = ()
    train: int = 21
    validation: int = 11
    dropout: bool = True
    kill: tuple[int, int] | None = None
    signal: tuple[int, int, int] | None = None

    def run(self, *, seconds_to_kill: float | None = None, killed_rank: int = 0) -> list[int | None]:
        """Run all processes until they have ended; return their exit statuses, -9 for a killed one."""
        for rank in range(self.world_size):
            (self.folder / f"rank-{rank}.met").unlink(missing_ok=True)
        port = free_port()
        processes = [CONTEXT.Process(target=_train, args=(self, rank, port)) for rank in range(self.world_size)]
        for process in processes:
            process.start()
        if seconds_to_kill is not None:
            processes[killed_rank].join(seconds_to_kill)
            if processes[killed_rank].is_alive():
                processes[killed_rank].kill()
        connection.wait([process.sentinel for process in processes])
        if any(process.exitcode for process in processes) and not self._all_met():
            for process in processes:  # a launcher does so; what waits for another to appear waits for long
                process.kill()
        for process in processes:
            process.join(60)
            assert process.exitcode is not None, "a process goes on without the others"
        return [process.exitcode for process in processes]

    def _all_met(self) -> bool:
        """Whether the processes had found each other."""
        return all((self.folder / f"rank-{rank}.met").exists() for rank in range(self.world_size))

    def result(self, rank: int = 0) -> dict[str, Any]:
        """Return what a finished process left."""
        found: dict[str, Any] = json.loads((self.folder / f"rank-{rank}.json").read_text())
        return found


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """Return what a launcher tells one of several processes on the CPU."""
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "CUDA_VISIBLE_DEVICES": "",
    }


class Events:
    """Counts what a process does, and kills it at one of these things: before it, or in the midst of a write."""

    def __init__(self, at: int | None) -> None:
        self.count = 0
        self._at = at
        self._lock = threading.Lock()

    def watch(self, owner: Any, name: str) -> None:
        """Count the calls of a function."""
        called: Callable[..., Any] = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.happen()
            return called(*args, **kwargs)

        setattr(owner, name, counted)

    def happen(self, before: Callable[[], object] = lambda: None) -> None:
        """Count one thing; where it is the last, do what comes before the kill."""
        with self._lock:
            self.count += 1
            if self.count == self._at:
                before()
                os.kill(os.getpid(), signal.SIGKILL)


def _train(start: Start, rank: int, port: int) -> None:
    """Be one process of a training; its last words go into rank-<rank>.err, and its result into rank-<rank>.json."""
    torch.set_num_threads(1)
    if start.world_size > 1:
        os.environ |= environment(rank, start.world_size, port)
    start.folder.mkdir(parents=True, exist_ok=True)
    output = os.open(start.folder / f"rank-{rank}.out", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    events = Events(start.kill[1] if start.kill is not None and start.kill[0] == rank else None)
    _watch(events)
    processes = Accelerator(cpu=True, mixed_precision=start.precision)
    if start.fsdp2:
        divide_weights(processes)
    toy = make_toy(start.toy, train=start.train, validation=start.validation, texts=start.texts)
    train, model = recipe(**start.changes), toy.model(dropout=start.dropout)
    freeze(model, train.freeze)
    if train.lora is not None:
        add_adapters(model, train.lora, seed=train.seed)
    if train.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    job = toy.job(start.folder / "checkpoints", train, model)
    batches: list[list[int]] = []
    divided: list[bool] = []
    _listen(start, rank, batches, divided)
    recorder = Recorder()
    try:
        state = training.fit(job, processes, [recorder])
    except SeqtrackError as error:
        print(f"error: {error}", flush=True)
        os._exit(1)
    except Stopped as stopped:
        print(stopped, flush=True)
        os._exit(stopped.status)
    (start.folder / f"rank-{rank}.json").write_text(
        json.dumps(
            {
                "model": _digest(job.model, start.folder / f"rank-{rank}.safetensors"),
                "history": asdict(state),
                "events": events.count,
                "started_at": recorder.started_at,
                "batches": batches,
                "divided": divided,
            }
        )
    )
    processes.end_training()


def divide_weights(processes: Accelerator) -> None:
    """Have accelerate divide weights on the CPU, as it does on GPUs alone; torch can do both."""
    settings = YAML(typ="safe").load(REPOSITORY / "configs" / "accelerate" / "fsdp2.yaml")["fsdp_config"]
    os.environ |= {name.upper(): str(value).lower() for name, value in settings.items()}  # as its launcher does
    plugin = FullyShardedDataParallelPlugin()
    if processes.mixed_precision != "no":
        plugin.set_mixed_precision(processes.mixed_precision)
    processes.state.distributed_type, processes.state.fsdp_plugin = DistributedType.FSDP, plugin


def _watch(events: Events) -> None:
    def half(tensors: dict[str, torch.Tensor], path: Path) -> None:
        def write_half() -> None:
            save_file(tensors, path)
            os.truncate(path, path.stat().st_size // 2)

        events.happen(write_half)
        save_file(tensors, path)

    checkpoints.save_file = half
    events.watch(training._Trainer, "_step")
    for name in ("_sync", "write_json", "write_manifest"):
        events.watch(checkpoints, name)
    events.watch(checkpoints.shutil, "rmtree")
    events.watch(checkpoints.Path, "rename")
    assert checkpoints.shutil is shutil


def _listen(start: Start, rank: int, batches: list[list[int]], divided: list[bool]) -> None:
    """Say when the processes have met, remember whether parameters are divided and what rows each step has; signal."""
    announce, step = training._Trainer.announce, training._Trainer._step

    def met(trainer: Any) -> None:
        (start.folder / f"rank-{rank}.met").touch()
        divided.extend(is_divided(parameter) for parameter in trainer.model.parameters())
        announce(trainer)

    def heard(trainer: Any) -> torch.Tensor:
        now = trainer.state.step
        batches.append(trainer.plan.global_batch(now).tolist())
        if start.signal is not None and (rank, now + 1) == (start.signal[0], start.signal[2]):
            os.kill(os.getpid(), start.signal[1])
        return step(trainer)

    training._Trainer.announce = met  # type: ignore[method-assign]
    training._Trainer._step = heard  # type: ignore[method-assign]


def _digest(model: torch.nn.Module, path: Path) -> str:
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()
