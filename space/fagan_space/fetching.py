"""Download a model that a visitor names, in a separate process: a download can't be canceled in any other way."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fagan_hf.hub.snapshot import split_revision
from fagan_space import child
from fagan_space.files import request_folder
from fagan_space.limits import FETCH_BYTES, FETCH_SECONDS, MAX_MODEL_BYTES

logger = logging.getLogger(__name__)

_PROGRAM = Path(__file__).with_name("fetcher.py")


@contextmanager
def fetched(name: str) -> Iterator[Path]:
    """Download a generator's config and weights, and delete them afterwards.

    Args:
        name: ``user/name`` or ``user/name@revision``, already checked.

    Yields:
        The folder of the two files.

    Raises:
        FileNotFoundError: The model doesn't exist, is not public, or can't be downloaded in time.
        ValueError: It is too large, or has no generator.
        GoneError: The client disconnected.
    """
    repo_id, revision = split_revision(name)
    folder = request_folder()
    options = {"repo_id": repo_id, "revision": revision, "folder": str(folder), "most_bytes": MAX_MODEL_BYTES}
    options |= {"seconds": FETCH_SECONDS, "memory": FETCH_BYTES}
    try:
        # The Hub's other protocol has a cache of its own, outside of the folder.
        ended = child.run(_PROGRAM, options, seconds=FETCH_SECONDS, HF_HUB_DISABLE_XET="1")
        if ended.status == child.REFUSED:
            raise ValueError(f"{name} can't be used here: {ended.answer.decode()}")
        if ended.status:
            logger.warning("%s could not be downloaded, status %s: %s", name, ended.status, ended.log)
            raise FileNotFoundError(
                f"{name} could not be downloaded from the Hub within {FETCH_SECONDS} seconds; does a public model of "
                "that name exist?"
            )
        yield Path(ended.answer.decode())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
