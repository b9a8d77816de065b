"""Generate images with a model that a visitor names, in a process of its own.

What such a model costs can't be known from its config, and neither a download nor a layer can be canceled in any other
way than by ending their process.
"""

import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from fagan_hf.hub.snapshot import split_revision
from fagan_hf.requests import shown
from fagan_space import child
from fagan_space.border import MAX_SIDE
from fagan_space.files import picture_paths, request_folder
from fagan_space.limits import MAX_MODEL_BYTES, MAX_PIXELS, MAX_SECONDS, RENDER_BYTES, RENDER_SECONDS

logger = logging.getLogger(__name__)

_PROGRAM = Path(__file__).with_name("renderer.py")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@\w[\w.-]*(/\w[\w.-]*)*)?", re.ASCII)
_MAX_WORDS = 300  # of the other process's error [characters]


def render(name: str, seeds: Sequence[int], truncation: float) -> tuple[list[Path], int]:
    """Download a generator, generate an image for each seed, and delete it.

    Args:
        name: ``user/name`` or ``user/name@revision``; local paths are refused.
        seeds: Seeds.
        truncation: Factor on the latents.

    Returns:
        The images as PNGs, and their height and width [pixels].

    Raises:
        ValueError: The name is not a Hub id, or the model can't be used here; says why.
        FileNotFoundError: The model doesn't exist, is not public, or takes too much memory or time.
        GoneError: The client disconnected.
    """
    if not _HUB_ID.fullmatch(name) or ".." in name:
        raise ValueError(
            f"{shown(name)} is not a model on the Hub; use a name like 'user/fagan-celeba-64' or 'user/name@v1'"
        )
    repo_id, revision = split_revision(name)
    folder, paths = request_folder(), picture_paths(seeds)
    options = {"repo_id": repo_id, "revision": revision, "folder": str(folder), "paths": [str(path) for path in paths]}
    options |= {"seeds": list(seeds), "truncation": truncation, "most_bytes": MAX_MODEL_BYTES}
    options |= {"most_pixels": MAX_PIXELS, "longest_side": MAX_SIDE}
    try:
        # One core, and the others stay free. The Hub's other protocol has a cache of its own, outside of the folder.
        ended = child.run(
            _PROGRAM,
            options,
            seconds=MAX_SECONDS,
            cpu_seconds=RENDER_SECONDS,
            memory=RENDER_BYTES,
            file_size=MAX_MODEL_BYTES,
            HF_HUB_DISABLE_XET="1",
            OMP_NUM_THREADS="1",
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if ended.status == child.REFUSED:
        raise ValueError(f"{shown(name)} can't be used here: {ended.answer.decode()[:_MAX_WORDS]}")
    if ended.status:
        logger.warning("%s could not be used, status %s: %s", name, ended.status, ended.log)
        raise FileNotFoundError(
            f"{shown(name)} could not be downloaded from the Hub, or takes too much memory or time; does a public "
            "model of that name exist?"
        )
    return paths, int(ended.answer)
