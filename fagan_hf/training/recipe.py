"""A recipe: every setting of a training run, as one flat dataclass."""

import dataclasses
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from fagan_hf.architectures.conditioning import Conditioning, with_image_channels, with_labels
from fagan_hf.architectures.configs import Architecture
from fagan_hf.architectures.load import load_architecture
from fagan_hf.architectures.own_code import import_code
from fagan_hf.augmentations import AUGMENTATIONS
from fagan_hf.data.decode import Fit, check_background
from fagan_hf.data.image_source import ImageSource
from fagan_hf.hub.repository import ARCHITECTURE, ARCHITECTURE_SUFFIXES
from fagan_hf.losses import LOSSES
from fagan_hf.utils.suggest import suggest

MixedPrecision = Literal["no", "bf16", "fp16", "auto"]
Precision = Literal["no", "bf16", "fp16"]  # what "auto" can become

Compilation = Literal["no", "kernels", "cuda_graphs"]

TrackerName = Literal["none", "tensorboard", "trackio", "wandb"]
FeaturesName = Literal["effnetlite0", "inception"]

_MAY_BE_ZERO = {"warmup_images", "seed", "r1_gamma", "r2_gamma", "wasserstein_penalty", "eval_every_images"}
_MAY_BE_ZERO |= {"freeze_discriminator_layers", "snapshot_bytes", "checkpoint"}

# These may change when a run is resumed; changing any other field requires a new run.
HOW_LONG_AND_WHERE = {
    "output_dir",
    "max_images",
    "max_minutes",
    "log_every_images",
    "sample_every_images",
    "checkpoint_every_images",
    "eval_every_images",
    "keep_checkpoints",
    "snapshot_bytes",
    "cpu_threads",
    "compile",
    "gif_frames",
    "resume_from",
    "checkpoint",
    "push_to_hub",
    "hub_private",
    "push_training_state",
    "weights_license",
    "report_to",
    "accept_changed_data",
    "accept_changes",
    "imports",  # the architecture is compared itself
}

# Nor do these: the pixels and labels are compared themselves, and a step computes the same up to rounding. It is noted.
MAY_FOLLOW_ITS_OWNER = {
    "dataset",
    "split",
    "revision",
    "config_name",
    "image_column",
    "crop",
    "fit",
    "background",
    "upscale",
    "skip_broken",
    "num_avatars",
    "gradient_accumulation",
    "mixed_precision",
}

