import os
import platform
import subprocess
import sys

import pytest

# Counts page faults of a process that allocates and frees the same 40 MB ten times.
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


# Counts malloc's arenas after sixteen threads have allocated at the same time.
ARENAS = """
import ctypes, sys, threading
from fagan_hf.utils.allocator import share_memory_between_threads
print(share_memory_between_threads() if "share" in sys.argv else None, flush=True)
together = threading.Barrier(16)
def work():
    together.wait()
    block = bytearray(50_000)
    together.wait()
threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
stdout = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, stdout)
libc.fflush(stdout)
"""


@pytest.mark.skipif(NOT_GLIBC, reason="this C library has no arenas")
def test_threads_share_arenas():
    def arenas(*arguments):
        done = subprocess.run([sys.executable, "-c", ARENAS, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.split(maxsplit=1)[0], done.stdout.count("<heap nr")

    assert arenas()[1] > 4
    done, count = arenas("share")
    assert done == "True"
    assert count <= 2
