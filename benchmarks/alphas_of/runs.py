"""The runs of the study: arms of one architecture, their recipes, and which of them are finished."""

import dataclasses
import hashlib
import json
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.alphas_of.controls import TRAINED_CONTROLS
from benchmarks.quality import Comparison
from benchmarks.quality_of.arms import Architecture, architecture_of
from fagan_hf.architectures.load import save_architecture
from fagan_hf.architectures.presets import flagship
from fagan_hf.architectures.specs import FullAttentionSpec, LayerSpec
from fagan_hf.training.flags import build_recipe
from fagan_hf.training.recipe import Recipe
from fagan_hf.utils.files import replacing
from fagan_hf.utils.suggest import suggest

QUICK_SIZE = 16
SHARED = ("flagship", "classic")
"""Arms that `benchmarks/quality.py` trains, too, in the same folders."""
_WITHOUT = "without_"
_IMPORTS = ("benchmarks.alphas_of.control_layers",)
_PLACES = ("name", "model", "output_dir", "dataset", "imports", "cpu_threads")  # not part of what a run is


def _initial(value: float, _: str, spec: FullAttentionSpec) -> LayerSpec:
    return dataclasses.replace(spec, initial_alpha=value)


def _controlled_spec(spec: FullAttentionSpec, **changes: Any) -> LayerSpec:
    # Importing it registers the layer for everything in this process, so only where such an arm is built.
    from benchmarks.alphas_of.control_layers import ControlledAttentionSpec

    return ControlledAttentionSpec(**{**spec.arguments(), **changes})


def _frozen(value: float, _: str, spec: FullAttentionSpec) -> LayerSpec:
    return _controlled_spec(spec, initial_alpha=value, is_gate_frozen=True)


def _controlled(control: str, _: str, spec: FullAttentionSpec) -> LayerSpec:
    return _controlled_spec(spec, control=control)


def _without(layer: str, name: str, spec: FullAttentionSpec) -> LayerSpec:
    return _frozen(0.0, name, spec) if name == layer else spec


_ARMS: dict[str, Callable[[str, FullAttentionSpec], LayerSpec]] = {
    "gates_0": partial(_initial, 0.0),
    "gates_0.1": partial(_initial, 0.1),
    "gates_0.5": partial(_initial, 0.5),
    "frozen_0": partial(_frozen, 0.0),
    "frozen_1": partial(_frozen, 1.0),
    **{control: partial(_controlled, control) for control in TRAINED_CONTROLS},
}
ARMS = (*SHARED, *_ARMS)
"""Names of the arms: as published, gates that start at a number or stay there, and controls. Beside them,
``without_layers.6`` trains the flagship with the gate of that layer of the generator frozen at 0."""


def check_arm(arm: str) -> str:
    """Return the name of an arm, or raise ValueError if there is none such."""
    if arm not in ARMS and not arm.startswith(_WITHOUT):
        raise ValueError(f"unknown arm {arm!r}; {suggest(arm, [*ARMS, f'{_WITHOUT}layers.3'])}")
    return arm


def architecture(arm: str, size: int) -> Architecture:
    """Build the networks of an arm.

    Raises:
        ValueError: There is no such arm, or no such attention layer to train without.
    """
    if arm == "classic" and size != QUICK_SIZE:
        return architecture_of(arm, size)
    if size == QUICK_SIZE:
        base = flagship(image_size=size, latent_dim=8, generator=(16, 16, 8), discriminator=(8, 16), squeeze_factor=4)
    else:
        base = architecture_of("flagship", size)
    if check_arm(arm) == "flagship":
        return base
    layer = arm.removeprefix(_WITHOUT) if arm.startswith(_WITHOUT) else None
    change = _ARMS[arm] if layer is None else partial(_without, layer)
    names = [f"layers.{index}" for index, spec in enumerate(base[0].layers) if isinstance(spec, FullAttentionSpec)]
    if layer is not None and layer not in names:
        raise ValueError(f"the generator of {size}x{size} has no attention layer {layer!r}; {suggest(layer, names)}")

    def changed(prefix: str, layers: tuple[LayerSpec, ...]) -> tuple[LayerSpec, ...]:
        return tuple(
            change(f"{prefix}layers.{index}", spec) if isinstance(spec, FullAttentionSpec) else spec
            for index, spec in enumerate(layers)
        )

    generator, discriminator = base
    return (
        dataclasses.replace(generator, layers=changed("", generator.layers)),
        dataclasses.replace(discriminator, layers=changed("discriminator.", discriminator.layers)),
    )


@dataclass(frozen=True)
class Study:
    """Runs on the same images, at the same size, for as many images.

    Attributes:
        data: Name of the images.
        place: Folder or archive of the images; ``None`` for avatars.
        size: Height and width [pixels]; `QUICK_SIZE` for tiny networks that are only tried.
        images: Images that each run trains for.
        folder: For the runs. ``runs/quality`` shares those that `benchmarks/quality.py` has trained for as many images.
    """

    data: str
    place: Path | None
    size: int
    images: int
    folder: Path

    @property
    def name(self) -> str:
        """Name of the images and their size."""
        return f"{self.data}-{self.size}"

    def recipe(self, arm: str, seed: int) -> Recipe:
        """Return the recipe of a run, and write its architecture."""
        if arm in SHARED and self.size != QUICK_SIZE:
            return self._comparison(arm).recipe(arm, seed, self.images)
        folder = self.folder.resolve() / self.name
        model = folder / f"{arm}.json"
        with replacing(model, make_folder=True) as path:
            save_architecture(path, architecture(arm, self.size))
        fields: dict[str, Any] = {"name": f"{arm}-{seed}", "model": str(model), "output_dir": str(folder)}
        if self.size == QUICK_SIZE:
            fields |= {"dataset": "avatars", "num_avatars": 64, "loss": "relativistic_pairing", "batch_size": 16}
            fields |= {"seed": seed, "max_images": self.images, "log_every_images": 16, "mixed_precision": "no"}
            fields |= {"sample_every_images": self.images, "checkpoint_every_images": self.images, "cpu_threads": 1}
            fields |= {"gif_frames": 2, "snapshot_bytes": 0}
            return build_recipe(imports=_IMPORTS, **fields)
        shared = self._comparison("flagship").recipe("flagship", seed, self.images)
        return dataclasses.replace(shared, imports=_IMPORTS, **fields)

    def identity(self, arm: str, recipe: Recipe) -> str:
        """Hash a run's networks and recipe, wherever its files lie."""
        configs = [config.to_dict() for config in architecture(arm, self.size)]
        fields = {name: value for name, value in dataclasses.asdict(recipe).items() if name not in _PLACES}
        return hashlib.sha256(json.dumps([configs, fields], sort_keys=True).encode()).hexdigest()[:12]

    def _comparison(self, arm: str) -> Comparison:
        options = Namespace(data=self.data, place=self.place, size=self.size, arms=[arm], output_dir=self.folder)
        return Comparison(options)
