"""Train: ``accelerate launch training/train.py --config training/recipes/avatars-32.yaml [--field value ...]``."""

import os
import sys
from pathlib import Path
from typing import NoReturn

# torch's threads spin while they wait for each other (GNU OpenMP, on Linux). Where another program wants a core too,
# they hold it for nothing and a run falls to a fraction of its speed. For a fifth of a millisecond it pays: the next
# work comes sooner. Read when torch is imported, so it stands before that.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# `accelerate launch` puts this file's folder on the path, not the repository's root that the imports start from.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fagan_hf.training.distributed.processes import OtherProcessError
from fagan_hf.training.flags import parse_recipe
from fagan_hf.training.recipe import Recipe
from fagan_hf.training.reporting.health import DivergedError
from fagan_hf.training.run.loop import Run
from fagan_hf.utils.allocator import keep_freed_memory
from fagan_hf.utils.redaction import redact

WRONG_INPUT = 2
FAILED = 1
DIVERGED = 3
INTERRUPTED = 130


def main() -> None:
    """Read the recipe, train, and end with a message instead of a traceback where the cause is the user's to mend."""
    keep_freed_memory()
    recipe = parse_recipe()
    try:
        _train(recipe)
    except OtherProcessError as error:
        _end(FAILED, str(error), error)
    except KeyboardInterrupt as error:  # before the first step, or after the last
        _end(INTERRUPTED, "interrupted", error)


def _train(recipe: Recipe) -> None:
    try:
        run = Run(recipe)
    except (ValueError, ImportError, OSError) as error:
        _end(WRONG_INPUT, str(error), error)
    try:
        run.train()
    except (ValueError, FileNotFoundError) as error:  # of the checkpoint or the model that it starts from
        _end(WRONG_INPUT, str(error), error)
    except DivergedError as error:
        _end(DIVERGED, str(error) if run.is_main else "diverged, see the main process", error)
    except OSError as error:  # a full disk
        _end(FAILED, f"{error}\nThe same command goes on from the newest checkpoint.", error)


def _end(status: int, message: str, error: BaseException) -> NoReturn:
    print(redact(f"train.py: error: {message}"), file=sys.stderr)
    raise SystemExit(status) from error


if __name__ == "__main__":
    main()
