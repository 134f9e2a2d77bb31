"""The allocator's settings."""

from __future__ import annotations

import ctypes
import subprocess
import sys

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
