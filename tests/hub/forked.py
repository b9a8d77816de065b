"""Processes that don't have to import torch again, because they are forked from one that has.

The parent has imported nothing that reads the Hub's environment variables, so each child can have its own. Otherwise
children behave like newly started processes: each leads a session, and runs the exit handlers at its end. The processes
that torchrun and accelerate start are forked, too. In /proc they all have the environment of the parent.
"""

import atexit
import ctypes
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, Any

# What takes long to import in trainings and clients, in diffusers (from torch._dynamo on), in Gradio (from pandas on).
PRELOADED = (
    "torch", "torch.distributed.launcher.api", "numpy", "PIL.Image", "yaml", "jinja2", "safetensors.torch",
    "matplotlib.backends.backend_agg", "matplotlib.figure", "jsonargparse", "httpx2", "httpcore2", "psutil",
    "torch._dynamo", "torch._inductor", "torch.onnx", "scipy.stats", "scipy.ndimage", "requests",
    "pandas", "pyarrow", "pydantic", "fastapi", "uvicorn", "httpx", "rich.console", "IPython",
)  # fmt: skip
LAUNCHERS = "torch.distributed.run", "accelerate.commands.launch"


class Popen:
    """A faster ``subprocess.Popen([sys.executable, *arguments], start_new_session=True)``, as far as tests need it.

    Args:
        arguments: A script, ``-c`` and code, or ``-m`` and a module; then its arguments.
        env: The whole environment.
        cwd: Folder to start in.
        stdout: Where the output goes.
        stderr: Where the errors go.
        stdin: Where the input comes from, if there is any.
        network: A network namespace to run in, as a path in /proc.
    """

    def __init__(
        self,
        arguments: list[str],
        env: dict[str, str],
        cwd: Path,
        stdout: IO[Any],
        stderr: IO[Any],
        stdin: IO[Any] | None = None,
        network: str | None = None,
    ):
        self.args, self.returncode = arguments, None
        files = [each.fileno() for each in (stdout, stderr, stdin) if each]
        self.pid: int = _ask({"arguments": arguments, "env": env, "cwd": str(cwd), "network": network}, files)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float = 120.0) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def popen(command: list[str], env: dict[str, str], cwd: Path, stdout: IO[Any], stderr: IO[Any] | int) -> Popen:
    """Take the place of ``subprocess.Popen`` in a module under test; the command starts with our Python."""
    return Popen([*map(str, command[1:])], env, cwd, stdout, stdout if isinstance(stderr, int) else stderr)


