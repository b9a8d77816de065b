"""What a run says about itself for its card: where it ran, on what, by which command."""

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

from fagan_hf import __version__
from fagan_hf.redaction import redact

ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("torch", "accelerate", "pillow")


@cache
def environment_facts(device: str, num_processes: int) -> dict[str, Any]:
    """Say what does not change in the course of a session.

    Args:
        device: Type of the device: ``"cpu"``, ``"cuda"``, ...
        num_processes: Over all machines.
    """
    return {"hardware": hardware(device, num_processes), "versions": versions(), "command": command(), **commit()}


def hardware(device: str, num_processes: int) -> str:
    """Name the class of hardware; no names of machines."""
    if device == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        name = f"{cores} cores of {_cpu_name()}"
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
    """Give the versions of what the numbers depend on."""
    found = {"Python": platform.python_version(), "fagan_hf": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def command(arguments: Sequence[str] | None = None) -> str:
    """Give the command that started this process, without tokens and without the name of anybody's home.

    Args:
        arguments: By default the process's own.
    """
    script, *flags = map(_portable, sys.argv if arguments is None else arguments)
    return redact(f"{_launcher()} {shlex.join([script, *flags])}")


def _launcher() -> str:
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if any(name.startswith("ACCELERATE_") for name in os.environ):
        return "accelerate launch" + (f" --multi_gpu --num_processes {count}" if count > 1 else "")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return f"torchrun --nproc_per_node {os.environ.get('LOCAL_WORLD_SIZE', '1')}"
    return "python"


def _portable(argument: str) -> str:
    """Shorten the paths in an argument: relative to the clone, or to the home."""
    flag, equals, value = argument.partition("=")
    if not equals:
        flag, value = "", argument
    path = Path(value)
    if path.is_absolute():
        for start in (ROOT, Path.cwd()):
            if path.is_relative_to(start):
                return f"{flag}{equals}{path.relative_to(start).as_posix()}"
    home = re.escape(Path.home().as_posix())
    is_top = home == "/"  # in some containers it is nobody's
    return argument if is_top else re.sub(rf"{home}(?![^/\]\s,;:'\"])", "~", argument)


def commit() -> dict[str, Any]:
    """Give the commit of the clone that is run, if it is one."""
    try:
        top = _git("rev-parse", "--show-toplevel")
        if Path(top).resolve() != ROOT:  # a copy that lies in somebody else's repository
            return {}
        return {"commit": _git("rev-parse", "HEAD"), "commit_modified": bool(_git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()
