"""Chromium for the pages: which one, and how it is launched."""

import os
import shutil
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome")
# The first is needed to run Chromium as root; the others disable its network requests.
_FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]


def chromium() -> dict[str, Any]:
    """Return the launch options of Chromium."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    assert found, f"there is none of {', '.join(_NAMES)}; `make test-browser` installs it, or name yours by CHROMIUM"
    return {"executable_path": found, "args": _FLAGS}
