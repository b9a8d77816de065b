"""Train on somebody's own pictures as `fagan-hf train PLACE` does, and by the original's recipe, for equal work.

    python benchmarks/own_pictures.py ~/pictures --minutes 60 --name emoji
    python benchmarks/own_pictures.py ~/faces --minutes 60 --name faces --finetune-from model_cards/fagan-avatars-64

The arms: `chosen`, what `fagan-hf train PLACE` chooses; `classic`, FAGAN's network of 2018 with its own loss, batch and
learning rates, and all augmentation; and `fine-tuned`, what it chooses with `--finetune-from`. Their speeds are
measured first, in turns, with steps that are thrown away; `chosen` then trains for the number of images that it manages
in the time, and the others for as many as they manage meanwhile. So a run is the same on a machine that is busy for a
while.

Each generator is evaluated on the same images. Results are written after every arm; a run that was stopped resumes.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from fagan_hf import Generator
from fagan_hf.data.prepare import prepare_images
from fagan_hf.hub.repository import FACTS, read_json, write_json
from fagan_hf.metrics.evaluate import evaluate
from fagan_hf.training.choices import measure
from fagan_hf.training.flags import build_recipe
from fagan_hf.training.recipe import Recipe
from fagan_hf.training.run import loop
from fagan_hf.training.run.facts import command, commit, hardware, versions
from fagan_hf.training.run.session import setup
from fagan_hf.utils.devices import find_device

ROOT = Path(__file__).resolve().parents[1]
_ROUNDS = 3
_CLASSIC = {
    "model": "fagan-classic-64",
    "loss": "relativistic_hinge",
    "batch_size": 32,
    "generator_learning_rate": 2e-4,
    "discriminator_learning_rate": 4e-4,
    "augment": ("color", "translation", "cutout"),
    "ema_half_life_images": 10_000,
}
_OF_PLACE = ("dataset", "fit", "background", "channels", "upscale", "skip_broken", "horizontal_flip", "seed")


def arms(options: argparse.Namespace) -> dict[str, Recipe]:
    """Return the recipe of each arm, and always of `chosen`, which the others are measured against."""
    where = {"output_dir": str(options.output_dir), "cpu_threads": options.cpu_threads}
    place = str(options.place.expanduser())
    chosen = build_recipe(dataset=place, **where)
    common = {"eval_every_images": 0, "max_minutes": None, "snapshot_bytes": 0}
    found = {"chosen": replace(chosen, name=f"{options.name}-chosen", **common)}
    of_place = {name: getattr(chosen, name) for name in _OF_PLACE}
    found["classic"] = build_recipe(
        name=f"{options.name}-classic",
        **where,
        **_CLASSIC,
        **of_place,
        **common,
    )
    if options.finetune_from:
        tuned = build_recipe(dataset=place, finetune_from=options.finetune_from, **where)
        found["fine-tuned"] = replace(tuned, name=f"{options.name}-fine-tuned", **common)
    return {name: recipe for name, recipe in found.items() if name in ("chosen", *options.arms)}


def images_of(recipes: dict[str, Recipe], minutes: float) -> dict[str, int]:
    """Return how many images each arm trains for: what it manages in the time, as measured in turns."""
    speeds: dict[str, list[float]] = {name: [] for name in recipes}
    for _ in range(_ROUNDS):
        for name, recipe in recipes.items():
            speeds[name].append(measure(recipe))
    return {name: int(60 * minutes * statistics.median(each)) for name, each in speeds.items()}


def train(recipe: Recipe) -> dict[str, Any]:
    """Train a run to its end, resuming it if necessary, and evaluate its generator."""
    session = setup(recipe)
    loop.train(session)
    if session.stop_request.is_made:
        raise KeyboardInterrupt(f"{recipe.name} stopped after {session.images_seen:,} images")
    facts = read_json(recipe.run_dir / FACTS)["training"]
    images = prepare_images(recipe.source())
    found = evaluate(Generator.from_pretrained(recipe.run_dir), images)
    metrics = {each.type: {"value": each.value, "real": each.floor} for each in found.metrics()}
    return {"images": facts["images_seen"], "seconds": round(facts["seconds"]), "metrics": metrics}


def main() -> None:
    """Train and evaluate every arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path, help="a folder or archive of images")
    parser.add_argument("--name", required=True, help="name of the images in results and run folders")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--arms", nargs="+", default=["chosen", "classic", "fine-tuned"])
    parser.add_argument("--finetune-from", help="a model, for the arm `fine-tuned`")
    parser.add_argument("--cpu-threads", type=int, help="threads of each run (default: all cores)")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/own-pictures"))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/own-pictures.json")
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    results = read_json(options.out)
    recipes = arms(options)
    done = results.setdefault(options.name, {"minutes": options.minutes, "arms": {}})
    known = done.setdefault("images", {})
    if recipes.keys() - known.keys():  # measured once: a resumed benchmark trains for the same numbers
        found = images_of(recipes, options.minutes)
        scale = known.get("chosen", found["chosen"]) / found["chosen"]  # a machine is not always equally fast
        done["images"] = {name: int(scale * images) for name, images in found.items()} | known
        write_json(options.out, results)
    for name, recipe in recipes.items():
        if name in options.arms and name not in done["arms"]:
            where = {"hardware": hardware(find_device(None).type, 1), "versions": versions()}
            where |= {"command": command(), "commit": commit()}
            done["arms"][name] = train(replace(recipe, max_images=done["images"][name])) | where
            write_json(options.out, results)


if __name__ == "__main__":
    main()
