"""Clients in processes of their own that need not import torch again: they are forked from one that has.

It has imported nothing that reads the Hub's environment variables, so each client has an environment of its own. This
module is imported there too, and must not import any such thing either.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path
from types import ModuleType

PRELOADED = ("torch", "numpy", "PIL.Image", "yaml", "jinja2", "safetensors.torch", "tests.hub.forked")


def run(arguments: list[str], env: dict[str, str], cwd: Path, log: Path, timeout: float):
    """Do what ``subprocess.run`` does with ``[sys.executable, *arguments]``, sooner."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    log.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=_main, args=(arguments, env, str(cwd), str(log)))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        process.join()
    out, err = ((log / name).read_text() for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(arguments, process.exitcode, out, err)


def _main(arguments: list[str], env: dict[str, str], cwd: str, log: str) -> None:
    assert "huggingface_hub" not in sys.modules, "it has read another environment"
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{log}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    try:
        _execute(arguments)
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _execute(arguments: list[str]) -> None:
    if arguments[0] == "-c":
        sys.argv, sys.path[:0] = ["-c", *arguments[2:]], [""]
        sys.modules["__main__"] = module = ModuleType("__main__")
        exec(compile(arguments[1], "<string>", "exec"), module.__dict__)
    else:
        sys.argv, sys.path[:0] = arguments, [str(Path(arguments[0]).parent)]
        runpy.run_path(arguments[0], run_name="__main__")
