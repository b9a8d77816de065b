"""The diffusers pipeline: generate images, randomly or from seeds."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from jaxtyping import Float
from torch import Tensor

from fagan_hf.hub.repository import save_repository
from fagan_hf.layers import override_alpha
from fagan_hf.layers.gates import overridden
from fagan_hf.models import Generator
from fagan_hf.sampling.images import LabelSpec, labels_from_seeds, latents_from_seeds, sample, to_uint8
from fagan_hf.sampling.standing_statistics import has_batch_statistics, recalibrated
from fagan_hf.viz.colors import as_picture

OutputType = Literal["pil", "np", "pt"]


@dataclass
class FAGANPipelineOutput(ImagePipelineOutput):
    """Output of a call.

    Attributes:
        images: Images, in the format requested by ``output_type``.
        seeds: The seed of each image; ``None`` if latents were given.
    """

    seeds: list[int] | None = None


class FAGANPipeline(DiffusionPipeline):
    """Generate images with a trained generator.

    Args:
        generator: The trained generator.

    Example:
        >>> pipe = FAGANPipeline.from_pretrained("runs/avatars-32")  # doctest: +SKIP
        >>> pipe(num_images=16).images[0].save("portrait.png")  # doctest: +SKIP
    """

    generator: Generator

    def __init__(self, generator: Generator):
        super().__init__()
        # Convolutions are faster in this format. torch's annotations lack the argument.
        generator = generator.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self._measured: tuple[Any, Generator] | None = None
        self.register_modules(generator=generator)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        pretrained_model_name_or_path: str | Path,
        **options: Any,
    ) -> Self:
        """Load a run folder or a repository on the Hub.

        Args:
            pretrained_model_name_or_path: The folder, or a Hub id ``user/name``.
            **options: Options of `Generator.from_pretrained`: ``dtype``, ``revision``, ``token``, ``cache_dir``, ...

        Raises:
            FileNotFoundError: See `Generator.from_pretrained`.
            ValueError: See `Generator.from_pretrained`.
        """
        return cls(Generator.from_pretrained(pretrained_model_name_or_path, **options))

    def save_pretrained(self, save_directory: str | Path) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write a folder that `from_pretrained` loads, and that diffusers' bare `DiffusionPipeline` loads as well.

        Args:
            save_directory: Created if missing.
        """
        save_repository(save_directory, self.generator)

    def push_to_hub(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, repo_id: str, **options: Any
    ) -> str:
        """Upload the generator, and the files that diffusers needs to find this pipeline, in one commit.

        Args:
            repo_id: ``user/name``; the repository is created if missing.
            **options: Options of `Generator.push_to_hub`: ``private``, ``token``, ``revision``, ``create_pr``, ...

        Returns:
            URL of the commit, or of the pull request.

        Raises:
            PermissionError: See `Generator.push_to_hub`.
            ValueError: See `Generator.push_to_hub`.
            ConnectionError: See `Generator.push_to_hub`.
        """
        return self.generator.push_to_hub(repo_id, **options)

    def __call__(
        self,
        num_images: int | None = None,
        *,
        seeds: Sequence[int] | None = None,
        latents: Float[Tensor, "count latent_dim"] | None = None,
        labels: LabelSpec | Float[Tensor, "count num_labels"] | None = None,
        truncation: float = 1.0,
        alpha: float | Mapping[str, float] | None = None,
        batch_size: int | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
    ) -> FAGANPipelineOutput | tuple[Any]:
        """Generate images from random seeds, given seeds, or given latents.

        Args:
            num_images: Number of images from seeds sampled by torch's global generator; 1 if nothing else is given.
            seeds: One image for each: the same on every call, for any device and batch size.
            latents: One image for each, used as they are.
            labels: Labels of a conditional generator: ``{"beard": True, "hair": "red"}`` for all images, a list of
                such mappings with one for each image, or label vectors. Unspecified labels are sampled by seed (for
                given latents: by position), with their frequencies in the training data.
            truncation: Factor on the latents of seeds; below 1: less varied, closer to the mean. Batch statistics are
                recalibrated for it, once.
            alpha: Overrides the trained gates, see `fagan_hf.layers.override_alpha`: 0.0 is convolution only, 1.0
                attention only, ``{"layers.2": 0.0}`` overrides one layer.
            batch_size: Images per batch; affects only memory and speed. By default as many as fit, see
                `fagan_hf.sampling.images.sample`.
            output_type: ``"pil"`` for a list of PIL images, ``"np"`` for a float32 array ``[count, size, size, C]``,
                ``"pt"`` for a float32 tensor ``[count, C, size, size]``, both in [0, 1]. C is 3, 1 for grayscale
                models, 4 for models with transparency, whose colors are not multiplied by alpha.
            return_dict: Return a `FAGANPipelineOutput`; otherwise a tuple, as diffusers' pipelines do.

        Raises:
            ValueError: More than one of the first three was given, a value is out of range, or the latents don't fit.
        """
        if isinstance(seeds, int):
            raise ValueError(f"seeds is {seeds}; it must be a list: seeds=[{seeds}], or num_images={seeds}")
        if sum(given is not None for given in (num_images, seeds, latents)) > 1:
            raise ValueError("num_images, seeds and latents are mutually exclusive; give only one of them")
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type is {output_type!r}; it must be 'pil', 'np' or 'pt'")
        if latents is None:
            drawn = _draw_seeds(1 if num_images is None else num_images) if seeds is None else list(seeds)
            latents = latents_from_seeds(drawn, self.generator.config.latent_dim, truncation)
        elif truncation != 1.0:
            raise ValueError("truncation applies to seeds only; multiply latents yourself")
        else:
            drawn = None
        if not isinstance(labels, Tensor):
            labels = labels_from_seeds(self.generator, range(len(latents)) if drawn is None else drawn, labels)
        generator = self._recalibrated(truncation)
        progress = not getattr(self, "_progress_bar_config", {}).get("disable", False)
        with _turned(self.generator, generator, alpha):
            batches = sample(generator, latents, labels, batch_size=batch_size, progress=progress)
            images = _convert(batches, output_type)
        return FAGANPipelineOutput(images=images, seeds=drawn) if return_dict else (images,)

    def _recalibrated(self, truncation: float) -> Generator:
        """Recalibrate batch statistics for a truncation, unless an earlier call did for the same weights."""
        generator = self.generator
        if truncation == 1.0 or not has_batch_statistics(generator):
            return generator
        sums = [tensor.detach().float().sum().item() for tensor in generator.state_dict().values()]
        key = (truncation, generator, generator.device, generator.dtype, sums)
        measured = self._measured  # read and written once: other threads may use other truncations meanwhile
        if measured is None or measured[0] != key:
            measured = self._measured = key, recalibrated(generator, truncation)
        return measured[1]


@contextmanager
def _turned(generator: Generator, drawing: Generator, alpha: float | Mapping[str, float] | None) -> Iterator[None]:
    """Override the gates of the drawing copy: with the generator's current overrides, then with the requested ones."""
    with ExitStack() as stack:
        if drawing is not generator and (already := overridden(generator)):
            stack.enter_context(override_alpha(drawing, already))
        if alpha is not None:
            stack.enter_context(override_alpha(drawing, alpha))
        yield


def _draw_seeds(count: int) -> list[int]:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"num_images is {count!r}; it must be a whole number of at least 1")
    return torch.randint(0, 2**32, (count,)).tolist()


def _convert(batches: Any, output_type: OutputType) -> Any:
    if output_type == "pil":
        return [as_picture(pixels) for batch in batches for pixels in to_uint8(batch)]
    images = torch.cat([(batch.cpu() / 2 + 0.5).clamp(0, 1) for batch in batches])
    if images.shape[1] == 4:
        color, opacity = images.split([3, 1], dim=1)
        images = torch.cat([torch.where(opacity > 0, color / opacity, 0).clamp(0, 1), opacity], dim=1)
    return images if output_type == "pt" else np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
