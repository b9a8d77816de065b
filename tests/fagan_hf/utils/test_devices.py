import os
import sys
from types import SimpleNamespace

import pytest

from fagan_hf.utils import devices
from fagan_hf.utils.devices import available_cores, available_memory, cpu_quota


@pytest.fixture
def machine(tmp_path):
    """Write the files of a made-up machine."""

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_another_system_has_no_quota(tmp_path):
    assert cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("cpu_max", "quota"),
    [("200000 100000\n", 2.0), ("150000 100000\n", 1.5), ("max 100000\n", None), ("50000 0\n", None), ("", None)],
    ids=["two", "one and a half", "unlimited", "nonsense", "empty"],
)
def test_quota_of_version_2(machine, cpu_max, quota):
    root = machine(proc__self__cgroup="0::/\n", **{"sys__fs__cgroup__cpu.max": cpu_max})
    assert cpu_quota(root) == quota


def test_the_smallest_limit_of_all_groups_above_holds(machine):
    files = {"sys__fs__cgroup__a__cpu.max": "100000 100000", "sys__fs__cgroup__a__b__cpu.max": "300000 100000"}
    assert cpu_quota(machine(proc__self__cgroup="0::/a/b\n", **files)) == 1


def test_only_a_part_of_the_path_may_be_mounted(machine):
    root = machine(proc__self__cgroup="0::/docker/0123\n", **{"sys__fs__cgroup__cpu.max": "400000 100000"})
    assert cpu_quota(root) == 4


@pytest.mark.parametrize(("given", "quota"), [("250000", 2.5), ("-1", None)], ids=["limited", "unlimited"])
def test_quota_of_version_1(machine, given, quota):
    files = {
        f"sys__fs__cgroup__cpu__docker__cpu.cfs_{name}_us": text
        for name, text in (("quota", given), ("period", "100000"))
    }
    root = machine(proc__self__cgroup="12:pids:/docker\n4:cpu,cpuacct:/docker\n3:cpuset:/\n0::/\n", **files)
    assert cpu_quota(root) == quota


@pytest.mark.parametrize(
    ("quota", "cores"), [(None, 8), (0.5, 1), (1.5, 2), (2.0, 2), (64.0, 8)], ids=["none", "half", "odd", "two", "more"]
)
def test_cores_are_those_of_affinity_and_quota(monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(devices, "cpu_quota", lambda: quota)
    assert available_cores() == cores


def memory_of(monkeypatch, root, available=8 * 2**30):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=available))
    return available_memory(root)


def test_memory_of_another_system_is_that_of_the_machine(monkeypatch, tmp_path):
    assert memory_of(monkeypatch, tmp_path) == 8 * 2**30


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", 8 * 2**30), ("4000000", 1_500_000)], ids=["unlimited", "limited"]
)
def test_memory_left_by_version_2(monkeypatch, machine, limit, expected):
    group = "sys__fs__cgroup__memory"
    files = {f"{group}.max": f"{limit}\n", f"{group}.current": "3000000\n"}
    files[f"{group}.stat"] = "anon 1\ninactive_file 500000\n"
    assert memory_of(monkeypatch, machine(proc__self__cgroup="0::/\n", **files)) == expected, (
        "cached files are given up"
    )


def test_memory_left_by_version_1(monkeypatch, machine):
    group = "sys__fs__cgroup__memory__a__memory"
    files = {f"{group}.limit_in_bytes": "4000000", f"{group}.usage_in_bytes": "3000000"}
    files[f"{group}.stat"] = "total_inactive_file 250000"
    assert memory_of(monkeypatch, machine(proc__self__cgroup="5:memory:/a\n", **files)) == 1_250_000


def test_memory_is_unknown_without_psutil(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert available_memory() is None
