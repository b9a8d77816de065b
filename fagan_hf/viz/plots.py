"""Plots of a run's numbers, from the lines of its ``metrics.jsonl``. They need matplotlib, of the extra ``train``."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from fagan_hf.utils.files import replacing

Line = dict[str, float]
GATE_NAMES = (".alpha", ".gamma")
"""How the numbers end that are gates."""


def read_metrics(path: Path) -> list[Line]:
    """Read a ``metrics.jsonl``; a last line that was cut off by a crash is left out, a missing file has no lines.

    Raises:
        ValueError: A line before the last is none; says which.
    """
    if not path.exists():
        return []
    *whole, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    lines = []
    for number, line in enumerate(whole, 1):
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            if number == len(whole):  # a crash of the whole machine may leave anything there
                break
            raise ValueError(f"line {number} of {path} is no JSON ({error}); mend it, or remove the line") from error
    return lines


def plot_lines(
    path: Path, lines: Sequence[Line], names: Sequence[str], label: str, legend: Callable[[str], str]
) -> None:
    """Draw numbers over the images that were seen, as a PNG.

    Args:
        path: Where to; complete or not at all.
        lines: At least one, each with ``images``; a name that one lacks leaves a gap.
        names: Which numbers; those of a discriminator are dashed.
        label: What stands at the vertical axis.
        legend: Turns a name into what the legend calls it.

    Raises:
        ImportError: There is no matplotlib.
        ValueError: There are no lines.
    """
    # The plain classes instead of pyplot: no window, no global state, no backend to choose.
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f'plots need matplotlib ({error}); pip install "fagan-hf[train]"') from error

    if not lines:
        raise ValueError(f"there are no lines to draw {path} from; at least one is needed")
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    images = [line["images"] for line in lines]
    for name in names:
        style = "--" if name.startswith("discriminator") else "-"
        # A gap where a line lacks the number: no step before it had a finite one.
        axes.plot(images, [line.get(name, math.nan) for line in lines], style, label=legend(name), linewidth=1.5)
    axes.axhline(0, color="gray", linewidth=0.5)
    axes.set(xlabel="real images seen", ylabel=label, xlim=(0, max(images)))
    if names:
        # Below the axes, where no line can be behind it.
        figure.legend(loc="outside lower center", fontsize="small", ncols=3, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path, make_folder=True) as aside:
        figure.savefig(aside, format="png", dpi=110)


def plot_gates(path: Path, lines: Sequence[Line]) -> None:
    """Draw the gates of all layers over the images that were seen; arguments and errors are those of `plot_lines`."""
    names = [name for name in (lines[-1] if lines else ()) if name.endswith(GATE_NAMES)]
    plot_lines(path, lines, names, "gate (0: convolution only)", _gate_legend)


def _gate_legend(name: str) -> str:
    return name.replace(".layers.", " layer ").replace(".", " ")
