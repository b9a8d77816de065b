import os
import platform
import subprocess
import sys

import pytest

# How many pages a process is given anew while it takes and frees the same 40 MB ten times.
FAULTS = """
import resource, sys
from fagan_hf.utils.allocator import keep_freed_memory
print(keep_freed_memory() if "keep" in sys.argv else None)
def work():
    block = bytearray(40_000_000)
    block[::4096] = b"x" * len(block[::4096])
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
NOT_GLIBC = platform.libc_ver()[0] != "glibc"


def run(*arguments, **environment):
    command = [sys.executable, "-c", FAULTS, *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **environment}
    ).stdout.split()


@pytest.mark.skipif(NOT_GLIBC, reason="this C library has no thresholds to set")
def test_freed_memory_is_kept():
    assert int(run()[1]) > 50_000, "without it each block is new memory"
    done, faults = run("keep")
    assert done == "True"
    assert int(faults) < 1000


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_what_the_environment_chooses_stays(name):
    assert run("keep", **{name: "" if name == "LD_PRELOAD" else "1"})[0] == "False"