# These change the training, but no tensor's shape: on request a run goes on with other values.
MAY_CHANGE_ON_REQUEST = {
    "generator_learning_rate",
    "discriminator_learning_rate",
    "decay_after_images",
    "max_gradient_norm",
    "r1_gamma",
    "r2_gamma",
    "wasserstein_penalty",
    "augment_probability",
    "ema_half_life_images",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run. Every field is a key of the YAML file and a flag of the command."""

    name: str
    """Name of the run; its folder is <output_dir>/<name>."""
    model: str
    """Architecture: the name of a preset, or a file that you wrote (see docs/cook-your-own.md)."""
    dataset: str = "avatars"
    """Images: "avatars", "avatars:<style>", a local folder, archive or Parquet file, or a dataset id on the Hub."""
    split: str = "train"
    """Split of the dataset; a folder has splits if it contains train, validation and test folders."""
    num_avatars: int | None = None
    """Number of avatars to draw; none: 8,192. More avatars keep a long run from memorizing them."""
    revision: str | None = None
    """Branch, tag or commit of a Hub dataset."""
    config_name: str | None = None
    """Configuration of a Hub dataset, if it has several."""
    image_column: str = "image"
    """Column of a Hub dataset or Parquet file that holds the images; not needed if there is only one."""
    fit: Fit = "crop"
    """How images become square: "crop" keeps the center, "pad" adds bars, "stretch" changes the aspect ratio."""
    background: str = "white"
    """Color behind transparent pixels and of added bars: "white", "black" or "#rrggbb"."""
    channels: Literal[1, 3, 4] = 3
    """Channels of the images: 1 for grayscale, 3 for RGB, 4 for RGB with transparency; as a flag also "auto", which
    looks at the images before the run."""
    crop: int | None = None
    """Side of the center crop taken before resizing [pixels]; none: the largest square. For CelebA 178 is usual."""
    streaming: bool = False
    """Read images while training, for data larger than the disk. Order and resuming are then approximate."""
    skip_broken: bool = False
    """Leave out images that can't be used, and count them; otherwise they are an error."""
    upscale: bool = False
    """Accept images smaller than the model's resolution and enlarge them."""
    horizontal_flip: bool = True
    """Flip each real image horizontally with probability 1/2."""
    label_columns: tuple[str, ...] = ()
    """Columns to condition the networks on; a folder has "class", the name of the subfolder, and its metadata's."""
    conditioning: Conditioning = "projection"
    """How labels enter: "projection" with conditional batch norm, or "concatenation" to latent and features."""
    matching_aware: bool = False
    """Train the discriminator to reject real images with mismatched labels as well."""
    loss: str = "relativistic_hinge"
    """Adversarial loss of both networks: standard, least_squares, hinge, relativistic_hinge, wasserstein,
    relativistic_pairing, or one that the file of --model or --import registers."""
    r1_gamma: float = 0.0
    """Weight of R1, the squared gradient at real images, halved as in the paper; 0 disables it."""
    r2_gamma: float = 0.0
    """Weight of R2, the squared gradient at generated images, halved as in the paper; 0 disables it."""
    wasserstein_penalty: float = 0.0
    """Weight of the WGAN-GP gradient penalty; the paper uses 10; 0 disables it."""
    penalty_every_steps: int = 1
    """Lazy regularization: steps between penalties, whose weights are multiplied by it; StyleGAN2 uses 16."""
    approximate_penalties: bool = False
    """Approximate R1 and R2 by a finite difference: faster than the gradient, but wrong at the kinks of leaky ReLU."""
    approximation_sigma: float = 0.01
    """Step of the finite difference: standard deviation of the noise, for images in [-1, 1]."""
    batch_size: int = 32
    """Images per step, over all processes and accumulation steps."""
    gradient_accumulation: int = 1
    """Forward and backward passes per step; each takes batch_size / gradient_accumulation images."""
    generator_learning_rate: float = 1e-4
    """Adam's learning rate for the generator."""
    discriminator_learning_rate: float = 4e-4
    """Adam's learning rate for the discriminator."""
    betas: tuple[float, float] = (0.0, 0.9)
    """Adam's decay rates for the first and second moment, for both networks."""
    warmup_images: int = 0
    """Linear learning-rate warmup from 0 over this many images."""
    decay_after_images: int | None = None
    """Start inverse-square-root decay of the learning rates after this many images; none: never."""
    max_gradient_norm: float | None = None
    """Gradient-norm clip; none: no clipping."""
    augment: tuple[str, ...] = ()
    """Differentiable augmentation of all images: any of color, translation, cutout, rotation, scale, and those that the
    file of --model or --import registers, in this order."""
    augment_probability: float = 1.0
    """Probability of each augmentation of each image."""
    augment_target: float | None = None
    """Adaptive augmentation (ADA): raise the probability from 0, up to 0.8, while the discriminator's overfitting is
    above this, lower it while below; the paper uses 0.6; none: augment_probability is constant."""
    augment_adjust_images: int = 50_000
    """Images in which an adaptive probability may rise from 0 to 1, at most half of the run; the paper uses 500,000 for
    runs of 25 million."""
    ema_half_life_images: int = 10_000
    """Half-life of the generator's moving average (EMA) [images]; shorter early in the run."""
    ema_ramp: float = 0.05
    """Early in the run the EMA half-life is this fraction of the images seen."""
    mixed_precision: MixedPrecision = "no"
    """"bf16" or "fp16" computes the layers in half precision; losses, penalties and weights stay float32. "auto" is
    bf16 where the hardware has it, fp16 on older NVIDIA GPUs, and no on others and on most CPUs."""
    compile: Compilation = "no"
    """For GPUs: "kernels" compiles the networks into fewer kernels; "cuda_graphs" launches a whole step at once."""
    seed: int = 0
    """Random seed for everything: initial weights, order of the images, latents, augmentation."""
    max_images: int = 1_000_000
    """Train until this many real images have been seen."""
    max_minutes: float | None = None
    """Time limit in minutes of training, summed over all sessions of the run; none: no limit."""
    output_dir: str = "runs"
    """Parent of the run folders."""
    log_every_images: int = 1_000
    """Interval between lines of metrics.jsonl [images]."""
    sample_every_images: int = 10_000
    """Interval between sample grids and plot updates [images]."""
    checkpoint_every_images: int = 20_000
    """Interval between checkpoints [images]; a killed run loses at most this much."""
    eval_every_images: int = 0
    """Interval between evaluations of the averaged generator [images]; the best model is kept in best/; 0: never."""
    eval_features: FeaturesName = "effnetlite0"
    """Feature extractor: effnetlite0, or inception for the published protocol (its weights are downloaded)."""
    eval_num_images: int = 2048
    """Generated images per evaluation, compared with as many real ones; of fewer real images half."""
    keep_checkpoints: int = 2
    """Number of checkpoints to keep."""
    snapshot_bytes: int = 200_000_000
    """Size of all light snapshots of the averaged generator, which are kept spread over the whole run; 0: none."""
    cpu_threads: int | None = None
    """CPU threads per process when training on the CPU; none: the cores divided by the number of processes."""
    gif_frames: int = 60
    """Maximum number of frames in training_progress.gif, spread over the run."""
    report_to: TrackerName = "none"
    """Experiment tracker that metrics and sample grids are also sent to: TensorBoard, Trackio or Weights & Biases."""
    accept_changed_data: bool = False
    """Resume even if the images have changed since the run began."""
    accept_changes: tuple[str, ...] = ()
    """Fields with which the run may be resumed although they differ, such as generator_learning_rate."""
    resume_from: str | None = None
    """Resume training this model, a run folder or user/name on the Hub, with its recipe. A run folder's checkpoint is
    taken whole: weights, averaged generator, optimizers and progress."""
    checkpoint: int | None = None
    """Resume the run folder in resume_from at its checkpoint of this many images, in a new folder; none: the newest."""
    finetune_from: str | None = None
    """Fine-tune this model's weights on other images; its recipe is reused, except for the name."""
    imports: tuple[str, ...] = ()
    """Your Python files or modules that register custom layers, imported first; the flag is --import, which may be
    repeated."""
    freeze_discriminator_layers: int = 0
    """Fine-tune without training the first layers of the discriminator (FreezeD), for few images; 0 trains all."""
    push_to_hub: str | None = None
    """Push the run to this Hub repository, user/name, at every checkpoint and at the end."""
    hub_private: bool = False
    """If the repository is created, make it private."""
    push_training_state: bool = False
    """Push the newest checkpoint too, so that --resume_from resumes exactly."""
    weights_license: str | None = None
    """License of the weights for the model card, a Hub license id such as "mit"; none: what the data requires."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            self._check_number(field.name, getattr(self, field.name))
        for name in self.imports:
            import_code(name)
        self._architecture()
        self._check_registered("loss", (self.loss,), LOSSES)  # now that its files have registered theirs
        self._check_registered("augment", self.augment, AUGMENTATIONS)
        check_background(self.background)
        if self.resume_from and self.finetune_from:
            raise ValueError("resume_from resumes a run, finetune_from starts a new one; give only one of them")
        if self.checkpoint is not None and not self.resume_from:
            raise ValueError(
                f"checkpoint is {self.checkpoint}, but resume_from is not set; set it to the run folder to resume"
            )
        for name in ("push_to_hub", "resume_from", "finetune_from"):
            if getattr(self, name) == "":
                raise ValueError(f"{name} is empty; set it to a model like 'user/name', or leave it out")
        if self.weights_license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.weights_license):
            raise ValueError(
                f"weights_license is {self.weights_license!r}; it must be a Hub license id, like 'mit' or "
                "'cc-by-4.0' (https://huggingface.co/docs/hub/repositories-licenses)"
            )
        for name in self.accept_changes:
            if name not in MAY_CHANGE_ON_REQUEST:
                raise ValueError(f"accept_changes names {name!r}; {suggest(name, sorted(MAY_CHANGE_ON_REQUEST))}")
        if self.push_training_state and not self.push_to_hub:
            raise ValueError("push_training_state is true, but push_to_hub is not set")
        if self.approximate_penalties and not (self.r1_gamma or self.r2_gamma):
            raise ValueError(
                "approximate_penalties is true, but r1_gamma and r2_gamma are 0: there is nothing to approximate "
                "(wasserstein_penalty is always exact)"
            )
        if self.matching_aware and not self.label_columns:
            raise ValueError("matching_aware is true, but it needs labels; set label_columns")
        if self.matching_aware and self.streaming:
            raise ValueError(
                "matching_aware needs the labels of all images up front, which a stream does not provide; leave out "
                "either matching_aware or streaming"
            )
        if self.eval_every_images and self.streaming:
            raise ValueError(
                "eval_every_images compares with the same real images each time, which a stream does not provide; "
                "leave out either eval_every_images or streaming"
            )
        self._check_augmentation()
        self._check_frozen_layers()
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

    def _check_registered(self, field: str, names: Sequence[str], registry: Collection[str]) -> None:
        for name in names:
            if name not in registry:
                raise ValueError(
                    f"{field} is {name!r}; {suggest(name, registry)}. One of your own must be registered by the "
                    "file of --model or --import"
                )

    def _check_augmentation(self) -> None:
        if self.augment_probability > 1:
            raise ValueError(f"augment_probability is {self.augment_probability}; it must be above 0 and at most 1")
        if self.augment_target is not None and self.augment_target >= 1:
            raise ValueError(f"augment_target is {self.augment_target}; it must be above 0 and below 1, such as 0.6")
        if self.augment_target is not None and self.augment_probability < 1:
            raise ValueError(
                f"augment_target is {self.augment_target} and augment_probability {self.augment_probability}: the "
                "first adapts the probability, the second keeps it constant; leave out one of them"
            )
        if self.augments_by_chance and not self.augment:
            field = "augment_probability" if self.augment_target is None else "augment_target"
            raise ValueError(
                f"{field} is {getattr(self, field)}, but augment is empty; try --augment color,translation,cutout"
            )

    def _check_frozen_layers(self) -> None:
        count, layers = self.freeze_discriminator_layers, len(self._architecture()[1].layers)
        if count >= layers:
            raise ValueError(
                f"freeze_discriminator_layers is {count}, but the discriminator of {self.model} has {layers} layers, "
                f"of which at least the last must be trained; it must be at most {layers - 1}"
            )
        if count and not (self.finetune_from or self.resume_from):
            raise ValueError(
                f"freeze_discriminator_layers is {count}, but the run starts from random weights, which are not worth "
                "keeping; set finetune_from"
            )

    @property
    def augments_by_chance(self) -> bool:
        """Whether a probability decides which images are augmented, rather than all of them being."""
        return self.augment_target is not None or self.augment_probability < 1

    @property
    def run_dir(self) -> Path:
        """Folder of the run."""
        return Path(self.output_dir, self.name)

    @property
    def model_is_gone(self) -> bool:
        """Whether `model` is a file that is not there anymore, though the run folder still has its architecture."""
        is_missing = Path(self.model).suffix in ARCHITECTURE_SUFFIXES and not Path(self.model).is_file()
        return is_missing and (self.run_dir / ARCHITECTURE).is_file()

    def _architecture(self) -> Architecture:
        return load_architecture(str(self.run_dir / ARCHITECTURE) if self.model_is_gone else self.model)

    def networks(self, label_names: Sequence[str] = ()) -> Architecture:
        """Return the architecture that `model` names, for the data's channels, and conditional if it has labels.

        Raises:
            ValueError: The architecture can't be conditioned on these labels.
        """
        architecture = with_image_channels(self._architecture(), self.channels)
        return with_labels(architecture, label_names, self.conditioning)

    def source(self) -> ImageSource:
        """Return which images to read, and how to crop and resize them."""
        return ImageSource(
            dataset=self.dataset,
            resolution=self._architecture()[0].image_size,
            split=self.split,
            image_column=self.image_column,
            crop=self.crop,
            fit=self.fit,
            background=self.background,
            channels=self.channels,
            upscale=self.upscale,
            revision=self.revision,
            config_name=self.config_name,
            label_columns=self.label_columns,
            num_avatars=self.num_avatars,
            skip_broken=self.skip_broken,
        )

    def to_yaml(self) -> str:
        """Return the recipe as the text of ``recipe.yaml``, with every field resolved."""
        return yaml.safe_dump(self.to_plain(), sort_keys=False)

    def to_plain(self) -> dict[str, Any]:
        """Return the fields as plain YAML and JSON values."""
        fields = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


FIELDS = {field.name for field in dataclasses.fields(Recipe)}

CHOICES = {
    field.name: get_args(field.type) for field in dataclasses.fields(Recipe) if get_origin(field.type) is Literal
}

LISTS = ("label_columns", "augment", "accept_changes", "imports")  # of names

DEFAULTS = {
    field.name: list(field.default) if isinstance(field.default, tuple) else field.default
    for field in dataclasses.fields(Recipe)
    if field.default is not dataclasses.MISSING
}
