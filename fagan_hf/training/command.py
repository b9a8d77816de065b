"""The trainer as a command: exit statuses, and messages instead of tracebacks."""

import sys
from collections.abc import Sequence
from typing import NoReturn

from fagan_hf.utils.allocator import keep_freed_memory
from fagan_hf.utils.threads import yield_cores

yield_cores()  # before torch is imported

from fagan_hf.training.distributed.processes import OtherProcessError  # noqa: E402
from fagan_hf.training.flags import parse_recipe  # noqa: E402
from fagan_hf.training.recipe import Recipe  # noqa: E402
from fagan_hf.training.reporting.health import DivergedError  # noqa: E402
from fagan_hf.training.run.loop import train  # noqa: E402
from fagan_hf.training.run.session import setup  # noqa: E402
from fagan_hf.utils.redaction import redact  # noqa: E402

WRONG_INPUT = 2
FAILED = 1
DIVERGED = 3
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None, *, program: str = "train.py") -> None:
    """Read the recipe and train; errors that the user can fix end in a message instead of a traceback.

    Args:
        arguments: Flags; by default the process's own.
        program: Name of the program in messages.

    Raises:
        SystemExit: With one of the statuses above, unless the run finished, or saved and stopped on request.
    """
    keep_freed_memory()
    recipe = parse_recipe(arguments, program=program)
    try:
        _train(recipe, program)
    except OtherProcessError as error:
        _end(program, FAILED, str(error), error)
    except KeyboardInterrupt as error:  # before the first step, or after the last
        _end(program, INTERRUPTED, "interrupted", error)


def _train(recipe: Recipe, program: str) -> None:
    try:
        session = setup(recipe)
    except (ValueError, ImportError, OSError) as error:
        _end(program, WRONG_INPUT, str(error), error)
    try:
        train(session)
    except (ValueError, FileNotFoundError) as error:  # about the checkpoint or the model that the run starts from
        _end(program, WRONG_INPUT, str(error), error)
    except DivergedError as error:
        _end(program, DIVERGED, str(error) if session.is_main else "diverged, see the main process", error)
    except OSError as error:  # a full disk
        _end(program, FAILED, f"{error}\nRun the same command to resume from the newest checkpoint.", error)


def _end(program: str, status: int, message: str, error: BaseException) -> NoReturn:
    print(redact(f"{program}: error: {message}"), file=sys.stderr)
    raise SystemExit(status) from error
