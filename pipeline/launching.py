"""Start the processes of a training: `accelerate launch` with one clear line where a process fails.

Promises: every flag of `accelerate launch` works and means the same, but for three things. Where both a config file and
flags state something the file wins, and that is said, since dvc.yaml passes on every key of params.yaml's launch
section; 0 threads per process are this machine's cores, divided among its processes; and the backend `auto` is left to
the training. When one process fails or is
killed, all end within 30 seconds, and one of them is named with its reason.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import torch
import torch.distributed.run  # with the loggers of all it uses
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command, launch_command_parser
from accelerate.utils import DistributedType
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from pipeline.console import say
from pipeline.errors import SeqtrackError
from pipeline.paths import become_launcher
from pipeline.ranks import Failure, read_failures

AGAIN = "run the same command again: training goes on from the newest checkpoint"


def launch(arguments: Sequence[str]) -> int:
    """Run a program in one or several processes until all have ended; return the exit status.

    Args:
        arguments: those of `accelerate launch`.

    Raises:
        SeqtrackError: the flags or the config file make no sense on this machine.
    """
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(signum, _pass_on)  # torch's agent replaces them by its own, which do the same
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.distributed.run")):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # it reports what is said below
    args = launch_command_parser().parse_args(_undecided(arguments))
    args.quiet = False  # we want to know the status of a process that failed
    use_cpu = False
    if args.config_file:
        use_cpu = _prefer_file(args, Path(args.config_file))
    else:
        args.config_file = None
    if args.num_cpu_threads_per_process == 0:
        args.num_cpu_threads_per_process = fair_threads(_processes_here(args))
    with tempfile.TemporaryDirectory(prefix="seqtrack-") as name:
        folder = Path(name)
        become_launcher(folder, use_cpu=use_cpu)
        try:
            launch_command(args)
        except ChildFailedError as error:
            status = {rank: failure.exitcode for rank, failure in error.failures.items()}
            return _explain(status, read_failures(folder))
        except subprocess.CalledProcessError as error:
            return _explain({0: error.returncode}, read_failures(folder))
        except SignalException as error:
            return 128 + int(error.sigval)
        except torch.distributed.DistError as error:
            raise SeqtrackError(
                f"the machines did not find each other: {error}",
                where="params.yaml: launch",
                fix="check main_process_ip, main_process_port, machine_rank and num_machines on each",
            ) from error
        except (ValueError, ImportError, ConnectionError) as error:  # accelerate's words on flags that do not fit
            raise SeqtrackError(str(error), where="params.yaml: launch") from error
    return 0


def _undecided(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the dynamo backend that starts a training which is to choose one itself."""
    known = ["", *arguments]
    return [
        "no" if value == "auto" and flag == "--dynamo_backend" else value
        for flag, value in zip(known, arguments, strict=False)
    ]


def fair_threads(processes: int) -> int:
    """Return the threads of each of some processes that share this machine: its cores, divided, and at least one.

    Cores, not the two or more threads that a core can run: matrix products gain nothing from those. Of the cores, those
    that this process may use.
    """
    cores = psutil.cpu_count(logical=False) or 1
    return max(1, min(cores, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores) // processes)


def _processes_here(args: argparse.Namespace) -> int:
    """Return how many processes accelerate will start on this machine."""
    stated = load_config_from_file(args.config_file) if args.config_file else None
    total = args.num_processes or (stated.num_processes if stated is not None else None) or 1
    machines = args.num_machines or (stated.num_machines if isinstance(stated, ClusterConfig) else None) or 1
    return max(1, int(total) // int(machines))


def _prefer_file(args: argparse.Namespace, path: Path) -> bool:
    """Take back the flags that a config file decides, and see whether this machine has what it asks for.

    Returns:
        Whether it wants the CPU.
    """
    try:
        stated: dict[str, Any] = YAML(typ="safe").load(path)  # of which JSON is a part
        config = load_config_from_file(str(path))
    except (OSError, ValueError, TypeError, AttributeError, YAMLError) as error:
        raise SeqtrackError(
            f"not a config file of accelerate ({error})",
            where=f"params.yaml: launch.config_file: {path}",
            fix="make one with `accelerate config --config_file <path>`, or use one in configs/accelerate",
        ) from error
    if not isinstance(config, ClusterConfig):
        raise SeqtrackError("runs elsewhere than on this machine", where=str(path), expected="LOCAL_MACHINE")
    overruled = []
    for name in sorted(args.nondefault & stated.keys()):
        flag, value = getattr(args, name), stated[name]
        if flag != value:
            overruled.append(f"{name} {value} (not {flag})")
        setattr(args, name, None)
    if args.cpu and not config.use_cpu:
        overruled.append("use_cpu False (not True)")
    args.multi_gpu = args.cpu = args.tpu = False  # the kind of machine is the one thing that every file states
    if overruled:
        say(f"launch: {path} decides {', '.join(overruled)}")
    _check_machine(config, path)
    kind = str(config.distributed_type.value)
    processes = stated.get("num_processes", args.num_processes)
    if kind.startswith("MULTI_") and processes == 1:
        raise SeqtrackError("starts several processes", where=str(path), found="launch.num_processes: 1")
    if kind == "NO" and (processes or 1) > 1:  # accelerate would start one, without a word
        raise SeqtrackError("starts a single process", where=str(path), found=f"launch.num_processes: {processes}")
    return bool(config.use_cpu)


def _check_machine(config: ClusterConfig, path: Path) -> None:
    needs = {DistributedType.XLA: "torch_xla", DistributedType.DEEPSPEED: "deepspeed"}
    if (
        config.distributed_type is not DistributedType.XLA
        and not config.use_cpu
        and not torch.accelerator.is_available()
    ):
        raise SeqtrackError(
            "needs a GPU, and torch finds none on this machine",
            where=str(path),
            fix="install the torch build for your GPU, or set launch.config_file to configs/accelerate/cpu.yaml",
        )
    if config.use_cpu and config.distributed_type is DistributedType.FSDP:  # accelerate would not, without a word
        raise SeqtrackError("accelerate divides weights among GPUs alone", where=str(path), found="use_cpu: true")
    package = needs.get(config.distributed_type)
    if package is not None and importlib.util.find_spec(package) is None:
        raise SeqtrackError(f"needs the package {package}, which is not installed", where=str(path))


def _pass_on(number: int, _frame: FrameType | None) -> None:
    """Hand a signal to the training process; end where there is none yet."""
    children = psutil.Process().children()
    if not children:
        sys.exit(128 + number)
    for child in children:
        child.send_signal(number)


def _explain(statuses: dict[int, int], left: list[Failure]) -> int:
    """Say why processes failed, by the one failure that explains the others; return the exit status.

    Args:
        statuses: by rank, of the processes that failed; negative where a signal killed one.
        left: the reasons that processes left.
    """
    # When one fails torch's agent ends the others by SIGTERM; and they complain of the absence of one that was killed.
    causes = {rank: status for rank, status in statuses.items() if abs(status) % 128 != signal.SIGTERM} or statuses
    rank, status = min(causes.items(), key=lambda item: item[1])
    if status < 0:
        name = signal.Signals(-status).name
        why = " (by the system, if memory was short)" if name == "SIGKILL" else ""
        _complain(f"error: training process {rank} was killed by {name}{why}; all have been stopped; {AGAIN}.")
        return 128 - status
    if left:
        _complain(left[0].text)
    elif 0 not in causes:  # rank 0 is heard, the others are not
        _complain(f"error: training process {rank} ended with exit status {status} and without a word; {AGAIN}.")
    return status


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
