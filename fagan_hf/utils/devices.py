"""Devices and cores."""

import math
import os
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
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # another system
        return None
    quotas = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:  # version 2
            mount, read = root / "sys/fs/cgroup", _quota_2
        elif "cpu" in controllers.split(","):
            mount, read = root / "sys/fs/cgroup/cpu", _quota_1
        else:
            continue
        # A limit of any group above holds, too. In a container only the mounted part of the path may be visible.
        place = mount / group.lstrip("/")
        quotas += [read(each) for each in (place, *place.parents) if each.is_relative_to(mount)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_2(group: Path) -> float | None:
    return _ratio(_words(group / "cpu.max"))


def _quota_1(group: Path) -> float | None:
    return _ratio([*_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us")])


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _ratio(words: list[str]) -> float | None:
    """Return the quotient of two numbers; ``None`` if there is no limit: "max", or -1."""
    if len(words) != 2 or not all(word.isdecimal() for word in words) or int(words[1]) == 0:
        return None
    return int(words[0]) / int(words[1])
