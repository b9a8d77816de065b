"""Signals, in separate processes, which start quickly without torch."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from fagan_hf.training.distributed import signals
from fagan_hf.training.distributed.signals import StopRequest

HEAD = """
import os, signal, subprocess, sys, time
from fagan_hf.training.distributed import signals
from fagan_hf.training.distributed.signals import StopRequest
"""
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "LOCAL_"))}


def start(code, **env):
    command = [sys.executable, "-c", HEAD + textwrap.dedent(code)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=CLEAN | {"PYTHONPATH": "."} | env)


def wait_until(is_true, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def lives(pid):
    """Return whether a process is alive; zombies are not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_is_a_wish(number):
    request = StopRequest()
    before = signal.getsignal(number)
    with request.listening():
        assert not request.is_made
        os.kill(os.getpid(), number)
        assert request.is_made
    assert signal.getsignal(number) is before


def test_handlers_are_put_back_when_the_block_fails():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(OSError, match="full"), StopRequest().listening():
        raise OSError("full")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_signals_that_come_together_are_one_wish(monkeypatch):
    """Whichever they are, a launcher's and the terminal's; and they don't put off the moment for a second wish."""
    request, now = StopRequest(), [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    killed = []
    monkeypatch.setattr(signals.signal, "raise_signal", killed.append)
    with request.listening():
        for moment in (100.0, 100.4, 100.9):
            now[0] = moment
            request._take(signal.SIGINT, None)
            request._take(signal.SIGTERM, None)
        assert killed == []
        now[0] = 101.1
        request._take(signal.SIGTERM, None)
        assert killed == [signal.SIGTERM]


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_later_wish_ends_at_once(second):
    code = """
    signals.DUPLICATE_SIGNAL_SECONDS = 0.05
    with StopRequest().listening():
        print("ready", flush=True)
        while True:  # it never comes to look
            time.sleep(0.01)
    """
    process = start(code)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(second)
        assert process.wait(20) == -second
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


LAUNCHER = """
child = subprocess.Popen([sys.executable, "-c", CHILD], stdout=1)
time.sleep(60)
"""
CHILD = (
    HEAD
    + """
request = StopRequest()
with request.listening():
    print(os.getpid(), flush=True)
    deadline = time.monotonic() + float(os.environ["LISTENS_SECONDS"])
    while not request.is_made and time.monotonic() < deadline:
        time.sleep(0.01)
    open(os.environ["TOLD"], "w").write("asked" if request.is_made else "left alone")
"""
)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
@pytest.mark.parametrize(
    ("env", "seconds", "expected"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "no"}, 20, "asked"),
        ({"LOCAL_RANK": "0"}, 20, "asked"),
        ({"ACCELERATE_USE_CPU": "true"}, 1, "left alone"),
        ({}, 0.7, "left alone"),
    ],
)
def test_a_run_ends_with_its_launcher_and_outlives_a_shell(tmp_path, env, seconds, expected):
    told = tmp_path / "told"
    env = env | {"TOLD": str(told), "LISTENS_SECONDS": str(seconds)}
    launcher = start(f"CHILD = {CHILD!r}\n{LAUNCHER}", **env)
    try:
        child = int(launcher.stdout.readline())
        launcher.kill()
        launcher.wait()
        wait_until(lambda: not lives(child))
        assert told.read_text() == expected
    finally:
        launcher.kill()
        launcher.wait()
        launcher.stdout.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_a_launcher_that_died_before_the_run_began_is_noticed(tmp_path):
    """Reading the data takes a while, and the kernel only reports later deaths."""
    told = tmp_path / "told"
    late = CHILD.replace("request = ", "print(os.getpid(), flush=True); time.sleep(0.5); request = ", 1)
    env = {"LOCAL_RANK": "0", "TOLD": str(told), "LISTENS_SECONDS": "3"}
    launcher = start(f"CHILD = {late!r}\n{LAUNCHER}", **env)
    try:
        child = int(launcher.stdout.readline())
        launcher.kill()
        launcher.wait()
        wait_until(lambda: not lives(child))
        assert told.read_text() == "asked"
    finally:
        launcher.kill()
        launcher.wait()
        launcher.stdout.close()
