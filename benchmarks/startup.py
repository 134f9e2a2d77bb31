"""How long stages take to start, and what `dvc repro` takes where there is nothing to do.

Every start is a process of its own, in turn. "To params" ends when the stage's module is loaded and params.yaml is read
and checked: a mistake there is told by then. "To first work" ends when everything that the stage computes with is
loaded, too. No-op commands run in a small copy of the repository in which the pipeline has run.

    python -m benchmarks.startup
    python -m benchmarks.startup --rounds 2 --skip-repro
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.timing import RESULTS, ROOT, Process, Spread, alternate, print_table, run_program, tell, write_report

PACKAGES = ("torch", "transformers", "evaluate", "mlflow", "dvc", "pyarrow", "pydantic")
FIRST_WORK = {  # what each stage loads before it computes
    "fetch": "",
    "validate": "",
    "split": "",
    "tokenize": "from transformers import AutoTokenizer",
    "train": "import pipeline.fine_tuning",
    "evaluate": "import pipeline.evaluation, pipeline.evaluation_report, pipeline.inference",
    "predict": "import pipeline.inference, pipeline.prediction",
}
NO_OP = {
    "dvc status": ("dvc", "status"),
    "dvc repro": ("dvc", "repro"),
    "python -m pipeline.params": ("python", "-m", "pipeline.params"),
    "python -m pipeline.next_steps": ("python", "-m", "pipeline.next_steps"),
}
AIM = 1.5  # times dvc status, for everything that `make repro` starts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="starts of each program")
    parser.add_argument("--skip-repro", action="store_true", help="stages alone")
    parser.add_argument("--json", type=Path, default=RESULTS / "startup.json")
    options = parser.parse_args()
    starts = alternate(programs(), options.rounds + 1)
    no_op: dict[str, list[Process]] = {}
    if not options.skip_repro:
        with tempfile.TemporaryDirectory() as folder:
            no_op = measure_no_op(Path(folder), options.rounds + 1)
    report = {
        **describe(PACKAGES),
        "command": " ".join(["python -m benchmarks.startup", *sys.argv[1:]]),
        "starts": {name: [asdict(process) for process in found[1:]] for name, found in starts.items()},
        "no_op": {name: [asdict(process) for process in found[1:]] for name, found in no_op.items()},
    }
    write_report(options.json, report)
    show({name: found[1:] for name, found in starts.items()}, {name: found[1:] for name, found in no_op.items()})


def programs() -> dict[str, Callable[[int], Process]]:
    """Return what to start, by name; the first round of each is for warming the disk's cache."""
    load = "from pipeline.params import load_params; load_params()"
    code = {"python": "pass"}
    for stage, rest in FIRST_WORK.items():
        code[f"{stage}, to params"] = f"import stages.{stage}; {load}"
        if rest:
            code[f"{stage}, to first work"] = f"import stages.{stage}; {load}; {rest}"
    code["launch, to params"] = "import stages.launch"

    def start(name: str, _: int) -> Process:
        process = run_program([sys.executable, "-c", code[name]], ROOT)
        tell(f"{name}: {process.seconds:.2f} s")
        return process

    return {name: partial(start, name) for name in code}


def measure_no_op(folder: Path, rounds: int) -> dict[str, list[Process]]:
    """Run the pipeline in a copy of the repository, then the commands that find nothing to do, in turn."""
    from tests.clone import Clone, clean_environment, make_small  # late: they load what stages do

    clone = Clone.make(folder / "clone")
    make_small(clone, folder / "encoder")
    tell("running the pipeline once")
    clone.run("dvc", "repro")

    def run(name: str, _: int) -> Process:
        process = run_program(NO_OP[name], clone.folder, {**clean_environment(), "PYTHONPATH": str(clone.folder)})
        tell(f"{name}: {process.seconds:.2f} s")
        return process

    return alternate({name: partial(run, name) for name in NO_OP}, rounds)


def show(starts: Mapping[str, Sequence[Process]], no_op: Mapping[str, Sequence[Process]]) -> None:
    def rows(found: Mapping[str, Sequence[Process]]) -> list[list[str]]:
        return [[name, seconds(runs).text(".2f"), processor_seconds(runs).text(".2f")] for name, runs in found.items()]

    header = ["Seconds", "Processor seconds"]
    print_table(["Start", *header], rows(starts))
    if no_op:
        print()
        print_table(["Nothing to do", *header], rows(no_op))
        status, repro, *rest = (seconds(runs).median for runs in no_op.values())
        print(f"\n- `dvc repro` takes {repro / status:.2f} times as long as `dvc status`")
        print(f"- `make repro` takes {(repro + sum(rest)) / status:.2f} times as long (aim: under {AIM})")


def seconds(runs: Sequence[Process]) -> Spread:
    return Spread.of([run.seconds for run in runs])


def processor_seconds(runs: Sequence[Process]) -> Spread:
    return Spread.of([run.cpu_seconds for run in runs])


if __name__ == "__main__":
    main()
