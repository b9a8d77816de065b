"""What is a choice worth? Train arms with equal work, and compare their images.

    python benchmarks/quality.py --face-network path/to/package/model               # avatars at 32x32, three seeds
    python benchmarks/quality.py --data emoji --place path/to/assets --size 64 ...  # other images
    python benchmarks/quality.py --arms flagship hinge --seeds 1 --images 4096 --results /tmp/try.json ...

The arms have the same number of parameters within 10 %, the same images and equal work: the flagship trains for a
fixed number of images, the others for as many as they manage meanwhile, by speeds that are measured first, in turns, on
one thread. So a run gives the same weights to the bit whatever else the machine does, and runs can be spread over days.
Each finished generator is evaluated with two networks' features: EfficientNet-Lite0, which recipes were tuned with, and
a face network, which none was; those of the rivals also with all gates at 0 and at 1.

Results are written after every run, with hardware and versions. Runs in the results file are not repeated; if one has a
different network or recipe, the command refuses to start. Each seed is run for all arms before the next one.
"""

import argparse
import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from benchmarks.quality_of.arms import ARMS, CHOICES, FLAGSHIPS, RIVALS, architecture_of, identity_of, recipe_of
from benchmarks.quality_of.arms import parameters as count
from benchmarks.quality_of.face_features import face_features
from benchmarks.quality_of.judging import SHOWN, distance, table
from benchmarks.quality_of.work import ROUNDS, Speed, images_of, relative_speeds
from fagan_hf import Generator
from fagan_hf.architectures.load import save_architecture
from fagan_hf.data.prepare import prepare_images
from fagan_hf.hub.repository import HISTORY, read_json, weights_hash, write_json
from fagan_hf.layers import gates, override_alpha
from fagan_hf.metrics import evaluate
from fagan_hf.metrics.features import FeatureExtractor, build_features
from fagan_hf.training.flags import build_recipe
from fagan_hf.training.recipe import Recipe
from fagan_hf.training.run.facts import command, commit, hardware, versions
from fagan_hf.utils.allocator import keep_freed_memory
from fagan_hf.utils.files import replacing
from fagan_hf.viz.plots import read_metrics

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/quality.json"
IMAGES = {32: 57_472, 64: 28_672}
"""Images that the flagship trains for, by image size: 10 to 20 minutes at 32x32, on one thread."""
NUM_IMAGES = 2048
_EVALUATIONS = 4  # of a run, for its curve


