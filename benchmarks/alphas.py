"""What do trained alphas reveal? Train the arms that are missing, measure all of them, and draw every figure.

    python benchmarks/alphas.py --quick                                   # tiny runs, into runs/alphas/quick
    python benchmarks/alphas.py --arms flagship gates_0 --seeds 3         # avatars at 32x32
    python benchmarks/alphas.py --data emoji --place path/to/assets ...   # other images
    python benchmarks/alphas.py --models model_cards/fagan-avatars-64     # a trained model, with its own images
    python benchmarks/alphas.py --figures                                 # draw only

Results are written after every run, and runs that are in the results file are not repeated, so days can share the work.
A stopped run resumes. If a run in the file has a different network or recipe, the command refuses to start.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.alphas_of.figures import (
    by_architecture,
    draw_controls,
    draw_ends,
    draw_gates,
    draw_looks,
    draw_worth,
    of,
)
from benchmarks.alphas_of.measuring import measure
from benchmarks.alphas_of.runs import QUICK_SIZE, SHARED, Study, check_arm
from benchmarks.alphas_of.trajectories import check_same_gates, sign_agreement
from benchmarks.alphas_of.worth import MEASURES, rank_correlation
from benchmarks.quality import IMAGES
from benchmarks.quality_of.arms import FLAGSHIPS
from fagan_hf.data.prepare import prepare_images
from fagan_hf.hub.repository import read_json
from fagan_hf.training.flags import build_recipe
from fagan_hf.training.run import loop
from fagan_hf.training.run.facts import command, commit, hardware, versions
from fagan_hf.training.run.session import setup
from fagan_hf.utils.files import replacing

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/alphas.json"
FIGURES = ROOT / "docs/images/alphas"
ARMS = ("flagship", "gates_0", "gates_0.1", "gates_0.5", "frozen_0", "frozen_1", "uniform", "random", "local")
_QUICK_ARMS = ("flagship", "gates_0.5", "frozen_0", "frozen_1", "uniform", "random", "local", "without_layers.3")
_QUICK = {"images": 256, "num_images": 32}
_FEATURES = "effnetlite0"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny networks and runs, which show only that it works")
    parser.add_argument("--data", default="avatars", help="name of the images in results and run folders")
    parser.add_argument("--place", type=Path, help="folder or archive of the images, unless they are avatars")
    parser.add_argument("--size", type=int, choices=FLAGSHIPS, default=32, help="height and width [pixels]")
    parser.add_argument("--arms", nargs="*", help=f"default: {' '.join(ARMS)}; also classic, and without_LAYER")
    parser.add_argument("--seeds", type=int, help="number of runs of each arm (default: 3)")
    parser.add_argument("--images", type=int, help="images that each run trains for (default: as in quality.py)")
    parser.add_argument("--num-images", type=int, help="images of each evaluation (default: 2,048)")
    parser.add_argument("--models", nargs="*", default=[], type=Path, help="folders of trained models; trains nothing")
    parser.add_argument(
        "--num-avatars", type=int, help="real avatars that --models are compared with (default: theirs)"
    )
    parser.add_argument("--figures", action="store_true", help="only draw figures of the results")
    parser.add_argument("--output-dir", type=Path, help="run folders (default: runs/quality, to share runs with it)")
    parser.add_argument("--results", type=Path, help="default: benchmarks/results/alphas.json")
    parser.add_argument("--out", type=Path, help="folder of the figures (default: docs/images/alphas)")
    options = parser.parse_args(arguments)
    if (options.data == "avatars") != (options.place is None):
        parser.error("--data and --place belong together: name your images, or leave out both for avatars")
    if options.quick:
        quick = Path("runs/alphas/quick")
        options.size = QUICK_SIZE
        defaults = {"arms": _QUICK_ARMS, "seeds": 2, **_QUICK, "output_dir": quick}
        defaults |= {"results": quick / "alphas.json", "out": quick / "figures"}
    else:
        defaults = {"arms": ARMS, "seeds": 3, "images": IMAGES[options.size], "num_images": 2048}
        defaults |= {"output_dir": Path("runs/quality"), "results": RESULTS, "out": FIGURES}
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.models or options.figures:
        options.arms = []
    try:
        for arm in options.arms:
            check_arm(arm)
    except ValueError as error:
        parser.error(str(error))
    return options


def main(arguments: Sequence[str] | None = None, features: Any = _FEATURES) -> None:
    """Train and measure what is missing, and draw the figures."""
    options = parse(arguments)
    torch.set_num_threads(1)
    results: dict[str, Any] = read_json(options.results)
    study = Study(options.data, options.place, options.size, options.images, options.output_dir)
    todo = [
        (arm, seed)
        for seed in range(options.seeds)
        for arm in options.arms
        if not (options.quick and seed and arm != "flagship")
    ]
    for arm, seed in todo:
        recipe = study.recipe(arm, seed)
        name, identity = f"{study.name}/{recipe.name}", study.identity(arm, recipe)
        if name in results:
            if results[name]["identity"] != identity:
                sys.exit(
                    f"{options.results} has a run {name} whose network or recipe has changed since; remove it, or give "
                    "another --results"
                )
            continue
        session = setup(recipe)
        loop.train(session)
        if session.stop_request.is_made:
            sys.exit(f"{name} stopped after {session.images_seen:,} images; give the same command to resume")
        source = recipe.source()
        found = measure(
            recipe.run_dir,
            source,
            prepare_images(source, progress=False),
            num_images=options.num_images,
            features=features,
            is_thorough=arm in SHARED,
        )
        _add(results, name, {"arm": arm, "seed": seed, "identity": identity, **found}, options.results)
    for folder in options.models:
        name = f"models/{folder.name}"
        if name in results:
            continue
        changes = {} if options.num_avatars is None else {"num_avatars": options.num_avatars}
        recipe = build_recipe(folder / "recipe.yaml", **changes)
        source = recipe.source()
        images = prepare_images(source, progress=False)
        found = measure(folder, source, images, num_images=options.num_images, features=features)
        facts = {"arm": folder.name, "seed": recipe.seed, "num_avatars": recipe.num_avatars}
        _add(results, name, facts | found, options.results)
    draw(results, options.out)
    print(summary(results))


def _add(results: dict[str, Any], name: str, run: Mapping[str, Any], path: Path) -> None:
    """Add a run to the results on disk, which another process may have written to meanwhile."""
    results |= read_json(path)
    facts = {"hardware": hardware("cpu", 1), "versions": versions(), "command": command(), **commit()}
    results[name] = {**run, **facts}
    write_results(results, path)
    print(f"{name}: {run['worth']['metric']} {run['worth']['trained']}", flush=True)


def write_results(results: Mapping[str, Any], path: Path) -> None:
    """Write results as JSON, a line for each run, atomically."""
    lines = (f"{json.dumps(name)}: {json.dumps(run, separators=(',', ':'))}" for name, run in sorted(results.items()))
    with replacing(path, make_folder=True) as aside:
        aside.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def groups(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the runs by images, size and architecture."""
    found = {}
    for place in dict.fromkeys(name.rpartition("/")[0] for name in results):
        runs = {name.rpartition("/")[2]: run for name, run in results.items() if name.startswith(f"{place}/")}
        for each in by_architecture(runs):
            first = next(iter(each.values()))["arm"]
            found[f"{place.replace('/', '-')}-{first}" if len(by_architecture(runs)) > 1 else place] = each
    return found


