"""Plot the curves of `benchmarks/quality.py`: a metric over work, one line per arm.

python benchmarks/quality_plot.py              # benchmarks/results/quality.json -> docs/images/quality.png
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.quality import RESULTS, ROOT
from benchmarks.quality_of.arms import ARMS, CHOICES, RIVALS
from benchmarks.quality_of.judging import SHOWN, of_arm
from fagan_hf.hub.repository import read_json
from fagan_hf.utils.suggest import suggest

PICTURE = ROOT / "docs/images/quality.png"


def mean_curve(
    runs: Sequence[Mapping[str, Any]], metric: str, ratio: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return work, mean, minimum and maximum over runs, for the span that all of them cover.

    Work is in the images that the flagship would train for meanwhile: images divided by the arm's relative speed.
    """
    curves = [
        ([point["images"] / ratio for point in run["curve"]], [point[metric] for point in run["curve"]]) for run in runs
    ]
    begin, end = max(work[0] for work, _ in curves), min(work[-1] for work, _ in curves)
    work = np.linspace(begin, end, 100)
    values = np.stack([np.interp(work, *curve) for curve in curves])
    return work, values.mean(0), values.min(0), values.max(0)


def draw(comparison: Mapping[str, Any], metric: str) -> Figure:
    """Plot the rivals on the left, and the flagship with its ablations on the right."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, arms in zip(panels, (RIVALS, ("flagship", *CHOICES)), strict=True):
        for arm in arms:
            runs = [run for run in of_arm(comparison["runs"], arm) if run["curve"]]
            if not runs:
                continue
            work, mean, least, most = mean_curve(runs, metric, comparison["speeds"][arm]["ratio"])
            [line] = axes.plot(work, mean, label=ARMS[arm].about.partition(":")[0], linewidth=1.5)
            axes.fill_between(work, least, most, color=line.get_color(), alpha=0.15, linewidth=0)
        axes.set_xlabel("work [images of the flagship]")
        axes.legend(fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(metric)
    return figure


def main() -> None:
    """Plot the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--comparison", default="avatars-32", help="images and size (default: avatars-32)")
    parser.add_argument("--metric", choices=SHOWN, default="fd")
    parser.add_argument("--out", type=Path, default=PICTURE)
    options = parser.parse_args()
    results = read_json(options.results)
    if options.comparison not in results:
        parser.error(
            f"{options.results} has no comparison {options.comparison!r}; {suggest(options.comparison, results)}"
        )
    draw(results[options.comparison], options.metric).savefig(options.out, dpi=110)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
