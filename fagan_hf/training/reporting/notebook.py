"""Show a run below its notebook cell: the newest losses, sample grid and loss curve, updated in place."""

import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image


class NotebookDisplay:
    """Shows new content in place of the previous content of the same kind.

    Args:
        ipython: The module ``IPython.display``.
    """

    def __init__(self, ipython: Any):
        self._ipython = ipython
        self._handles: dict[str, Any] = {}

    def show_line(self, name: str, line: Mapping[str, Any]) -> None:
        """Show the losses and the speed of a line of ``metrics.jsonl``."""
        names = "generator_loss", "discriminator_loss"
        losses = ", ".join(f"{each.replace('_', ' ')} {line[each]:.3f}" for each in names if each in line)
        speed = f"{line['images_per_second']:.0f} images/s"
        self._put("line", self._ipython.Pretty(f"{name}: {line['images']:,} images, {speed}, {losses}"))

    def show_grid(self, grid: Image.Image) -> None:
        """Show a grid of samples."""
        file = io.BytesIO()
        grid.save(file, format="PNG")
        self._put("grid", self._ipython.Image(data=file.getvalue()))

    def show_plot(self, path: Path) -> None:
        """Show a plot, if it has been drawn."""
        if path.is_file():
            self._put(path.name, self._ipython.Image(data=path.read_bytes()))

    def _put(self, what: str, content: Any) -> None:
        if what in self._handles:
            self._handles[what].update(content)
        else:
            self._handles[what] = self._ipython.display(content, display_id=True)


def find_display() -> NotebookDisplay | None:
    """Return a display for the notebook that this process runs; ``None`` in a terminal, including IPython's."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython import display

    return NotebookDisplay(display)
