"""Facts about a run for its model card: hardware, versions and command."""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fagan_hf.utils.devices import available_cores
from fagan_hf.utils.redaction import redact
from fagan_hf.utils.version import __version__

ROOT = Path(__file__).resolve().parents[3]
# Excludes the slashes of a URL and those inside a relative path.
_ABSOLUTE = re.compile(r"(?<![\w/.~\\-])(?:/(?!/)|~/|[A-Za-z]:\\)[^\s,;:'\"\[\]=]+")
_STATUS, _PEAK = Path("/proc/self/status"), re.compile(r"^VmHWM:\s*(\d+) kB$", re.MULTILINE)
_PACKAGES = ("torch", "accelerate", "pillow")


@cache
def environment_facts(device: str, num_processes: int) -> dict[str, Any]:
    """Return the facts that do not change during a session.

    Args:
        device: Type of the device: ``"cpu"``, ``"cuda"``, ...
        num_processes: Number of processes over all machines.
    """
    return {"hardware": hardware(device, num_processes), "versions": versions(), "command": command(), **commit()}


def hardware(device: str, num_processes: int) -> str:
    """Name the type of hardware, without host names."""
    if device == "cpu":
        name = f"{available_cores()} cores of {_cpu_name()}"
    elif device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        name = f"{device} on {_cpu_name()}"
    return name if num_processes == 1 else f"{num_processes} processes, each on {name}"


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    found = {"Python": platform.python_version(), "fagan_hf": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory of this process [MB]: GPU memory, or host memory when training on the CPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    if sys.platform == "win32":
        import psutil  # a dependency of accelerate

        return round(psutil.Process().memory_info().peak_wset / 2**20, 1)
    # On Linux `getrusage` also counts the process that this one was forked from.
    if _STATUS.is_file() and (found := _PEAK.search(_STATUS.read_text(encoding="utf-8"))):
        return round(int(found[1]) / 2**10, 1)
    import resource  # not available on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def command(arguments: Sequence[str] | None = None) -> str:
    """Return the command that started this run, without tokens and without paths of this machine.

    Args:
        arguments: By default those of the process and of the launcher that started it.
    """
    words = [*_launcher(), *_program()] if arguments is None else arguments
    return redact(shlex.join(map(_portable, words)))


def _program() -> list[str]:
    """Return what was launched, and its arguments."""
    path = Path(sys.argv[0])
    if path.stem == "fagan-hf":
        return ["fagan-hf", *sys.argv[1:]]
    is_module = path.name == "__main__.py" and path.parent.name == "training"
    return ["-m", "fagan_hf.training", *sys.argv[1:]] if is_module else sys.argv


def _launcher() -> list[str]:
    """Return how the script was started, with the launcher's own flags where the system exposes them."""
    parent = Path(f"/proc/{os.getppid()}/cmdline")
    words = parent.read_text(encoding="utf-8", errors="replace").split("\0") if parent.is_file() else []
    is_launcher = any(name.startswith(("ACCELERATE_", "TORCHELASTIC_")) for name in os.environ)
    if not is_launcher:
        return [] if Path(sys.argv[0]).stem == "fagan-hf" else ["python"]
    if sys.argv[0] in words:
        words = words[: words.index(sys.argv[0])]
        if len(words) > 1 and Path(words[1]).name in ("accelerate", "torchrun"):
            words = words[1:]  # without the Python interpreter
        return [Path(words[0]).name, *words[1:]]
    return ["accelerate", "launch"] if "ACCELERATE_MIXED_PRECISION" in os.environ else ["torchrun"]


def _portable(word: str) -> str:
    """Shorten the paths in an argument: relative to the clone, or to their last component."""

    def shorten(match: re.Match[str]) -> str:
        path = Path(match[0])
        for start in (ROOT, Path.cwd()):
            if path.is_relative_to(start):
                return path.relative_to(start).as_posix()
        return "path/to/" + re.split(r"[/\\]", match[0].rstrip("/"))[-1]

    return _ABSOLUTE.sub(shorten, word)


def commit() -> dict[str, Any]:
    """Return the git commit of the code, if it runs from a clone."""
    try:
        top = _git("rev-parse", "--show-toplevel")
        if Path(top).resolve() != ROOT:  # a copy inside some other repository
            return {}
        return {"commit": _git("rev-parse", "HEAD"), "commit_modified": bool(_git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()