def draw(results: Mapping[str, Any], out: Path) -> list[Path]:
    """Draw all figures for which there are numbers; return their files.

    Raises:
        ValueError: There are no results.
    """
    if not results:
        raise ValueError("there are no results to draw; run without --figures first")
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for place, runs in groups(results).items():
        figures: dict[str, Callable[[Mapping[str, Any]], Any]] = {"gates": draw_gates, "ends": draw_ends}
        if any("looks" in run for run in runs.values()):
            figures |= {"worth": draw_worth, "looks": draw_looks, "controls": draw_controls}
        for kind, make in figures.items():
            files.append(out / f"{kind}-{place}.png")
            make(runs).savefig(files[-1], dpi=110)
            print(f"wrote {files[-1]}")
    return files


def summary(results: Mapping[str, Any]) -> str:
    """Say what the numbers are, with n: signs of gates over seeds, and rank correlations."""
    lines = []
    for place, runs in groups(results).items():
        for arm in dict.fromkeys(run["arm"] for run in runs.values()):
            histories = {name: run["history"] for name, run in runs.items() if run["arm"] == arm}
            agreed = [sign_agreement(list(histories.values()), gate) for gate in check_same_gates(histories)]
            same = sum(count == seeds for count, seeds in agreed)
            if len(histories) > 1:
                lines.append(
                    f"{place}, {arm}: {same} of {len(agreed)} gates have the same sign in {len(histories)} runs"
                )
            measured = [run["worth"] for run in of(runs, arm) if "gates" in run["worth"]]
            for measure_name in MEASURES if measured else ():
                found = rank_correlation(measured, measure_name)
                rho = "undefined" if found.rho is None else f"{found.rho:+.2f}, p = {found.p:.2g}"
                lines.append(f"{place}, {arm}: rank correlation of |alpha| and {measure_name} {rho}, n = {found.n}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
