"""What a run reads, and how it is turned into images: the settings that pixels depend on."""

import hashlib
import json
from dataclasses import dataclass, fields
from typing import Any, get_args

import PIL

from fagan_hf.data.decode import PREPROCESSING_VERSION, Fit, check_background
from fagan_hf.utils.image_forms import IMAGE_FORMS
from fagan_hf.utils.redaction import redact
from fagan_hf.utils.suggest import suggest


@dataclass(frozen=True)
class ImageSource:
    """The images of a run and their preprocessing; everything that their pixels depend on.

    Args:
        dataset: `avatars`, `avatars:<style>`; a folder of images or WebDataset shards, a zip or tar file, Parquet or
            Arrow files, a folder written by `save_to_disk`; or the id of a dataset on the Hub.
        resolution: Side of the prepared square images in pixels.
        split: Split of the dataset; for avatars `train` or `test`. A folder may have subfolders `train`, `validation`
            and `test`; without them all images are `train`.
        image_column: Image column of rows; if there is only one, it needs no name.
        label_columns: Columns to use as labels; a folder offers `class`, the names of its subfolders, and the columns
            of its `metadata.csv`, `.jsonl` or `.parquet`.
        crop: Side in pixels of the center square that is kept, 178 for CelebA; `None` keeps the largest.
        fit: How images that are not square become square: `crop`, `pad` or `stretch`.
        background: Color behind transparent pixels and of padding: `white`, `black` or `#rrggbb`.
        channels: 1 for grayscale, 3 for RGB, 4 for RGBA with premultiplied alpha.
        upscale: Whether smaller images are enlarged; otherwise they are an error.
        revision: Branch, tag or commit of a Hub dataset.
        config_name: Configuration of a Hub dataset, if it has several.
        num_avatars: Number of avatars in the training split; `None` for the default of 8,192.
        skip_broken: Whether images that can't be used are left out and counted; otherwise they are an error.

    Raises:
        ValueError: A number is not positive, a choice does not exist, `crop` is smaller than `resolution` without
            `upscale`, or `crop` is given although nothing is cropped.
    """

    dataset: str
    resolution: int
    split: str = "train"
    image_column: str = "image"
    label_columns: tuple[str, ...] = ()
    crop: int | None = None
    fit: Fit = "crop"
    background: str = "white"
    channels: int = 3
    upscale: bool = False
    revision: str | None = None
    config_name: str | None = None
    num_avatars: int | None = None
    skip_broken: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.label_columns, str):
            raise ValueError(f"label_columns must be a tuple of names, got the string {self.label_columns!r}")
        object.__setattr__(self, "label_columns", tuple(self.label_columns))
        for name in ("resolution", "crop"):
            value = getattr(self, name)
            if not (name == "crop" and value is None) and (type(value) is not int or value < 1):
                raise ValueError(f"{name} must be a positive number of pixels, got {value!r}")
        if self.num_avatars is not None and (type(self.num_avatars) is not int or self.num_avatars < 1):
            raise ValueError(f"num_avatars must be a positive number of images, got {self.num_avatars!r}")
        if self.fit not in get_args(Fit):
            raise ValueError(f"fit is {self.fit!r}; {suggest(str(self.fit), get_args(Fit))}")
        if self.channels not in IMAGE_FORMS:
            raise ValueError(f"channels is {self.channels!r}; it must be 1 (grayscale), 3 (RGB) or 4 (RGBA)")
        check_background(self.background)
        if self.crop is not None and self.fit != "crop":
            raise ValueError(f"crop is {self.crop}, but fit {self.fit!r} crops nothing; leave out one of them")
        if self.crop is not None and self.crop < self.resolution and not self.upscale:
            raise ValueError(
                f"a crop of {self.crop} is smaller than the resolution of {self.resolution}; "
                "try a larger crop, `--upscale true`, or a smaller model"
            )
        if not str(self.dataset).strip():
            raise ValueError("dataset is empty; use `avatars`, a local folder, or the id of a dataset on the Hub")

    def decoding(self) -> dict[str, Any]:
        """Return the options of `fagan_hf.data.decode.decode_image`; JSON."""
        names = ("resolution", "crop", "fit", "background", "channels", "upscale")
        return {name: getattr(self, name) for name in names}

    def options(self) -> dict[str, Any]:
        """Return the options that differ from the defaults, except dataset, split and resolution; JSON."""
        defaults = {field.name: field.default for field in fields(self)}
        names = [name for name in defaults if name not in ("dataset", "split", "resolution", "skip_broken")]
        asked = {name: getattr(self, name) for name in names if getattr(self, name) != defaults[name]}
        # Through JSON because a tuple is a list there; redacted because facts are published and flags get mixed up.
        return json.loads(redact(json.dumps(asked)))


def describe_decoding(source: ImageSource) -> str:
    """Describe for a card how images are preprocessed."""
    size = f"{source.resolution}x{source.resolution}"
    center = "largest center square" if source.crop is None else f"center {source.crop}x{source.crop}"
    shape = {"crop": center, "pad": f"padded to a square with {source.background}", "stretch": "stretched to a square"}
    behind = "" if source.channels == 4 or source.background == "white" else f" on {source.background}"
    form = f"upright {IMAGE_FORMS[source.channels]}{behind}, {shape[source.fit]}"
    return f"{form}, Lanczos to {size} (Pillow {PIL.__version__})"


def decoding_identity(source: ImageSource) -> str:
    """Identify everything but the bytes that the pixels of an image depend on."""
    parts = {**source.decoding(), "version": PREPROCESSING_VERSION, "pillow": PIL.__version__}
    return json.dumps(parts, sort_keys=True)


def fingerprint(source: ImageSource, identity: Any) -> str:
    """Hash everything that pixels and labels depend on; `identity` is that of the data, JSON."""
    parts = {"identity": identity, "decoding": decoding_identity(source), "label_columns": source.label_columns}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
