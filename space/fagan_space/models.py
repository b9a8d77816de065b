"""The page's model."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fagan_hf import FAGANPipeline
from fagan_hf.architectures.own_code import import_from_environment
from fagan_hf.hub.repository import CARD, CONFIG, DIRECTIONS, DISCRIMINATOR, GENERATOR, SAMPLES
from fagan_hf.hub.snapshot import resolve
from fagan_hf.latent_space.directions import Directions
from fagan_hf.models import Discriminator, Generator
from fagan_hf.utils.devices import find_device
from fagan_hf.utils.label_names import label_groups

_ROOT = Path(__file__).resolve().parents[1]
_CLONE = _ROOT.parent
_FILES = [CONFIG, f"{GENERATOR}/*", f"{DISCRIMINATOR}/*", DIRECTIONS, CARD, SAMPLES]
_own: "dict[str, Model]" = {}  # the page's own model


@dataclass(frozen=True, eq=False)
class Model:
    """A model with its optional parts.

    Attributes:
        name: Folder or Hub id, as for `from_pretrained`.
        pipe: The pipeline.
        discriminator: ``None`` if it was not published.
        directions: Directions in the latent space; ``None`` if there are none.
        card: Text of the model card; empty if there is none.
        samples: A grid of generated images, if there is one.
    """

    name: str
    pipe: FAGANPipeline
    discriminator: Discriminator | None
    directions: Directions | None
    card: str
    samples: Path | None

    def __reduce__(self) -> tuple[Any, ...]:
        # ZeroGPU pickles arguments for a process forked from this one, which has the model already.
        return _found, (self.name,)

    @property
    def shown(self) -> str:
        """Its name as visitors see and type it: a path relative to the clone, or else a folder's last part."""
        path = Path(self.name)
        if path.is_relative_to(_CLONE):
            return str(path.relative_to(_CLONE))
        return path.name if path.is_absolute() else self.name

    @property
    def generator(self) -> Generator:
        """The pipeline's generator."""
        return self.pipe.generator

    @property
    def size(self) -> int:
        """Height and width of its images [pixels]."""
        return self.generator.config.image_size

    @property
    def channels(self) -> int:
        """Channels of its images: 1 for grayscale, 3 for RGB, 4 for RGBA."""
        return self.generator.config.image_channels

    @property
    def labels(self) -> Mapping[str, list[str]]:
        """Its labels, each with its possible values: classes, or yes and no."""
        names = self.generator.config.label_names
        groups = label_groups(names)
        return {
            column: [names[place].partition("=")[2] for place in places] if len(places) > 1 else ["yes", "no"]
            for column, places in groups.items()
        }


def wanted_model() -> str:
    """Return the name of the page's model: FAGAN_MODEL, else the first in the Space's metadata."""
    if name := os.environ.get("FAGAN_MODEL", "").strip():
        return name
    _, metadata, _ = (_ROOT / CARD).read_text(encoding="utf-8").split("---\n", 2)
    name = yaml.safe_load(metadata)["models"][0]
    released = _CLONE / "model_cards" / name.rpartition("/")[2]
    return str(released) if released.is_dir() else name


def load_own() -> Model:
    """Load the page's own model, after the files and modules in FAGAN_IMPORT that register its layers."""
    import_from_environment()
    name = wanted_model()
    _own[name] = model = load(name)
    return model


def _found(name: str) -> Model:
    """Return the model that was loaded before; load it again if this process doesn't have it."""
    return _own.get(name) or load(name)


def load(name: str) -> Model:
    """Load a model from a run folder or from the Hub, with all files from one commit.

    Args:
        name: The folder, or ``user/name`` or ``user/name@revision``.

    Raises:
        FileNotFoundError: The model doesn't exist or can't be downloaded.
        ValueError: It is not a fagan_hf model.
    """
    folder = resolve(name, allow_patterns=_FILES).folder
    device = find_device(None)
    pipe = FAGANPipeline.from_pretrained(folder).to(device)
    has_discriminator = (folder / DISCRIMINATOR).is_dir()
    discriminator = Discriminator.from_pretrained(folder).to(device) if has_discriminator else None
    for network in (pipe.generator, discriminator):
        if network is not None:
            network.requires_grad_(False)
    return Model(
        name=name,
        pipe=pipe,
        discriminator=discriminator,
        directions=Directions.load(folder / DIRECTIONS) if (folder / DIRECTIONS).is_file() else None,
        card=(folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else "",
        samples=folder / SAMPLES if (folder / SAMPLES).is_file() else None,
    )
