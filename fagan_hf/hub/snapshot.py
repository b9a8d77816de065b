"""The files of a model, in a local folder or in a repository on the Hub at one commit."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fagan_hf.hub import client

_AT_REVISION = re.compile(r"(?P<repo_id>[^@]+)@(?P<revision>[^@]+)")


@dataclass(frozen=True)
class Snapshot:
    """A model's files.

    Attributes:
        folder: The folder that contains them; for a repository, that of the commit in the cache.
        commit: Commit of the repository, 40 hexadecimal digits; ``None`` for a local folder.
    """

    folder: Path
    commit: str | None = None


def resolve(name: str | Path, *, allow_patterns: list[str], revision: str | None = None, **download: Any) -> Snapshot:
    """Find a model, and download the requested files if it is on the Hub.

    Args:
        name: A local folder, ``user/name`` or ``user/name@revision``. A local folder takes precedence.
        allow_patterns: Files to download from a repository; ignored for a local folder.
        revision: Branch, tag or commit on the Hub; equivalent to ``@revision`` in the name.
        **download: Other options of `fagan_hf.hub.client.download`.

    Raises:
        FileNotFoundError: There is no such folder, repository or revision; says what to try.
        PermissionError: The repository is gated, or the token is not valid for it; says what to try.
        ValueError: The name contains a revision other than ``revision``.
        OSError: It can't be written to the cache.
    """
    local = client.find_local(str(name))
    if local is not None and local.is_dir():
        return Snapshot(local)
    repo_id, revision = split_revision(str(name), revision)
    folder = client.download(repo_id, allow_patterns=allow_patterns, revision=revision, **download)
    return Snapshot(folder, folder.name)


def split_revision(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """Split ``user/name@revision`` into its two parts.

    Raises:
        ValueError: The name contains a revision other than ``revision``.
    """
    found = _AT_REVISION.fullmatch(name)
    if found is None:
        return name, revision
    if revision not in (None, found["revision"]):
        raise ValueError(f"{name!r} and revision {revision!r} are two different revisions; give only one")
    return found["repo_id"], found["revision"]
