"""The model over HTTP under load: requests per second and how long each takes, beside transformers' pipeline.

Both serve one model, made by a short training of the bundled encoder, on this machine's loopback, each in a process of
its own, in turn: `stages.serve` with every default of params.yaml, and the pipeline behind the smallest FastAPI
application that does (benchmarks/serving_plain.py). Clients send one row a request, the next one when the answer is
there. They share the machine with the server. Rows are those of validation and test of MRPC where SEQTRACK_DATA has it,
else of the bundled sample.

    python -m benchmarks.serving
    python -m benchmarks.serving --model data/model --rows rows.jsonl --rounds 1 --requests 64 --clients 1,8
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from benchmarks.machine import describe
from benchmarks.predict import write_rows
from benchmarks.predict_sides import ROWS_FILE
from benchmarks.timing import LAST_LINES, RESULTS, ROOT, Spread, alternate, print_table, tell, write_report
from benchmarks.workspace import Workspace, name_of_rows, real_rows
from pipeline.paths import MODEL, PARAMS_FILE

PACKAGES = ("torch", "transformers", "tokenizers", "fastapi", "uvicorn", "starlette")
SIDES = {"seqtrack": "this project, make serve", "plain": "pipeline behind FastAPI"}
PATHS = {"seqtrack": "/invocations", "plain": "/classify"}
WARM_REQUESTS = 32
SECONDS = 600  # for the requests of one level, at most

Row = dict[str, str]
Said = dict[str, float]
"""Probability by class."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """A number of clients at once, and what they met.

    Attributes:
        clients: how many.
        requests: of all of them, all answered with status 200.
        seconds: from the first request to the last answer.
        p50_ms, p99_ms: how long half of the requests took at most, and 99 of 100, in milliseconds.
    """

    clients: int
    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Return requests per second."""
        return self.requests / self.seconds


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one run of one side gave; `said` is row by row, as the first requests were answered."""

    levels: tuple[Level, ...]
    said: list[Said]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder that train wrote; none: one is trained")
    parser.add_argument("--rows", type=Path, help="with --model: JSON Lines with text and perhaps text_pair")
    parser.add_argument("--requests", type=int, default=600, help="of each number of clients, in each round")
    parser.add_argument("--clients", default="1,8,64", help="numbers of clients, in this order")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side")
    parser.add_argument("--json", type=Path, default=RESULTS / "serving.json")
    options = parser.parse_args()
    if (options.model is None) != (options.rows is None):
        parser.error("--model and --rows go together")
    clients = [int(number) for number in options.clients.split(",")]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "work"
        if options.model is None:
            workspace = real_rows(folder, None)
            workspace.set_up({"train.num_train_epochs": 1}).train()
            write_rows(workspace)
            model, file, rows = folder / MODEL, folder / ROWS_FILE, name_of_rows(workspace)
        else:
            Workspace(folder=folder).set_up({})
            model, file, rows = options.model.resolve(), options.rows, options.rows.name
        texts = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        runs = {side: partial(run_side, side, folder, model, texts, options.requests, clients) for side in SIDES}
        results = alternate(runs, options.rounds)
    ratios = ratios_of(results, clients)
    agreement = agreement_of(results)
    write_report(
        options.json,
        {
            **describe(PACKAGES),
            "command": " ".join(["python -m benchmarks.serving", *sys.argv[1:]]),
            "rows": rows,
            "results": {
                side: [[{**asdict(level), "rate": level.rate} for level in one.levels] for one in found]
                for side, found in results.items()
            },
            "times_as_fast": ratios,
            "agreement": agreement,
        },
    )
    print(f"{rows}: one row a request, {options.requests:,} requests of each number of clients; ", end="")
    print(f"medians of {options.rounds} (lowest to highest)\n")
    show(results, clients)
    print()
    for number, ratio in ratios.items():
        print(f"- {number} client{'s' if number > 1 else ''}: {ratio:.2f} times the pipeline's requests per second")
    print(f"- The same label for {agreement['same_label']:,} of {agreement['rows']:,} rows; ", end="")
    print(f"largest difference of a probability {agreement['largest_difference']:.6f}")


def run_side(
    side: str, folder: Path, model: Path, rows: Sequence[Row], requests: int, clients: Sequence[int], _: int
) -> Result:
    """Start a server, put it under load, and end it."""
    with server(side, folder, model) as address:
        return asyncio.run(load(side, address + PATHS[side], rows, requests, clients))


@contextmanager
def server(side: str, folder: Path, model: Path) -> Iterator[str]:
    """Run a server while the block runs; yields its address."""
    assert (folder / PARAMS_FILE).is_file()
    module = "stages.serve" if side == "seqtrack" else "benchmarks.serving_plain"
    command = [sys.executable, "-m", module, "--model", str(model), "--port", "0"]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            address = re.search(r"http://\S+", process.stdout.readline())
            if address is None:
                errors.seek(0)
                sys.exit(f"{' '.join(command)} did not start:\n" + "".join(errors.readlines()[-LAST_LINES:]))
            yield address[0]
        finally:
            process.terminate()
            process.wait(timeout=600)


async def load(side: str, url: str, rows: Sequence[Row], requests: int, clients: Sequence[int]) -> Result:
    """Send requests, with some numbers of clients in turn; the first ones, to warm up, are not counted."""
    said: dict[int, Said] = {}
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

        async def send(numbers: Iterator[int], times: list[float]) -> None:
            for number in numbers:
                place = number % len(rows)
                started = time.perf_counter()
                async with session.post(url, json=body(side, rows[place])) as response:
                    answer = await response.read()
                    if response.status != 200:
                        sys.exit(f"{url} answers with status {response.status}: {answer.decode()}")
                times.append(time.perf_counter() - started)
                if place not in said:
                    said[place] = probabilities(side, answer)

        async def level(number: int, count: int) -> Level:
            times: list[float] = []
            numbers = iter(range(count))  # which all clients take from
            started = time.perf_counter()
            await asyncio.wait_for(asyncio.gather(*(send(numbers, times) for _ in range(number))), SECONDS)
            seconds = time.perf_counter() - started
            p50, p99 = np.percentile(np.array(times) * 1000, [50, 99])
            return Level(clients=number, requests=count, seconds=seconds, p50_ms=float(p50), p99_ms=float(p99))

        await level(min(8, max(clients)), WARM_REQUESTS)
        levels = []
        for number in clients:
            levels.append(await level(number, requests))
            one = levels[-1]
            tell(f"{side}, {number} clients: {one.rate:,.1f} requests/s, p50 {one.p50_ms:.1f}, p99 {one.p99_ms:.1f} ms")
    return Result(levels=tuple(levels), said=[said[place] for place in sorted(said)])


def body(side: str, row: Row) -> dict[str, Any]:
    return {"inputs": [row]} if side == "seqtrack" else dict(row)


def probabilities(side: str, answer: bytes) -> Said:
    found = json.loads(answer)
    if side == "seqtrack":
        result: Said = found["predictions"][0]["probabilities"]
        return result
    return {score["label"]: score["score"] for score in found}


def ratios_of(results: Mapping[str, Sequence[Result]], clients: Sequence[int]) -> dict[int, float]:
    """Return, by number of clients, the ratio of the medians of requests per second."""
    return {
        number: Spread.of(rates(results["seqtrack"], place)).median / Spread.of(rates(results["plain"], place)).median
        for place, number in enumerate(clients)
    }


def rates(found: Sequence[Result], place: int) -> list[float]:
    return [one.levels[place].rate for one in found]


def agreement_of(results: Mapping[str, Sequence[Result]]) -> dict[str, float]:
    """Compare what the sides said in the first round."""
    pairs = list(itertools.zip_longest(*(found[0].said for found in results.values())))
    return {
        "rows": len(pairs),
        "same_label": sum(max(one, key=one.__getitem__) == max(other, key=other.__getitem__) for one, other in pairs),
        "largest_difference": max(abs(one[name] - other[name]) for one, other in pairs for name in other),
    }


def show(results: Mapping[str, Sequence[Result]], clients: Sequence[int]) -> None:
    table = []
    for place, number in enumerate(clients):
        for side, found in results.items():
            levels = [one.levels[place] for one in found]
            table.append(
                [
                    SIDES[side],
                    str(number),
                    Spread.of([level.rate for level in levels]).text(),
                    Spread.of([level.p50_ms for level in levels]).text(),
                    Spread.of([level.p99_ms for level in levels]).text(),
                ]
            )
    print_table(["Server", "Clients", "Requests per second", "p50, ms", "p99, ms"], table)


if __name__ == "__main__":
    main()
