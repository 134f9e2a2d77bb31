"""All benchmarks in turn, in sizes for three quarters of an hour on two cores, their tables in docs/benchmarks.md.

Each is a program of its own that prints its tables on standard output and writes benchmarks/results/<name>.json. Its
tables replace what stands in the page between `<!-- begin <name> -->` and `<!-- end <name> -->`; the rest of the page
is written by hand and stays. One that fails leaves its part of the page as it was, and the others run all the same.

    python -m benchmarks
    python -m benchmarks --only train,scaling --page /tmp/page.md
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.timing import ROOT, tell

PAGE = ROOT / "docs" / "benchmarks.md"
PACKAGES = ("torch", "transformers", "accelerate", "tokenizers", "mlflow", "dvc")
# Module to arguments; gpu is not among them: it wants a GPU, and more time.
SMALL = {
    "startup": "--rounds 3",
    "overhead": "--rounds 1 --epochs 3",
    "data": "--rows 100000 --only seqtrack,datasketch",
    "tokenize": "",
    "predict": "--rounds 3",
    "serving": "--rounds 3",
    "train": "--epochs 1 --rounds 2",
    "steps": "--steps 40 --rounds 2",
    "scaling": "--base 32 --length-rows 128 --process-rows 512 --rounds 1",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SMALL), help="benchmarks, in this order")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write tables into")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := [name for name in names if name not in SMALL]:
        parser.error(f"no benchmark {unknown[0]}; there are {', '.join(SMALL)}")
    page = options.page.read_text(encoding="utf-8")
    if missing := [name for name in names if not part(name).search(page)]:
        parser.error(f"{options.page} has no place for {missing[0]}: add <!-- begin {missing[0]} --> and its end")
    failed = [name for name in names if not run(name, options.page)]
    if failed:
        sys.exit(f"error: no new figures of {', '.join(failed)}")


def run(name: str, page: Path) -> bool:
    """Run a benchmark and put its tables into the page; return whether it went well."""
    command = shlex.split(f"python -m benchmarks.{name} {SMALL[name]}")
    tell(f"{' '.join(command)}")
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *command[1:]], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    tell(f"{name}: {(time.perf_counter() - started) / 60:.1f} minutes, exit status {done.returncode}")
    if done.returncode:
        return False
    print(done.stdout, flush=True)
    facts = describe(PACKAGES)
    versions = ", ".join(f"{package} {facts[package]}" for package in ("python", *PACKAGES))
    head = f"{facts['date']}; {facts['machine']}; {versions}.\n\n    {' '.join(command)}\n\n"
    # Read again: somebody may have written in it meanwhile.
    page.write_text(replaced(page.read_text(encoding="utf-8"), name, head + done.stdout.strip()), encoding="utf-8")
    return True


def part(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- begin {name} -->\n)(.*?)(<!-- end {name} -->)", re.DOTALL)


def replaced(page: str, name: str, text: str) -> str:
    """Return the page with another text in a benchmark's part."""
    return part(name).sub(lambda found: f"{found[1]}\n{text}\n\n{found[3]}", page)


if __name__ == "__main__":
    main()
