"""Rows per second of the tokenize stage's work beside the tokenizer in Rust itself, and what its cache saves.

All sides tokenize the same rows with the model of params.yaml, in batches of the same size, in turn, in one process:
MRPC's pairs where SEQTRACK_DATA has them, else the bundled sample's texts, numbered so that no row is there twice. The
tokenizer alone leaves its results where they are; with ids it hands them to Python as lists, the way anybody gets
them. Ours reads Parquet and writes Arrow files. In growth the cache knows ten rows of eleven.

    python -m benchmarks.tokenize
    python -m benchmarks.tokenize --rows 2000 --rounds 2
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.machine import describe
from benchmarks.timing import RESULTS, ROOT, Spread, alternate, print_table, run_program, tell, write_report
from benchmarks.workspace import name_of_rows, real_rows
from pipeline.encoding import Encoder, joined
from pipeline.model_source import resolve
from pipeline.params import load_params
from pipeline.paths import PARAMS_FILE
from pipeline.paths import ROWS as VALIDATED_ROWS
from pipeline.rows import read_rows, write_parquet
from pipeline.tokenization import BATCH_ROWS, encoded_batches
from pipeline.tokens import shard_writer

PACKAGES = ("tokenizers", "transformers", "pyarrow", "numpy")
KNOWN = 10 / 11  # share of the rows that the cache knows where data grew by a tenth
AIM = 0.95
SIDES = {
    "rust": "the tokenizer in Rust alone",
    "rust-ids": "the tokenizer in Rust, ids as lists",
    "seqtrack": "this project, no cache",
    "seqtrack-empty-cache": "this project, cache empty",
    "seqtrack-grown": "this project, a tenth of the rows new",
}


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One run of a side: seconds of the wall clock, and of processors."""

    seconds: float
    cpu_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side, after one for warming")
    parser.add_argument("--json", type=Path, default=RESULTS / "tokenize.json")
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print(peak_mib(options.peak_of))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workspace = real_rows(folder / "work", None)
        table = numbered(read_rows(workspace.folder / VALIDATED_ROWS), options.rows)
        write_parquet(table, folder / "rows.parquet")
        found = {side: turns[1:] for side, turns in alternate(sides(folder, table), options.rounds + 1).items()}
        peaks = {}
        for rows in (options.rows // 4, options.rows):
            write_parquet(table.slice(0, rows), folder / "peak.parquet")
            command = [sys.executable, "-m", "benchmarks.tokenize", "--peak-of", str(folder / "peak.parquet")]
            peaks[rows] = json.loads(run_program(command, ROOT).output)
        what = name_of_rows(workspace)
    write_report(
        options.json,
        {
            **describe(PACKAGES),
            "command": " ".join(["python -m benchmarks.tokenize", *sys.argv[1:]]),
            "rows": f"{options.rows} of {what}",
            "results": {side: [asdict(turn) for turn in turns] for side, turns in found.items()},
            "peak_mib": peaks,
        },
    )
    print(f"{options.rows:,} rows of {what}; medians of {options.rounds} (lowest to highest)\n")
    show(found, peaks, options.rows)


def numbered(rows: pa.Table, count: int) -> pa.Table:
    """Return so many rows, over and over, with their number at the start of the text."""
    picked = rows.take([number % rows.num_rows for number in range(count)])
    texts = [f"{number} {text}" for number, text in enumerate(picked["text"].to_pylist())]
    return picked.set_column(1, rows.schema.field("text"), pa.array(texts)).set_column(
        0, rows.schema.field("row_id"), pa.array([f"{number:032x}" for number in range(count)])
    )


def load_encoder() -> Encoder:
    params = load_params(ROOT / PARAMS_FILE)
    return Encoder.load(resolve(params.model, weights=False).folder, params.tokenize.max_length)


def sides(folder: Path, table: pa.Table) -> dict[str, Callable[[int], Turn]]:
    encoder = load_encoder()
    rows = joined(table["text"].to_pylist(), table["text_pair"].to_pylist())
    full, known, grown = folder / "rows.parquet", folder / "known.parquet", folder / "grown"
    write_parquet(table.slice(0, int(table.num_rows * KNOWN)), known)

    def rust(*, ids: bool) -> None:
        backend = encoder.truncating_backend()
        for start in range(0, len(rows), BATCH_ROWS):
            encodings = backend.encode_batch_fast(rows[start : start + BATCH_ROWS])
            if ids:
                _ = [(encoding.ids, encoding.type_ids) for encoding in encodings]

    def empty_cache() -> None:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        tokenize(full, folder / "out", encoder, folder / "cache")

    def fill() -> None:
        shutil.rmtree(grown, ignore_errors=True)
        tokenize(known, folder / "out", encoder, grown)

    runs: dict[
        str, tuple[Callable[[], None], Callable[[], None]]
    ] = {  # what comes before the clock starts; what is measured
        "rust": (lambda: None, lambda: rust(ids=False)),
        "rust-ids": (lambda: None, lambda: rust(ids=True)),
        "seqtrack": (lambda: None, lambda: tokenize(full, folder / "out", encoder, None)),
        "seqtrack-empty-cache": (lambda: None, empty_cache),
        "seqtrack-grown": (fill, lambda: tokenize(full, folder / "out", encoder, grown)),
    }

    def turn(side: str) -> Callable[[int], Turn]:
        before, run = runs[side]

        def measured(_: int) -> Turn:
            before()
            started, cpu_started = time.perf_counter(), time.process_time()
            run()
            found = Turn(seconds=time.perf_counter() - started, cpu_seconds=time.process_time() - cpu_started)
            tell(f"{side}: {len(rows) / found.seconds:,.0f} rows/s")
            return found

        return measured

    return {side: turn(side) for side in SIDES}


def tokenize(rows: Path, out: Path, encoder: Encoder, cache: Path | None) -> None:
    """Do what the stage does between loading the tokenizer and its report."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    with (
        pq.ParquetFile(rows, memory_map=True) as file,
        shard_writer(out, token_types=encoder.has_token_types) as writer,
    ):
        for row_ids, encoded in encoded_batches(file, encoder, cache):
            writer.write(row_ids, encoded)


def peak_mib(rows: Path) -> float:
    """Return by how much tokenizing raises this process's peak memory, with an empty cache."""
    encoder = load_encoder()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        tokenize(rows, Path(folder) / "out", encoder, Path(folder) / "cache")
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def show(found: dict[str, list[Turn]], peaks: dict[int, float], rows: int) -> None:
    header = ["Side", "Rows per second", "Seconds", "Processor seconds"]
    table = []
    for side, turns in found.items():
        seconds = [turn.seconds for turn in turns]
        cpu = Spread.of([turn.cpu_seconds for turn in turns])
        rate = Spread.of([rows / one for one in seconds])
        table.append([SIDES[side], rate.text(",.0f"), Spread.of(seconds).text(",.2f"), cpu.text(",.2f")])
    print_table(header, table)
    median = {side: Spread.of([turn.seconds for turn in turns]).median for side, turns in found.items()}
    print()
    for side, reference in itertools.product(("seqtrack", "seqtrack-empty-cache"), ("rust", "rust-ids")):
        ratio = median[reference] / median[side]
        print(f"- {SIDES[side]}: {ratio:.0%} of the rate of {SIDES[reference]} (aim: {AIM:.0%})")
    print(f"- grown by a tenth: {median['seqtrack'] / median['seqtrack-grown']:.1f} times as fast with the cache")
    grew = ", ".join(f"{peak:,.0f} MiB for {size:,} rows" for size, peak in peaks.items())
    print(f"- peak memory above that of the loaded tokenizer: {grew}")


if __name__ == "__main__":
    main()
