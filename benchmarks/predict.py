"""Prediction beside transformers' pipeline: rows per second, the whole program, and whether they say the same.

All apply one model, made by a short training of the bundled encoder, to the same rows: validation and test of MRPC
where SEQTRACK_DATA has it, else of the bundled sample. Each runs in a process of its own, in turn. Ours is the library
with every default of params.yaml, in float32 and in bf16, and the predict stage as `dvc repro` starts it. The pipeline
gets a row at a time, or all with batch_size=32; its `-bf16` sides have weights in bfloat16.

    python -m benchmarks.predict
    python -m benchmarks.predict --rounds 1 --rows 64 --only seqtrack,pipeline-32
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from benchmarks.machine import describe
from benchmarks.predict_sides import ROWS_FILE, SAID_FILE, WARM_FILE, Said, read_said
from benchmarks.timing import RESULTS, Spread, alternate, print_table, run_program, tell, write_report
from benchmarks.workspace import Workspace, name_of_rows, real_rows
from pipeline.paths import PREDICTIONS, ROWS, SPLITS
from pipeline.rows import read_row_ids, select_rows

PACKAGES = ("torch", "transformers", "tokenizers")
SIDES = {
    "seqtrack": "this project, float32",
    "seqtrack-bf16": "this project, bf16",
    "seqtrack-converting-bf16": "this project, bf16, weights converted in each batch",
    "seqtrack-processes": "this project in 2 processes, float32",
    "seqtrack-processes-bf16": "this project in 2 processes, bf16",
    "stage": "this project's predict stage, float32",
    "stage-bf16": "this project's predict stage, bf16",
    "pipeline-rows": "pipeline, row by row",
    "pipeline-32": "pipeline, batch_size=32",
    "pipeline-rows-bf16": "pipeline in bfloat16, row by row",
    "pipeline-32-bf16": "pipeline in bfloat16, batch_size=32",
}
USUAL = ("seqtrack", "seqtrack-bf16", "seqtrack-processes", "stage", "stage-bf16", "pipeline-rows", "pipeline-32")
WARM_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one run of one side took.

    Attributes:
        rows: answered.
        seconds: for that, the model being loaded; None of a stage, which is measured whole.
        whole_seconds: of the program, from its start to its end.
        cpu_seconds: of the program.
        peak_mib: main memory.
        threads: of PyTorch; None of a stage.
        device: where the model was; None of a stage.
        said: probabilities, row by row.
    """

    rows: int
    seconds: float | None
    whole_seconds: float
    cpu_seconds: float
    peak_mib: float
    threads: int | None
    device: str | None
    said: Said


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far the answers of a side are those of another.

    Attributes:
        rows: how many both answered.
        same_label: of how many both say that the same class is likeliest.
        largest_difference: between two probabilities of a row and class.
    """

    rows: int
    same_label: int
    largest_difference: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=1, help="of the training that makes the model")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side")
    parser.add_argument("--rows", type=int, help="rows of each split to keep")
    parser.add_argument("--only", default=",".join(USUAL), help=f"sides among {', '.join(SIDES)}")
    parser.add_argument("--json", type=Path, default=RESULTS / "predict.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = real_rows(Path(folder) / "work", options.rows)
        workspace.set_up({"train.num_train_epochs": options.epochs}).train()
        write_rows(workspace)
        results = compare(workspace, options.only.split(","), options.rounds)
        rows = name_of_rows(workspace)
    ratios = rates_beside(results)
    agreements = agreements_with(results, "pipeline-rows" if "pipeline-rows" in results else next(iter(results)))
    write_report(
        options.json,
        {
            **describe(PACKAGES),
            "command": " ".join(["python -m benchmarks.predict", *sys.argv[1:]]),
            "rows": rows,
            "results": {
                side: [{name: value for name, value in asdict(one).items() if name != "said"} for one in found]
                for side, found in results.items()
            },
            "times_as_fast_as": ratios,
            "agreement": {side: asdict(agreement) for side, agreement in agreements.items()},
        },
    )
    first = next(iter(results.values()))[0]
    print(f"{rows}: {first.rows:,} rows; medians of {options.rounds} (lowest to highest)\n")
    show(results, agreements)
    print()
    for side, beside in ratios.items():
        for other, ratio in beside.items():
            print(f"- {SIDES[side]}: {ratio:.2f} times as fast as {SIDES[other]}")


def write_rows(workspace: Workspace) -> None:
    """Write the texts of validation and test, without labels, and a few of them to warm up with."""
    ids = pa.concat_arrays([read_row_ids(workspace.folder / SPLITS / f"{split}.parquet") for split in SCORED])
    rows = select_rows(workspace.folder / ROWS, ids, ["row_id", "text", "text_pair"]).to_pylist()
    lines = [
        json.dumps({name: row[name] for name in ("text", "text_pair") if row[name] is not None}) + "\n" for row in rows
    ]
    (workspace.folder / ROWS_FILE).write_text("".join(lines), encoding="utf-8")
    (workspace.folder / WARM_FILE).write_text("".join(lines[:WARM_ROWS]), encoding="utf-8")


SCORED = ("validation", "test")


def compare(workspace: Workspace, sides: Sequence[str], rounds: int) -> dict[str, list[Result]]:
    """Let sides answer in turn."""
    runs: dict[str, Callable[[int], Result]] = {
        side: partial(run_stage if side.startswith("stage") else run_side, workspace, side) for side in sides
    }
    return alternate(runs, rounds)


def run_side(workspace: Workspace, side: str, _: int) -> Result:
    process = run_program([sys.executable, "-m", "benchmarks.predict_sides", side], workspace.folder)
    done = json.loads(process.output.splitlines()[-1])
    said = json.loads((workspace.folder / SAID_FILE).read_text())
    return told(
        side,
        Result(
            rows=len(said),
            seconds=done["seconds"],
            whole_seconds=process.seconds,
            cpu_seconds=process.cpu_seconds,
            peak_mib=process.peak_mib,
            threads=done["threads"],
            device=done["device"],
            said=said,
        ),
    )


def run_stage(workspace: Workspace, side: str, _: int) -> Result:
    precision = "bf16" if side.endswith("-bf16") else "no"
    workspace.set_up({"predict.path": str(ROWS_FILE), "predict.mixed_precision": precision})
    process = run_program([sys.executable, "-m", "stages.predict"], workspace.folder)
    said = read_said(workspace.folder / PREDICTIONS / ROWS_FILE)
    return told(
        side,
        Result(
            rows=len(said),
            seconds=None,
            whole_seconds=process.seconds,
            cpu_seconds=process.cpu_seconds,
            peak_mib=process.peak_mib,
            threads=None,
            device=None,
            said=said,
        ),
    )


def told(side: str, result: Result) -> Result:
    answered = "" if result.seconds is None else f"{result.rows / result.seconds:,.1f} rows/s, "
    tell(f"{side}: {answered}{result.whole_seconds:.1f} s in all")
    return result


def rates_beside(results: Mapping[str, Sequence[Result]]) -> dict[str, dict[str, float]]:
    """Return, by side of ours and pipeline, how many times as fast ours is: the ratio of the medians.

    The library is compared by the time to answer with the model loaded, a stage by that of the whole program.
    """
    ratios: dict[str, dict[str, float]] = {}
    for side, found in results.items():
        if not side.startswith("pipeline"):
            take = whole if side.startswith("stage") else answering
            ratios[side] = {
                other: Spread.of(take(results[other])).median / Spread.of(take(found)).median
                for other in results
                if other.startswith("pipeline")
            }
    return ratios


def answering(found: Sequence[Result]) -> list[float]:
    return [one.seconds for one in found if one.seconds is not None]


def whole(found: Sequence[Result]) -> list[float]:
    return [one.whole_seconds for one in found]


def agreements_with(results: Mapping[str, Sequence[Result]], reference: str) -> dict[str, Agreement]:
    """Compare what each side said in the first round with what one of them said."""
    expected = results[reference][0].said
    found = {}
    for side, runs in results.items():
        pairs = list(zip(runs[0].said, expected, strict=True))
        found[side] = Agreement(
            rows=len(pairs),
            same_label=sum(max(one, key=one.__getitem__) == max(other, key=other.__getitem__) for one, other in pairs),
            largest_difference=max(abs(one[name] - other[name]) for one, other in pairs for name in other),
        )
    return found


def show(results: Mapping[str, Sequence[Result]], agreements: Mapping[str, Agreement]) -> None:
    table = []
    for side, found in results.items():
        rates = [found[0].rows / seconds for seconds in answering(found)]
        agreement = agreements[side]
        table.append(
            [
                SIDES[side],
                Spread.of(rates).text() if rates else "-",
                Spread.of(whole(found)).text(),
                Spread.of([one.peak_mib for one in found]).text(",.0f"),
                f"{agreement.same_label:,} of {agreement.rows:,}",
                f"{agreement.largest_difference:.6f}",
            ]
        )
    header = ["Side", "Rows per second", "Whole program, seconds", "Peak MiB", "Same label", "Largest difference"]
    print_table(header, table)


if __name__ == "__main__":
    main()
