"""Plot the curves of `benchmarks/quality.py`: a metric over training time, one line per arm.

python benchmarks/quality_plot.py              # benchmarks/results/quality.json -> docs/images/quality.png
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.quality import RESULTS, ROOT, SHOWN, beside_choices
from benchmarks.quality_arms import ARMS, CHOICES, RIVALS

PICTURE = ROOT / "docs/images/quality.png"


def mean_curve(runs: Sequence[Mapping[str, Any]], metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return minutes, mean, minimum and maximum over runs, for the time span that all of them cover."""
    curves = [
        ([point["seconds"] / 60 for point in run["curve"]], [point[metric] for point in run["curve"]]) for run in runs
    ]
    begin, end = max(minutes[0] for minutes, _ in curves), min(minutes[-1] for minutes, _ in curves)
    minutes = np.linspace(begin, end, 100)
    values = np.stack([np.interp(minutes, *curve) for curve in curves])
    return minutes, values.mean(0), values.min(0), values.max(0)


def draw(runs: Mapping[str, Mapping[str, Any]], metric: str) -> Figure:
    """Plot the baselines on the left, and the flagship with its ablations on the right."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    sides = (runs, RIVALS), (beside_choices(runs), ("flagship", *CHOICES))
    for axes, (shown, arms) in zip(panels, sides, strict=True):
        for arm in arms:
            of_arm = [run for run in shown.values() if run["arm"] == arm and run["curve"]]
            if not of_arm:
                continue
            minutes, mean, least, most = mean_curve(of_arm, metric)
            [line] = axes.plot(minutes, mean, label=ARMS[arm].about.partition(":")[0], linewidth=1.5)
            axes.fill_between(minutes, least, most, color=line.get_color(), alpha=0.15, linewidth=0)
        axes.set_xlabel("minutes of training")
        axes.legend(fontsize="small")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(metric)
    return figure


def main() -> None:
    """Plot the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--metric", choices=SHOWN, default="fd")
    parser.add_argument("--out", type=Path, default=PICTURE)
    options = parser.parse_args()
    runs = json.loads(options.results.read_text(encoding="utf-8"))["runs"]
    draw(runs, options.metric).savefig(options.out, dpi=110)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
