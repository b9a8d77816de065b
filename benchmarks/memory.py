"""Peak memory of a piece of code, measured in a separate process."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_ON_CPU = """
import threading, time, psutil
process, peak, done = psutil.Process(), 0, False
before = process.memory_info().rss
def watch():
    global peak
    while not done:
        peak = max(peak, process.memory_info().rss - before)
        time.sleep(0.0005)
thread = threading.Thread(target=watch)
thread.start()
{measured}
done = True
thread.join()
print(peak / 1e6)
"""
_ON_CUDA = """
import torch
torch.cuda.reset_peak_memory_stats()
before = torch.cuda.memory_allocated()
{measured}
torch.cuda.synchronize()
print((torch.cuda.max_memory_allocated() - before) / 1e6)
"""


def peak_megabytes(prepared: str, measured: str, device: str = "cpu") -> float:
    """Run setup code, then measure by how much the following code raises the process's peak memory [MB].

    Args:
        prepared: Setup that is not measured: imports, networks.
        measured: Code that is measured; it shares the namespace of the setup.
        device: ``"cpu"`` for the process's resident memory, or ``"cuda"`` for what torch allocates on the GPU.
    """
    watched = (_ON_CUDA if device == "cuda" else _ON_CPU).format(measured=measured)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, "-c", prepared + watched],
        check=True,
        stdout=subprocess.PIPE,  # errors still go to stderr
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    return float(result.stdout.splitlines()[-1])
