"""Models: the page's own, and others to compare it with."""

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fagan_hf import FAGANPipeline
from fagan_hf.architectures.configs import GeneratorConfig
from fagan_hf.hub.repository import CARD, CONFIG, DIRECTIONS, DISCRIMINATOR, GENERATOR, SAMPLES
from fagan_hf.hub.snapshot import resolve
from fagan_hf.latent_space.directions import Directions
from fagan_hf.models import Discriminator, Generator
from fagan_hf.requests import shown
from fagan_hf.utils.devices import find_device
from fagan_hf.utils.label_names import label_groups
from fagan_space.border import MAX_SIDE
from fagan_space.fetching import fetched
from fagan_space.limits import MAX_FEATURE_MAP, MAX_KEPT_BYTES, MAX_MULTIPLY_ADDS, MAX_TEXT
from fagan_space.work import check_wanted

_ROOT = Path(__file__).resolve().parents[1]
_CLONE = _ROOT.parent
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@\w[\w.-]*(/\w[\w.-]*)*)?", re.ASCII)
_FILES = [CONFIG, f"{GENERATOR}/*", f"{DISCRIMINATOR}/*", DIRECTIONS, CARD, SAMPLES]
_KEPT = 4  # number of visitors' models kept in memory
_own: "dict[str, Model]" = {}  # the page's own model
_kept: "OrderedDict[str, Model]" = OrderedDict()
_loading = threading.Lock()


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
    """Load the page's own model."""
    name = wanted_model()
    _own[name] = model = load(name)
    return model


def _found(name: str) -> Model:
    """Return a model that was loaded before; load it again if this process doesn't have it."""
    return _own.get(name) or _kept.get(name) or _fetch(name)


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


def load_named(name: str, own: Model) -> Model:
    """Load a model named by a visitor: the page's own, or one on the Hub; the most recent few stay in memory.

    Args:
        name: ``user/name`` or ``user/name@revision``; local paths are refused.
        own: The page's own model.

    Returns:
        The model, without its discriminator, directions and card.

    Raises:
        FileNotFoundError: The model doesn't exist or can't be downloaded.
        ValueError: The name is not a Hub id, the model is too large, or it is not a fagan_hf model.
        GoneError: The client disconnected.
    """
    name = name.strip()
    if name in ("", own.shown):
        return own
    if len(name) > MAX_TEXT or not _HUB_ID.fullmatch(name) or ".." in name:
        raise ValueError(
            f"{shown(name)} is not a model on the Hub; use a name like 'user/fagan-celeba-64' or 'user/name@v1'"
        )
    return _fetch(name)


def _fetch(name: str) -> Model:
    with _loading:
        if name in _kept:
            _kept.move_to_end(name)
            return _kept[name]
        with fetched(name) as folder:
            try:
                pipe = FAGANPipeline.from_pretrained(folder)
                _check_cost(pipe.generator.config)
            except (OSError, ValueError) as error:
                raise ValueError(str(error).replace(str(folder), name)) from error
        for layer in pipe.generator.requires_grad_(False).layers:
            layer.register_forward_pre_hook(_check_wanted)
        model = Model(name, pipe.to(find_device(None)), discriminator=None, directions=None, card="", samples=None)
        _kept[name] = model
        while len(_kept) > 1 and (len(_kept) > _KEPT or sum(map(_bytes_of, _kept.values())) > MAX_KEPT_BYTES):
            _kept.popitem(last=False)
        return model


def _bytes_of(model: Model) -> int:
    return sum(tensor.nbytes for tensor in model.generator.state_dict().values())


def _check_wanted(*_: object) -> None:
    """Stop between two layers."""
    check_wanted()


def _check_cost(config: GeneratorConfig) -> None:
    """Refuse a model whose images would take too much memory or time."""
    for value, most, unit in (
        (config.image_size, MAX_SIDE, "pixels as the height of its images"),
        (config.largest_feature_map, MAX_FEATURE_MAP, "values in a feature map"),
        (config.multiply_adds, MAX_MULTIPLY_ADDS, "multiply-adds for an image"),
    ):
        if value > most:
            raise ValueError(f"the model is too large for this page: it has {value:,} {unit}; the limit is {most:,}")
