"""How much memory a piece of code takes, measured in a process of its own."""

import subprocess
import sys

_WATCH = """
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


def peak_megabytes(prepared: str, measured: str) -> float:
    """Run code, and give by how much more code behind it raises the process's memory, at its peak [MB]."""
    code = prepared + _WATCH.format(measured=measured)
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(result.stdout)
