"""Model repositories: their files, their card, and how they get to the Hub and back. Imports no networks."""

from typing import TYPE_CHECKING

from fagan_hf.utils.on_demand import on_demand

if TYPE_CHECKING:
    from fagan_hf.hub.card import write_card
    from fagan_hf.hub.client import (
        TemporaryHubError,
        download,
        download_size,
        find_local,
        list_files,
        make_repository,
        push,
    )
    from fagan_hf.hub.measurements import Measurement, read_measurements
    from fagan_hf.hub.publishing import publish
    from fagan_hf.hub.repository import save_repository
    from fagan_hf.hub.snapshot import Snapshot, resolve

__all__ = [
    "Measurement",
    "Snapshot",
    "TemporaryHubError",
    "download",
    "download_size",
    "find_local",
    "list_files",
    "make_repository",
    "publish",
    "push",
    "read_measurements",
    "resolve",
    "save_repository",
    "write_card",
]

__getattr__ = on_demand(
    __name__,
    {
        "client": [
            "TemporaryHubError",
            "download",
            "download_size",
            "find_local",
            "list_files",
            "make_repository",
            "push",
        ],
        "card": ["write_card"],
        "publishing": ["publish"],
        "repository": ["save_repository"],
        "snapshot": ["Snapshot", "resolve"],
        "measurements": ["Measurement", "read_measurements"],
    },
)
