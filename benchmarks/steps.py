"""What single means save of a training step: with all of them, and with each left out in turn.

The same steps of a training with params.yaml's defaults, on MRPC where SEQTRACK_DATA has it, else on the bundled
sample: their median seconds, and the largest memory. Each side runs in a process of its own, in turn. A second pair of
sides has the encoder with as many word vectors as a multilingual one has, made up by repeating its own.

    python -m benchmarks.steps
    python -m benchmarks.steps --steps 20 --rounds 1 --only all,whole-table
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.timing import RESULTS, Spread, alternate, print_table, run_program, tell, write_report
from benchmarks.workspace import name_of_rows, real_rows

PACKAGES = ("torch", "transformers", "accelerate")
WARM = 20  # steps before the clock starts: kernels are made for each new width
MULTILINGUAL = 250_002  # tokens of XLM-R
# Each with what it is compared with.
SIDES = {
    "all": ("as shipped", "all"),
    "whole-table": ("with the whole table of word vectors", "all"),
    "whole-layer": ("with the last layer for all tokens", "all"),
    "small-pages": ("without large pages", "all"),
    "wide": (f"as shipped, {MULTILINGUAL:,} word vectors", "wide"),
    "wide-whole-table": (f"with the whole table of {MULTILINGUAL:,}", "wide"),
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What the steps of one side took.

    Attributes:
        seconds: of a step, the median.
        peak_mib: main memory.
    """

    side: str
    seconds: float
    peak_mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help=f"to measure, after {WARM} others")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side")
    parser.add_argument("--rows", type=int, help="rows of each split to keep")
    parser.add_argument("--only", default=",".join(SIDES), help=f"sides among {', '.join(SIDES)}")
    parser.add_argument("--json", type=Path, default=RESULTS / "steps.json")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side is not None:
        print(json.dumps(asdict(measure(options.side, options.steps))))
        return
    with tempfile.TemporaryDirectory() as folder:
        workspace = real_rows(Path(folder) / "work", options.rows)
        sides: dict[str, Callable[[int], Result]] = {
            side: partial(run, side, options.steps, workspace.folder) for side in options.only.split(",")
        }
        results = alternate(sides, options.rounds)
        rows = name_of_rows(workspace)
    report = {side: [asdict(result) for result in found] for side, found in results.items()}
    command = " ".join(["python -m benchmarks.steps", *sys.argv[1:]])
    write_report(options.json, {**describe(PACKAGES), "command": command, "rows": rows, "results": report})
    print(f"{rows}: {options.steps} steps; medians of {options.rounds} (lowest to highest)\n")
    show(results)


def run(side: str, steps: int, folder: Path, _: int) -> Result:
    """Measure a side in a process of its own, in every round alike."""
    pages = {"THP_MEM_ALLOC_ENABLE": "0"} if side == "small-pages" else {}
    command = [sys.executable, "-m", "benchmarks.steps", "--side", side, "--steps", str(steps)]
    result = Result(**json.loads(run_program(command, folder, pages).output.splitlines()[-1]))
    tell(f"{side}: {result.seconds:.3f} s a step, {result.peak_mib:,.0f} MiB")
    return result


def measure(side: str, steps: int) -> Result:
    """Do the steps of a side in this process, whose working folder has rows and tokens."""
    from pipeline.allocator import keep_freed_memory

    keep_freed_memory()
    import torch

    from benchmarks.jobs import make_job
    from pipeline import training
    from pipeline.control import Processes
    from pipeline.launching import fair_threads

    torch.set_num_threads(fair_threads(1))
    job, accelerator = make_job(Path("unused"), "bf16")
    if side.endswith("whole-table"):
        training.cut_word_table = lambda *_: None  # type: ignore[assignment]
    if side == "whole-layer":
        training.compute_first_token_alone = lambda _: False
    if side.startswith("wide"):
        _widen(job.model)
    seconds = training.time_steps(job, accelerator, Processes(accelerator), range(1, WARM + steps + 1))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Result(side=side, seconds=statistics.median(seconds[WARM:]), peak_mib=peak)


def _widen(model: object) -> None:
    """Give a model more word vectors, its own again and again."""
    import torch
    from transformers import PreTrainedModel

    assert isinstance(model, PreTrainedModel)
    table = model.get_input_embeddings()
    assert isinstance(table, torch.nn.Embedding)
    times = -(-MULTILINGUAL // table.num_embeddings)
    table.weight = torch.nn.Parameter(table.weight.detach().repeat(times, 1)[:MULTILINGUAL])
    table.num_embeddings = MULTILINGUAL


def show(results: dict[str, list[Result]]) -> None:
    medians = {side: statistics.median(one.seconds for one in found) for side, found in results.items()}
    table = []
    for side, found in results.items():
        name, base = SIDES[side]
        cells = [
            name,
            Spread.of([one.seconds for one in found]).text(".3f"),
            f"{medians[side] / medians[base]:.2f}" if base in medians else "-",
            Spread.of([one.peak_mib for one in found]).text(",.0f"),
        ]
        table.append(cells)
    print_table(["Step", "Seconds", "Times that as shipped", "Peak MiB"], table)


if __name__ == "__main__":
    main()
