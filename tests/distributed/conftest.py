"""Runs of several processes, started as users start them, and exposed to failures."""

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from fagan_hf.architectures.load import save_architecture
from tests.distributed.hosts import ADDRESSES, INTERFACE, Hosts, NotPermittedError
from tests.hub import forked
from tests.small import DISCRIMINATOR, GENERATOR

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
# Tests run side by side, so no launcher may count on the default port.
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--multi_gpu", "--main_process_port", "0"]
MARK = "DISTRIBUTED_TEST"  # in the environment of all processes that a test starts

# Code before and after the lines that a test adds to the training script.
HEAD = f"""
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from fagan_hf.training.command import main
import fagan_hf.training.distributed.processes
from fagan_hf.training.run import loop, outputs
from fagan_hf.training.run import session as session_module
from tests.short_runs import take_shortcuts

take_shortcuts()
RANK, HERE = int(os.environ.get("RANK", "0")), Path(__file__).parent

def before_step(do):
    take_step = loop.take_step
    def take_step_later(session):
        do(session)
        take_step(session)
    loop.take_step = take_step_later

def wait_for(name):
    deadline = time.monotonic() + 60
    while not (HERE / name).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
"""


class Command:
    """A command that runs, and all processes that it starts.

    Args:
        command: What to start. If this is our Python, it is forked from one that has imported torch, as are the
            processes that it starts if it is a launcher.
        log: File for its output.
        **environment: Added to this process's.
    """

    def __init__(self, command, log, **environment):
        self.log, self.mark = log, f"{os.getpid()}-{time.monotonic_ns()}"
        added = {"OMP_NUM_THREADS": "1", MARK: self.mark} | environment
        program, *arguments = map(str, command)
        network = None
        if program == "nsenter" and arguments[3] == sys.executable:  # as root, that is without other namespaces
            network = f"/proc/{arguments[1]}/ns/net"
            program, *arguments = arguments[3:]
        with log.open("w") as file:
            if program == sys.executable:
                self.process = forked.Popen(arguments, os.environ | added, ROOT, file, file, network=network)
            else:
                self.process = subprocess.Popen(
                    [program, *arguments],
                    env=os.environ | added,
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    @property
    def said(self):
        return self.log.read_text()

    def wait(self, seconds=90):
        """Return the exit status; fail if the command doesn't end in time or leaves a process behind."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {seconds} seconds:\n{self.said}")
        deadline = time.monotonic() + 5
        while self.members() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not self.members(), f"left behind by a launcher that has ended:\n{self.said}"
        return status

    def members(self):
        """Find the running processes."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                # A forked process has the environment of its parent, but writes into our log.
                writes_to = os.readlink(f"/proc/{process.pid}/fd/2")
                is_ours = writes_to == str(self.log) or process.environ().get(MARK) == self.mark
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def send(self, number):
        self.process.send_signal(number)

    def send_all(self, number):
        """Send a signal to all processes, as a terminal does."""
        os.killpg(self.process.pid, number)

    def kill(self):
        for process in self.members():
            with suppress(psutil.Error):
                process.kill()
        self.process.wait()


class Place:
    """A folder with images, in which runs are started.

    Args:
        folder: Where.
    """

    def __init__(self, folder):
        self.folder, self.started = folder, []
        (folder / "pictures").mkdir(parents=True)
        draw = np.random.default_rng(0)
        for index in range(20):
            pixels = draw.integers(0, 256, (12, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"pictures/{index:02d}.png")
        save_architecture(folder / "tiny.json", (GENERATOR, DISCRIMINATOR))

    def arguments(self, **changes):
        """Return the flags of a run of twelve steps."""
        fields = {"name": "try", "model": self.folder / "tiny.json", "dataset": self.folder / "pictures"}
        fields |= {"output_dir": self.folder / "runs", "batch_size": 4, "max_images": 48, "cpu_threads": 1}
        fields |= {"log_every_images": 8, "sample_every_images": 10**6, "checkpoint_every_images": 16}
        return [str(each) for name, value in (fields | changes).items() for each in (f"--{name}", value)]

    def script(self, lines="", name="changed.py"):
        """Write the training script, with additional lines."""
        path = self.folder / name
        path.write_text(f"{HEAD}\n{lines}\nif __name__ == '__main__':\n    main()\n")
        return path

    def start(self, command, **environment):
        log = self.folder / f"log-{len(self.started)}.txt"
        environment = {"FAGAN_CACHE": str(self.folder / "cache")} | environment
        self.started.append(Command(command, log, **environment))
        return self.started[-1]

    def start_alone(self, rank, script, *arguments, port, host=None, count=2):
        """Start one of the processes without a launcher, on a host or here."""
        command = [*(host.on(rank) if host else []), sys.executable, script, *arguments]
        world = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        world |= {"MASTER_ADDR": ADDRESSES[0] if host else "127.0.0.1", "MASTER_PORT": port}
        world |= {"GLOO_SOCKET_IFNAME": INTERFACE} if host else {}
        return self.start(command, **{name: str(value) for name, value in world.items()})

    def wait_for(self, *names, seconds=60):
        """Wait until the scripts have created files."""
        deadline = time.monotonic() + seconds
        while not all((self.folder / name).exists() for name in names):
            said = "\n".join(command.said for command in self.started)[-5000:]
            assert time.monotonic() < deadline, f"no {', '.join(names)} after {seconds} seconds:\n{said}"
            time.sleep(0.02)

    def close(self):
        for command in self.started:
            command.kill()


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    yield place
    place.close()


@contextmanager
def made_hosts():
    try:
        hosts = Hosts()
    except NotPermittedError as error:
        pytest.skip(f"TWO HOSTS ARE NOT TESTED HERE, for the kernel refuses network namespaces: {error}")
    try:
        yield hosts
    finally:
        hosts.close()


@pytest.fixture
def hosts():
    with made_hosts() as hosts:
        yield hosts


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
