"""Plots of a run's metrics, from its ``metrics.jsonl``. They need matplotlib, from the extra ``train``."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from fagan_hf.utils.files import replacing
from fagan_hf.utils.json_text import parse_json

Line = dict[str, float]
GATE_NAMES = (".alpha", ".gamma")
"""Suffixes of the names of gates."""


def read_metrics(path: Path) -> list[Line]:
    """Read a ``metrics.jsonl``; a last line truncated by a crash is ignored, a missing file has no lines.

    Raises:
        ValueError: A line before the last is invalid; says which.
    """
    if not path.exists():
        return []
    *whole, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    lines = []
    for number, line in enumerate(whole, 1):
        try:
            lines.append(parse_json(line))
        except ValueError as error:
            if number == len(whole):  # a crash of the machine may leave garbage there
                break
            raise ValueError(f"line {number} of {path} is not valid JSON ({error}); fix or remove it") from error
    return lines


def plot_lines(
    path: Path, lines: Sequence[Line], names: Sequence[str], label: str, legend: Callable[[str], str]
) -> None:
    """Plot metrics over the images seen, as a PNG.

    Args:
        path: Target file, written atomically.
        lines: At least one, each with ``images``; a missing metric leaves a gap.
        names: Metrics to plot; those of a discriminator are dashed.
        label: Label of the vertical axis.
        legend: Converts a name to its text in the legend.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: There are no lines.
    """
    # The plain classes instead of pyplot: no window, no global state, no backend to choose.
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f'plots need matplotlib ({error}); pip install "fagan-hf[train]"') from error

    if not lines:
        raise ValueError(f"there are no lines to plot in {path}; at least one is needed")
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    images = [line["images"] for line in lines]
    for name in names:
        style = "--" if name.startswith("discriminator") else "-"
        # A gap where a line lacks the metric, because no step had a finite value.
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
    """Plot the gates of all layers over the images seen; arguments and errors are those of `plot_lines`."""
    names = [name for name in (lines[-1] if lines else ()) if name.endswith(GATE_NAMES)]
    plot_lines(path, lines, names, "gate (0: convolution only)", _gate_legend)


def _gate_legend(name: str) -> str:
    return name.replace(".layers.", " layer ").replace(".", " ")
