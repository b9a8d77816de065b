"""The figures of the study, in one style, from its results."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.alphas_of.controls import CONTROLS
from benchmarks.alphas_of.trajectories import check_same_gates, spread
from benchmarks.alphas_of.worth import MEASURES, necessity, rank_correlation, sufficiency

Run = Mapping[str, Any]
Runs = Mapping[str, Run]
_LOOKS = {
    "distance": "mean distance, 1 if uniform",
    "entropy": "entropy, 1 if uniform",
    "same_part": "weight of the same part, 1 if uniform",
    "mirrored": "weight of the mirrored key, 1 if uniform",
}


def by_architecture(runs: Runs) -> list[dict[str, Run]]:
    """Group runs that have the same gates."""
    groups: dict[tuple[str, ...], dict[str, Run]] = {}
    for name, run in runs.items():
        groups.setdefault(tuple(sorted(run["history"]["gates"])), {})[name] = run
    return list(groups.values())


def draw_gates(runs: Runs) -> Figure:
    """Plot each gate over training, one panel for each: mean and range over the seeds of each arm.

    Raises:
        ValueError: There are no runs, or they are of different architectures.
    """
    names = check_same_gates({name: run["history"] for name, run in runs.items()})
    figure, panels = _panels(len(names), columns=4)
    arms = dict.fromkeys(run["arm"] for run in runs.values())
    for axes, gate in zip(panels, names, strict=True):
        for number, arm in enumerate(arms):
            histories = [run["history"] for run in runs.values() if run["arm"] == arm]
            images, mean, least, most = spread(histories, gate)
            color = f"C{number % 10}"
            images = images / 1000
            axes.plot(images, mean, color=color, linewidth=1.5, label=f"{arm} ({len(histories)})")
            axes.fill_between(images, least, most, color=color, alpha=0.15, linewidth=0)
        axes.axhline(0, color="black", linewidth=0.5)
        axes.set_title(gate, fontsize="small")
    panels[0].set_ylabel("gate")
    panels[0].legend(fontsize="x-small")
    figure.supxlabel("thousand images", fontsize="small")
    return figure


def draw_ends(runs: Runs) -> Figure:
    """Plot where the generator's gates end against where they begin, by run, and the distance of each arm.

    Raises:
        ValueError: There are no runs, or they are of different architectures.
    """
    names = check_same_gates({name: run["history"] for name, run in runs.items()})
    figure, (left, right) = _panels(2, columns=2)
    for number, gate in enumerate(name for name in names if name.startswith("generator.")):
        ends = [(run["history"]["gates"][gate][0], run["history"]["gates"][gate][-1]) for run in runs.values()]
        left.plot(*zip(*ends, strict=True), "o", color=f"C{number % 10}", label=gate.removeprefix("generator."))
    left.set(xlabel="gate at the first line of the history", ylabel="gate at the end")
    left.legend(fontsize="x-small")
    _draw_points(right, {arm: [run["worth"]["trained"] for run in of(runs, arm)] for arm in _arms(runs)})
    right.set_ylabel(_metric(runs))
    return figure


def draw_worth(runs: Runs) -> Figure:
    """Plot necessity and sufficiency of each gate against the size of its alpha, with the rank correlation.

    Raises:
        ValueError: No run has had its gates closed.
    """
    measured = {name: run["worth"] for name, run in runs.items() if "gates" in run["worth"]}
    if not measured:
        raise ValueError("none of the runs has had its gates closed, so their worth is not known")
    figure, panels = _panels(2, columns=2)
    for axes, measure, of_gate in zip(panels, MEASURES, (necessity, sufficiency), strict=True):
        for number, (name, run) in enumerate(measured.items()):
            points = [(abs(gate["alpha"]), of_gate(run, each)) for each, gate in run["gates"].items()]
            axes.plot(*zip(*points, strict=True), "o", color=f"C{number % 10}", label=name)
        found = rank_correlation(list(measured.values()), measure)
        rho = "undefined" if found.rho is None else f"{found.rho:+.2f}"
        axes.set_title(f"rank correlation {rho}, {found.n} gates of {len(measured)} runs", fontsize="small")
        axes.set(xlabel="size of alpha", ylabel=f"{measure} in {_metric(runs)}")
    panels[0].legend(fontsize="x-small")
    return figure


def draw_looks(runs: Runs) -> Figure:
    """Plot where the attention layers look, both networks' layers in order, a line for each run.

    Raises:
        ValueError: No run's attention has been measured, or they are of different architectures.
    """
    measured = {name: run["looks"] for name, run in runs.items() if "looks" in run}
    if not measured:
        raise ValueError("the attention of none of the runs has been measured")
    check_same_gates({name: runs[name]["history"] for name in measured})
    figure, panels = _panels(len(_LOOKS), columns=2)
    for axes, (what, label) in zip(panels, _LOOKS.items(), strict=True):
        for number, (name, networks) in enumerate(measured.items()):
            for network, style in (("generator", "o-"), ("discriminator", "s--")):
                points = [
                    (f"{network[0].upper()} {layer}", each[what])
                    for layer, each in networks[network].items()
                    if what in each
                ]
                if points:
                    axes.plot(
                        *zip(*points, strict=True),
                        style,
                        color=f"C{number % 10}",
                        label=name if style == "o-" else None,
                    )
        axes.axhline(1, color="black", linewidth=0.5)
        axes.tick_params(axis="x", labelrotation=60, labelsize="x-small")
        axes.set_ylabel(label, fontsize="small")
    panels[0].legend(fontsize="x-small")
    return figure


def draw_controls(runs: Runs) -> Figure:
    """Plot the distance with each control's weights, in trained models, and of models that were trained with them.

    Raises:
        ValueError: No run has been measured with other weights.
    """
    measured = [run for run in runs.values() if "controls" in run]
    if not measured:
        raise ValueError("none of the runs has been measured with other weights")
    trained = [arm for arm in ("flagship", *CONTROLS, "frozen_0") if arm in _arms(runs)]
    figure, panels = _panels(2 if trained else 1, columns=2 if trained else 1)
    own = {"own": [run["worth"]["trained"] for run in measured]}
    replaced = {control: [run["controls"][control] for run in measured] for control in CONTROLS}
    closed = {"gates at 0": [run["worth"]["closed"] for run in measured]}
    _draw_points(panels[0], own | replaced | closed)
    panels[0].set_title("weights replaced in trained models", fontsize="small")
    if trained:
        _draw_points(panels[1], {arm: [run["worth"]["trained"] for run in of(runs, arm)] for arm in trained})
        panels[1].set_title("trained with these weights", fontsize="small")
    for axes in panels:
        axes.set_ylabel(_metric(runs))
    return figure


def of(runs: Runs, arm: str) -> list[Run]:
    """Return the runs of an arm."""
    return [run for run in runs.values() if run["arm"] == arm]


def _arms(runs: Runs) -> list[str]:
    return list(dict.fromkeys(run["arm"] for run in runs.values()))


def _metric(runs: Runs) -> str:
    return next(iter(runs.values()))["worth"]["metric"]


def _draw_points(axes: Axes, values: Mapping[str, Sequence[float]]) -> None:
    """Draw a dot for each run, one column for each name."""
    for place, found in enumerate(values.values()):
        axes.plot([place] * len(found), found, "o", color=f"C{place % 10}", alpha=0.7)
    axes.set_xticks(range(len(values)), list(values), rotation=30, fontsize="x-small", ha="right")


def _panels(count: int, *, columns: int) -> tuple[Figure, list[Axes]]:
    rows = -(-count // columns)
    figure = Figure(figsize=(11 if columns > 1 else 6, 3.6 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.remove()
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels[:count]
