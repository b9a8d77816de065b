"""Program that downloads one model under limits; started by `fagan_space.fetching`.

It prints the model's folder, or exits with status `REFUSED` and prints an error message. It imports nothing else of
this package, and no torch, to keep startup fast.
"""

import json
import sys
from contextlib import suppress

from fagan_hf.hub.client import download, download_size

REFUSED = 3
# The generator's files, in its subfolder or in the top folder.
_FILES = [f"{folder}{name}" for folder in ("generator/", "") for name in ("config.json", "model.safetensors")]


def limit(seconds: int, memory: int, file_size: int) -> None:
    """Have the system end this process when it exceeds its limits."""
    with suppress(ImportError, OSError, ValueError):  # Windows and macOS lack some of these limits
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))


def fetch(repo_id: str, revision: str | None, *, folder: str, most_bytes: int) -> str:
    """Download a generator into a folder.

    Returns:
        The folder of its commit.

    Raises:
        ValueError: There is none, or it is too large; the message is for the visitor.
        OSError: It can't be downloaded.
    """
    # Without our token, which would give visitors access to private models.
    size = download_size(repo_id, allow_patterns=_FILES, revision=revision, token=False)
    if size == 0:
        raise ValueError("it is not a fagan_hf model: it has no generator")
    if size > most_bytes:
        raise ValueError(f"its generator has {size:,} bytes; the limit is {most_bytes:,}")
    return str(download(repo_id, allow_patterns=_FILES, revision=revision, token=False, cache_dir=folder))


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    limit(options.pop("seconds"), options.pop("memory"), options["most_bytes"])
    try:
        answer, status = fetch(**options), 0
    except ValueError as error:
        answer, status = str(error), REFUSED
    sys.stdout.write(answer)
    sys.exit(status)
