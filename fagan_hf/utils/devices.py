"""Devices, cores and memory."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def find_device(name: str | None) -> "torch.device":
    """Return a device by name; by default the fastest available one.

    Raises:
        ValueError: The device is unknown or not available.
    """
    import torch

    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # what torch raises for an unknown device, and for an absent one
        raise ValueError(f"device is {name!r}, which can't be used here: {error}") from error


def available_cores() -> int:
    """Count the cores that this process may use: by its affinity, and by the CPU quota of its container, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the cores' worth of time that Linux control groups allow this process; ``None`` if there is no limit.

    Containers are limited in this way (``docker run --cpus 2``, Kubernetes): all cores of the machine are visible, but
    more threads than the quota would only be stopped more often.

    Args:
        root: Where ``/proc`` and ``/sys`` are.
    """
    quotas = [
        _ratio(_words(group, "cpu.max") if version == 2 else _words(group, "cpu.cfs_quota_us", "cpu.cfs_period_us"))
        for version, group in _control_groups("cpu", root)
    ]
    return min((quota for quota in quotas if quota is not None), default=None)


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the memory that this process may still take [bytes]: the machine's, or what its container has left.

    Args:
        root: Where ``/proc`` and ``/sys`` are.

    Returns:
        ``None`` if it can't be found out: psutil, which training installs, is missing.
    """
    try:
        import psutil
    except ImportError:
        return None
    left = [psutil.virtual_memory().available]
    for version, group in _control_groups("memory", root):
        files = ("max", "current") if version == 2 else ("limit_in_bytes", "usage_in_bytes")
        numbers = _words(group, *(f"memory.{file}" for file in files))
        if len(numbers) == 2 and all(number.isdecimal() for number in numbers):  # not "max", which is no limit
            limit, used = map(int, numbers)
            left.append(max(0, limit - used + _reclaimable(group)))
    return min(left)


def _reclaimable(group: Path) -> int:
    """Return the part of a group's use that the kernel gives up when memory is needed: cached files [bytes]."""
    words = _words(group, "memory.stat")
    found = dict(zip(words[::2], words[1::2], strict=False))
    return int(found.get("inactive_file", found.get("total_inactive_file", "0")))


def _control_groups(controller: str, root: Path) -> Iterator[tuple[int, Path]]:
    """Iterate over the control groups that may limit this process: version and folder of each."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # another system
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            version, mount = 2, root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            version, mount = 1, root / "sys/fs/cgroup" / controller
        else:
            continue
        # A limit of any group above holds, too. In a container only the mounted part of the path may be visible.
        place = mount / group.lstrip("/")
        yield from ((version, each) for each in (place, *place.parents) if each.is_relative_to(mount))


def _words(group: Path, *files: str) -> list[str]:
    """Read the words of a group's files, one after the other; nothing of a file that is not there."""
    words = []
    for file in files:
        with suppress(OSError):
            words += (group / file).read_text(encoding="utf-8").split()
    return words


def _ratio(words: list[str]) -> float | None:
    """Return the quotient of two numbers; ``None`` if there is no limit: "max", or -1."""
    if len(words) != 2 or not all(word.isdecimal() for word in words) or int(words[1]) == 0:
        return None
    return int(words[0]) / int(words[1])
