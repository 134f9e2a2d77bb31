"""The allocator's settings."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource
from pipeline.allocator import keep_freed_memory
{setting}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    block = bytearray(48 << 20)
    del block
before = faults()
for _ in range(5):
    block = bytearray(48 << 20)
    del block
print(faults() - before)
"""


def faults(setting: str) -> int:
    program = PROGRAM.format(setting=setting)
    return int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library is not glibc")
def test_freed_memory_is_not_fetched_from_the_system_again() -> None:
    pages = 48 * 256
    assert faults("") > 4 * pages
    assert faults("keep_freed_memory()") < pages // 10


LARGE_PAGES = """
import re
import stages.evaluate, stages.predict, stages.train
from pipeline.allocator import keep_freed_memory
keep_freed_memory()
import {libraries}
import torch
middle = torch.ones(12 << 20).data_ptr() + (24 << 20)
for area in re.split(r"\\n(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read()):
    start, end = (int(bound, 16) for bound in area.split(maxsplit=1)[0].split("-"))
    if start <= middle < end:
        print("hg" in re.search("VmFlags:(.*)", area)[1].split())
"""


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no large pages of Linux's kind")
@pytest.mark.parametrize(
    ("decided", "libraries", "asked"),
    [(None, "pipeline.fine_tuning, pipeline.prediction", "True"), ("0", "torch", "False")],  # those make tensors
)
def test_large_pages_are_asked_for_unless_the_user_decided(decided: str | None, libraries: str, asked: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    environment |= {} if decided is None else {"THP_MEM_ALLOC_ENABLE": decided}
    program = LARGE_PAGES.replace("{libraries}", libraries)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [asked], done.stderr