class Comparison:
    """Arms on the same images, at the same size, with their networks in files.

    Args:
        options: See `parse`.
    """

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.name = f"{options.data}-{options.size}"
        self.dataset = "avatars" if options.place is None else str(options.place.expanduser().resolve())
        self.folder = options.output_dir.resolve() / self.name
        self.identities = {arm: identity_of(arm, options.size, self.dataset) for arm in options.arms}
        self.models = {arm: self.folder / f"{arm}.json" for arm in ("flagship", *options.arms)}
        for arm, file in self.models.items():
            with replacing(file, make_folder=True) as path:
                save_architecture(path, architecture_of(arm, options.size))

    def recipe(self, arm: str, seed: int, images: int) -> Recipe:
        """Return the recipe of an arm's run."""
        fields = recipe_of(arm, self.options.size, self.dataset)
        fields |= {
            "name": f"{arm}-{seed}",
            "model": str(self.models[arm]),
            "seed": seed,
            "output_dir": str(self.folder),
        }
        fields |= {"cpu_threads": 1, "mixed_precision": "no", "max_images": images, "snapshot_bytes": 0}
        fields |= {"eval_every_images": -(-images // _EVALUATIONS), "eval_num_images": NUM_IMAGES}
        fields |= {"log_every_images": 1024, "sample_every_images": 16384, "checkpoint_every_images": 4096}
        return build_recipe(**fields)

    def train(self, recipe: Recipe) -> Path:
        """Train one run to its end in a process of its own, resuming it if necessary; return its folder."""
        file = self.folder / f"{recipe.name}.yaml"
        file.write_text(recipe.to_yaml(), encoding="utf-8")
        with (self.folder / f"{recipe.name}.log").open("a") as log:
            subprocess.run(
                [sys.executable, "training/train.py", "--config", str(file)],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=True,
            )
        return recipe.run_dir


def measure(recipe: Recipe, features: list[FeatureExtractor], *, is_swept: bool) -> dict[str, Any]:
    """Evaluate a finished run's generator, as trained and, if ``is_swept``, with all gates at 0 and at 1.

    Raises:
        KeyboardInterrupt: The run was stopped before its end.
    """
    folder = recipe.run_dir
    lines = read_metrics(folder / HISTORY)
    if lines[-1]["images"] < recipe.max_images:
        raise KeyboardInterrupt(f"{recipe.name} stopped after {lines[-1]['images']:,} of {recipe.max_images:,} images")
    generator = Generator.from_pretrained(folder)
    images = prepare_images(recipe.source(), progress=False)

    def numbers(alpha: float | None) -> dict[str, dict[str, float]]:
        with nullcontext() if alpha is None else override_alpha(generator, alpha):
            found = {
                each.name: evaluate(generator, images, num_images=NUM_IMAGES, features=each, progress=False).metrics()
                for each in features
            }
        return {name: {each.kind: each.value for each in metrics} for name, metrics in found.items()}

    measured: dict[str, Any] = {"metrics": numbers(None)}
    if gates(generator):
        if is_swept:
            measured["gates_at_0"], measured["gates_at_1"] = numbers(0.0), numbers(1.0)
        measured["gates"] = {name: round(gate.item(), 4) for name, gate in gates(generator).items()}
    memory = [line["peak_memory_mb"] for line in itertools.takewhile(lambda line: not _curve_point(line), lines)]
    return measured | {
        "ended": datetime.now(UTC).isoformat(timespec="minutes"),
        "images": lines[-1]["images"],
        "seconds": lines[-1]["seconds"],
        "peak_memory_mb": max(memory, default=None),  # before the first evaluation, which takes more
        "weights": weights_hash(folder),
        "curve": [{"images": line["images"], **point} for line in lines if (point := _curve_point(line))],
    }


def _curve_point(line: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of an evaluation during the run."""
    parts = ((key.partition("_")[0], value) for key, value in line.items() if "_effnetlite0" in key)
    return {name: value for name, value in parts if name in SHOWN}


def speeds_of(comparison: Comparison, known: dict[str, Any]) -> dict[str, Any]:
    """Measure the speeds that are not known yet, each against the flagship's; print them."""
    options = comparison.options
    flagship = identity_of("flagship", options.size, comparison.dataset)
    identities = {arm: f"{comparison.identities[arm]} to {flagship}" for arm in options.arms}
    unknown = [arm for arm in options.arms if known.get(arm, {}).get("identity") != identities[arm]]
    if not unknown:
        return known
    recipes = {arm: comparison.recipe(arm, 0, options.images) for arm in dict.fromkeys(("flagship", *unknown))}
    found = relative_speeds(recipes, "flagship", rounds=options.rounds)
    for arm in unknown:
        print(f"{arm}: {found[arm].ratio:.2f} times the flagship's speed", flush=True)
    return known | {arm: {"identity": identities[arm], **asdict(found[arm])} for arm in unknown}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="avatars", help="name of the images in results and run folders")
    parser.add_argument("--place", type=Path, help="folder or archive of the images, unless they are avatars")
    parser.add_argument("--size", type=int, choices=FLAGSHIPS, default=32, help="height and width [pixels]")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(RIVALS), help=f"default: {' '.join(RIVALS)}")
    parser.add_argument("--seeds", type=int, default=3, help="number of runs of each arm (default: 3)")
    parser.add_argument("--images", type=int, help="images that the flagship trains for (default: 57,472 at 32x32)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns in which speeds are measured")
    parser.add_argument("--at-once", type=int, default=2, help="runs at a time, each on one thread (default: 2)")
    parser.add_argument("--face-network", type=Path, required=True, help="see benchmarks/quality_of/face_features.py")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/quality"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if (options.data == "avatars") != (options.place is None):
        parser.error("--data and --place belong together: name your images, or leave out both for avatars")
    options.images = options.images or IMAGES[options.size]
    options.seeds = range(options.seeds)
    return options


def main() -> None:
    """Train the missing runs, evaluate them, and print tables."""
    options = parse()
    keep_freed_memory()
    torch.set_num_threads(1)
    try:
        features = [build_features("effnetlite0"), face_features(options.face_network)]
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    comparison = Comparison(options)
    results = read_json(options.results)
    known = results.setdefault(comparison.name, {"images": options.images, "speeds": {}, "runs": {}})
    if known["images"] != options.images:
        sys.exit(
            f"{options.results} has runs of {known['images']:,} images of {comparison.name}, not {options.images:,}; "
            "give the same --images, or another --results"
        )
    identities, runs = comparison.identities, known["runs"]
    if stale := [name for name, run in runs.items() if run["identity"] != identities.get(run["arm"], run["identity"])]:
        sys.exit(
            f"{options.results} has runs whose network or recipe has changed since: {', '.join(stale)}; remove them, "
            "or give another --results"
        )
    prepare_images(comparison.recipe("flagship", 0, options.images).source())
    try:
        known["speeds"] = speeds_of(comparison, known["speeds"])
    except ValueError as error:
        sys.exit(str(error))
    write_json(options.results, results)
    writing = Lock()

    def do(arm: str, seed: int) -> None:
        speed = {name: known["speeds"][arm][name] for name in Speed.__dataclass_fields__}
        batch = recipe_of(arm, options.size, comparison.dataset).get("batch_size", 32)
        recipe = comparison.recipe(arm, seed, images_of(Speed(**speed), options.images, batch))
        comparison.train(recipe)
        found = measure(recipe, features, is_swept=arm in RIVALS)
        with writing:
            runs[recipe.name] = {
                "arm": arm,
                "seed": seed,
                "identity": identities[arm],
                "parameters": count(architecture_of(arm, options.size)),
                "hardware": hardware("cpu", 1),
                "versions": versions(),
                "command": command(),
                "commit": commit().get("commit"),
                **found,
            }
            distances = ", ".join(f"{name} {each[distance(each)]:.4g}" for name, each in found["metrics"].items())
            print(f"{recipe.name}: {distances} after {found['images']:,} images", flush=True)
            known["runs"] = dict(sorted(runs.items()))
            write_json(options.results, results)

    with ThreadPoolExecutor(options.at_once) as pool:
        todo = itertools.product(options.seeds, options.arms)
        for each in [pool.submit(do, arm, seed) for seed, arm in todo if f"{arm}-{seed}" not in runs]:
            each.result()
    for each in features:
        print(table(runs, RIVALS, each.name))
        print(table(runs, ("flagship", *CHOICES), each.name))


if __name__ == "__main__":
    main()
