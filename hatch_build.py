"""Part of building the wheel: include the live page, where `fagan_hf.hub.live_page` finds it, if it has been built."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class LivePageHook(BuildHookInterface):
    """Adds what `make live` wrote; without it the wheel has no page, which only `fagan-hf push --space` needs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the page's files, without the model that it shows in the clone."""
        page = Path(self.root, "space/live/dist")
        if not (page / "index.html").is_file():
            return
        for path in page.rglob("*"):
            name = path.relative_to(page).as_posix()
            if path.is_file() and not name.startswith("model/"):
                build_data["force_include"][str(path)] = f"fagan_hf/hub/live/{name}"
