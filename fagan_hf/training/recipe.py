"""A recipe: everything that a training run is made of, as one flat dataclass."""

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from fagan_hf.architectures.conditioning import Conditioning, with_labels
from fagan_hf.architectures.configs import Architecture
from fagan_hf.architectures.load import load_architecture
from fagan_hf.data.sources import ImageSource

LossName = Literal["standard", "least_squares", "hinge", "relativistic_hinge", "wasserstein", "relativistic_pairing"]

AugmentationName = Literal["color", "translation", "cutout"]

MixedPrecision = Literal["no", "bf16"]

Compilation = Literal["no", "kernels", "cuda_graphs"]

TrackerName = Literal["none", "tensorboard", "trackio", "wandb"]
FeaturesName = Literal["effnetlite0", "inception"]

_MAY_BE_ZERO = {"warmup_images", "seed", "r1_gamma", "r2_gamma", "wasserstein_penalty", "eval_every_images"}

# Changing one of these continues the same run; changing any other makes it another one.
HOW_LONG_AND_WHERE = {
    "output_dir",
    "max_images",
    "max_minutes",
    "log_every_images",
    "sample_every_images",
    "checkpoint_every_images",
    "eval_every_images",
    "keep_checkpoints",
    "cpu_threads",
    "compile",
    "gif_frames",
    "resume_from",
    "push_to_hub",
    "hub_private",
    "push_training_state",
    "weights_license",
    "report_to",
    "accept_changed_data",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run. Every field is a key of the YAML file and a flag of the command."""

    name: str
    """Name of the run; its folder is <output_dir>/<name>."""
    model: str
    """Architecture: the name of a preset, or a file of your own, see docs/cook-your-own.md."""
    dataset: str = "avatars"
    """Images: "avatars", "avatars:<style>", a folder, or a data set id on the Hub."""
    split: str = "train"
    """Split of the data set; a folder has only "train"."""
    num_avatars: int | None = None
    """How many avatars are drawn; none: 8,192. More of them keep a long run from learning them by heart."""
    revision: str | None = None
    """Branch, tag or commit of a data set on the Hub."""
    image_column: str = "image"
    """Column of a Hub data set that holds the images."""
    crop: int | None = None
    """Side of the center square that is cut out before resizing [pixels]; none: the largest. CelebA's custom is 178."""
    streaming: bool = False
    """Read images while training, for data larger than the disk? Order and resuming are then approximate."""
    upscale: bool = False
    """Accept images smaller than the model's, by enlarging them?"""
    horizontal_flip: bool = True
    """Mirror every second real image, at random?"""
    label_columns: tuple[str, ...] = ()
    """Columns of the data set that the networks are conditioned on; a folder has "class", the name of a subfolder."""
    conditioning: Conditioning = "projection"
    """How labels enter: "projection" and conditional batch norm, or "concatenation" to latent and features."""
    matching_aware: bool = False
    """Teach the discriminator also that a real image under wrong labels is not real?"""
    loss: LossName = "relativistic_hinge"
    """What both networks minimize."""
    r1_gamma: float = 0.0
    """Weight of R1, the squared gradient at real images, halved as in the paper; 0: none."""
    r2_gamma: float = 0.0
    """The same at generated images."""
    wasserstein_penalty: float = 0.0
    """Weight of WGAN-GP's penalty; 10 is its custom; 0: none."""
    penalty_every_steps: int = 1
    """Steps from one penalty to the next; their weights are multiplied by it. 16 is StyleGAN2's custom."""
    approximate_penalties: bool = False
    """Take a finite difference for R1 and R2 instead of the gradient: faster, and wrong at the kinks of leaky ReLU."""
    approximation_sigma: float = 0.01
    """Size of that difference, the standard deviation of the noise [images are in -1 to 1]."""
    batch_size: int = 32
    """Images of one step, over all processes and accumulation steps."""
    gradient_accumulation: int = 1
    """Forward and backward passes that make one step; each takes batch_size / gradient_accumulation images."""
    generator_learning_rate: float = 1e-4
    """Adam's step size for the generator."""
    discriminator_learning_rate: float = 4e-4
    """Adam's step size for the discriminator."""
    betas: tuple[float, float] = (0.0, 0.9)
    """Adam's decay rates of the gradient's mean and of its square, for both networks."""
    warmup_images: int = 0
    """Learning rates rise linearly from 0 over so many images."""
    decay_after_images: int | None = None
    """From so many images on learning rates fall with one over the root of the images seen; none: never."""
    max_gradient_norm: float | None = None
    """Gradients longer than this are shortened to it; none: never."""
    augment: tuple[AugmentationName, ...] = ()
    """Differentiable augmentation of real and fake: any of color, translation, cutout, in this order."""
    ema_half_life_images: int = 10_000
    """Half-life of the averaged generator's memory; shorter while the run is young."""
    ema_ramp: float = 0.05
    """While the run is young the half-life is this share of the images seen."""
    mixed_precision: MixedPrecision = "no"
    """"bf16" computes the layers in bfloat16, on hardware that has it; losses and weights stay float32."""
    compile: Compilation = "no"
    """For GPUs: "kernels" compiles the networks into fewer kernels; "cuda_graphs" launches a whole step at once."""
    seed: int = 0
    """Of everything random: weights, order of the images, latents, augmentation."""
    max_images: int = 1_000_000
    """The run ends after so many real images."""
    max_minutes: float | None = None
    """The run also ends after so many minutes of training, over all its sessions."""
    output_dir: str = "runs"
    """Where run folders are made."""
    log_every_images: int = 1_000
    """Interval between lines in metrics.jsonl."""
    sample_every_images: int = 10_000
    """Interval between grids of samples and redrawn plots."""
    checkpoint_every_images: int = 20_000
    """Interval between checkpoints; a run that is killed loses at most so much."""
    eval_every_images: int = 0
    """Interval between measurements of the averaged generator, the best is kept in best/; 0: none."""
    eval_features: FeaturesName = "effnetlite0"
    """What pictures are seen through: effnetlite0, or inception for the published protocol, which is downloaded."""
    eval_num_images: int = 2048
    """How many are drawn for it, and compared with as many real ones."""
    keep_checkpoints: int = 2
    """The newest so many checkpoints stay."""
    cpu_threads: int | None = None
    """Threads of each process where it trains on the CPU; none: the machine's cores shared by its processes."""
    gif_frames: int = 60
    """Frames of training_progress.gif at the most, spread over the run."""
    report_to: TrackerName = "none"
    """Show numbers and grids elsewhere too: in TensorBoard, Trackio or Weights & Biases."""
    accept_changed_data: bool = False
    """Go on although the images are others than those the run began with?"""
    resume_from: str | None = None
    """Go on with this model's training, a run folder or user/name on the Hub; its recipe is taken over."""
    finetune_from: str | None = None
    """Start from this model's weights, for other images; its recipe is taken over but for the name."""
    push_to_hub: str | None = None
    """Push the run to this repository, user/name, at every checkpoint and at the end."""
    hub_private: bool = False
    """Make a new repository private?"""
    push_training_state: bool = False
    """Push the checkpoint too, so that --resume_from goes on exactly?"""
    weights_license: str | None = None
    """License of the weights for the card, an identifier of the Hub like "mit"; none: what the data asks for."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            self._check_number(field.name, getattr(self, field.name))
        load_architecture(self.model)
        if self.resume_from and self.finetune_from:
            raise ValueError("resume_from goes on with a run, finetune_from starts another one; give one of them")
        for name in ("push_to_hub", "resume_from", "finetune_from"):
            if getattr(self, name) == "":
                raise ValueError(f"{name} is empty; give it a model like 'user/name', or leave it out")
        if self.weights_license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.weights_license):
            raise ValueError(
                f"weights_license is {self.weights_license!r}; it must be an identifier of the Hub, like 'mit' or "
                "'cc-by-4.0' (https://huggingface.co/docs/hub/repositories-licenses)"
            )
        if self.push_training_state and not self.push_to_hub:
            raise ValueError("push_training_state is true, but push_to_hub does not say where to")
        if self.approximate_penalties and not (self.r1_gamma or self.r2_gamma):
            raise ValueError(
                "approximate_penalties is true, but r1_gamma and r2_gamma are 0: there is nothing to approximate "
                "(wasserstein_penalty is always exact)"
            )
        if self.matching_aware and not self.label_columns:
            raise ValueError("matching_aware is true, but there are no label_columns whose labels could be wrong")
        if self.matching_aware and self.streaming:
            raise ValueError(
                "matching_aware needs the labels of all images at once, which a stream does not have; leave out one of "
                "matching_aware and streaming"
            )
        if self.eval_every_images and self.streaming:
            raise ValueError(
                "eval_every_images compares with the same real images each time, which a stream does not have; leave "
                "out one of eval_every_images and streaming"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {list(self.betas)}; each must be at least 0 and below 1")
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"batch_size is {self.batch_size} and gradient_accumulation {self.gradient_accumulation}; "
                "the first must be a multiple of the second"
            )
        if not self.name or Path(self.name).name != self.name or self.name.startswith("."):
            raise ValueError(
                f"name is {self.name!r}; it must be the name of a folder, without slashes or a leading dot"
            )

    def _check_number(self, name: str, value: Any) -> None:
        may_be_zero = name in _MAY_BE_ZERO
        if isinstance(value, bool) or not isinstance(value, int | float):
            return
        if not math.isfinite(value) or value < 0 or (value == 0 and not may_be_zero):
            raise ValueError(f"{name} is {value}; it must be {'0 or more' if may_be_zero else 'above 0'}")

    @property
    def run_dir(self) -> Path:
        """Folder of the run."""
        return Path(self.output_dir, self.name)

    def networks(self, label_names: Sequence[str] = ()) -> Architecture:
        """Find what `model` names, conditional if the data has labels.

        Raises:
            ValueError: The architecture can't take them.
        """
        return with_labels(load_architecture(self.model), label_names, self.conditioning)

    def source(self) -> ImageSource:
        """Say which images are read, and how they are cut and resized."""
        return ImageSource(
            dataset=self.dataset,
            resolution=load_architecture(self.model)[0].image_size,
            split=self.split,
            image_column=self.image_column,
            crop=self.crop,
            upscale=self.upscale,
            revision=self.revision,
            label_columns=self.label_columns,
            num_avatars=self.num_avatars,
        )

    def to_yaml(self) -> str:
        """Give the recipe as it stands in ``recipe.yaml``, every field resolved."""
        return yaml.safe_dump(self.to_plain(), sort_keys=False)

    def to_plain(self) -> dict[str, Any]:
        """Give the fields as YAML and JSON know them."""
        fields = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


FIELDS = {field.name for field in dataclasses.fields(Recipe)}

CHOICES = {
    field.name: get_args(field.type) for field in dataclasses.fields(Recipe) if get_origin(field.type) is Literal
}

LISTS = ("label_columns", "augment")  # of names

DEFAULTS = {
    field.name: list(field.default) if isinstance(field.default, tuple) else field.default
    for field in dataclasses.fields(Recipe)
    if field.default is not dataclasses.MISSING
}