def run(arguments: list[str], env: dict[str, str], cwd: Path, log: Path, timeout: float):
    """Do what ``subprocess.run`` does with ``[sys.executable, *arguments]``, but faster."""
    log.mkdir(parents=True, exist_ok=True)
    with (log / "stdout").open("wb") as out, (log / "stderr").open("wb") as err:
        process = Popen(arguments, env, cwd, out, err)
    try:
        process.wait(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(
        arguments, process.wait(), (log / "stdout").read_text(), (log / "stderr").read_text()
    )


def python(code: str) -> str:
    """Run code; return what it prints."""
    with tempfile.TemporaryDirectory() as log:
        done = run(["-c", code], {**os.environ}, Path.cwd(), Path(log), timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


_parent: tuple[subprocess.Popen[bytes], socket.socket] | None = None
_one_at_a_time = threading.Lock()


def _ask(request: dict[str, Any], files: Sequence[int] = ()) -> Any:
    """Send a request to the process that has imported torch, which is started on first use."""
    with _one_at_a_time:  # otherwise threads of a test would get each other's answers
        return _ask_alone(request, files)


def _ask_alone(request: dict[str, Any], files: Sequence[int]) -> Any:
    global _parent
    if _parent is None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-B", __file__, str(theirs.fileno())],
                env=os.environ | {"OMP_NUM_THREADS": "1"},  # forking is only safe without threads
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        _parent = process, ours
        atexit.register(_end)
    connection = _parent[1]
    socket.send_fds(connection, [json.dumps(request).encode()], files)
    answer = connection.recv(100)
    assert answer, "the process that others are forked from has ended"
    return json.loads(answer)


def _end() -> None:
    process, connection = _parent
    connection.close()
    process.wait()


def _serve(connection: socket.socket) -> dict[str, Any]:
    """Serve requests; in a forked process, return what to run."""
    while True:
        message, files, *_ = socket.recv_fds(connection, 1 << 20, 3)
        if not message:
            sys.exit()
        request = json.loads(message)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                connection.close()
                os.setsid()
                for number, file in zip((1, 2, 0), files, strict=False):
                    os.dup2(file, number)
            for file in files:
                os.close(file)
            if not answer:
                return request
        connection.send(json.dumps(answer).encode())


class _Spares:
    """Children of a launcher, forked before it has threads; each waits until it is told what to be.

    Args:
        count: How many to fork. A launcher that needs more starts them in the usual way.
    """

    def __init__(self, count: int):
        self.waiting: list[tuple[int, socket.socket]] = []
        for _ in range(count):
            ours, theirs = socket.socketpair()
            if pid := os.fork():
                theirs.close()
                self.waiting.append((pid, ours))
                continue
            for connection in (ours, *(each for _, each in self.waiting)):
                connection.close()
            os.setsid()
            with theirs, theirs.makefile() as lines:
                line = lines.readline()
            if not line:  # the launcher has ended
                os._exit(0)
            _become(**json.loads(line))
            sys.exit()

    def popen(self, args: Sequence[str], env: dict[str, str], **options: Any) -> subprocess.Popen[Any]:
        """Do what ``subprocess.Popen`` does for a launcher."""
        if not self.waiting or args[0] != sys.executable or any(options.get(each) for each in ("stdout", "stderr")):
            return subprocess.Popen(args, env=env, **options)
        pid, connection = self.waiting.pop(0)
        arguments = [*args[1:]]
        if arguments[0] == "-u":
            env, arguments = env | {"PYTHONUNBUFFERED": "1"}, arguments[1:]

        class Spare(subprocess.Popen):
            def _execute_child(self, *_: Any) -> None:
                self.pid, self._child_created = pid, True

        process = Spare(args)
        with connection:
            connection.sendall(json.dumps({"arguments": arguments, "env": env, "cwd": os.getcwd()}).encode() + b"\n")
        return process


def _become(arguments: list[str], env: dict[str, str], cwd: str, network: str | None = None) -> None:
    if network:
        with open(network) as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0):
                raise OSError(ctypes.get_errno(), f"setns to {network} failed")
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    tempfile.tempdir = None  # it may have been looked up in the parent's environment
    if "RANK" in env:
        Path("/proc/self/comm").write_text(f"rank {env['RANK']}")
    if "PYTHONUNBUFFERED" in env:
        sys.stdout.reconfigure(write_through=True)
    what, *rest = arguments
    paths = env.get("PYTHONPATH", "").split(os.pathsep) if env.get("PYTHONPATH") else []
    if what == "-c":
        sys.argv, sys.path[:1] = ["-c", *rest[1:]], ["", *paths]
        sys.modules["__main__"] = module = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), module.__dict__)
    elif what == "-m":
        sys.argv, sys.path[:1] = rest, [cwd, *paths]
        if rest[0] in LAUNCHERS:
            handler = import_module("torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler")
            vars(handler)["Popen"] = _Spares(4 if "--max-restarts" in rest else 2).popen
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[:1] = arguments, [str(Path(what).parent), *paths]
        runpy.run_path(what, run_name="__main__")


if __name__ == "__main__":
    gc.disable()  # it would scan all modules again and again
    for name in PRELOADED:
        import_module(name)
    gc.freeze()
    gc.enable()
    assert "huggingface_hub" not in sys.modules, "it has read the environment"
    _become(**_serve(socket.socket(fileno=int(sys.argv[1]))))
