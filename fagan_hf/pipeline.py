"""The diffusers pipeline: generate images, randomly or from seeds."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

from fagan_hf.hub.repository import save_repository
from fagan_hf.layers import override_alpha
from fagan_hf.layers.gates import overridden
from fagan_hf.models import Generator
from fagan_hf.sampling.images import (
    LabelSpec,
    check_truncation,
    labels_from_seeds,
    latents_from_seeds,
    sample,
    to_uint8,
)
from fagan_hf.sampling.standing_statistics import has_batch_statistics, recalibrated
from fagan_hf.utils.suggest import refuse_keywords
from fagan_hf.viz.colors import as_picture

OutputType = Literal["pil", "np", "pt"]
Draw = torch.Generator | Sequence[torch.Generator]

_ONE_PASS = "a GAN generates an image in a single forward pass; leave it out"
_NO_TEXT = "a GAN takes no text; leave it out, or request labels of a conditional model with labels="
_ONE_SIZE = "a model generates images of one size; leave it out, and resize the images"
_NO_GUIDANCE = "a GAN has no guidance; leave it out, or use truncation= for images that are less varied"
# Arguments of other pipelines, and why this one does not take them.
_OF_DIFFUSION = {
    **dict.fromkeys(("timesteps", "sigmas", "eta", "strength", "callback", "callback_steps"), _ONE_PASS),
    **dict.fromkeys(("callback_on_step_end", "callback_on_step_end_tensor_inputs"), _ONE_PASS),
    **dict.fromkeys(("guidance_scale", "guidance_rescale"), _NO_GUIDANCE),
    **dict.fromkeys(("prompt", "negative_prompt", "prompt_embeds", "negative_prompt_embeds"), _NO_TEXT),
    **dict.fromkeys(("height", "width"), _ONE_SIZE),
    "num_images_per_prompt": "a GAN takes no text; use num_images=",
    "class_labels": "use labels=, with the names of labels",
}


@dataclass
class FAGANPipelineOutput(ImagePipelineOutput):
    """Output of a call.

    Attributes:
        images: Images, in the format requested by ``output_type``.
        seeds: The seed of each image; ``None`` if latents or a ``generator`` were given.
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
            pretrained_model_name_or_path: The folder, or a Hub id ``user/name`` or ``user/name@revision``.
            **options: Options of `Generator.from_pretrained`: ``dtype``, ``device_map``, ``revision``, ``token``,
                ``checkpoint`` (of a local run folder), ...

        Raises:
            FileNotFoundError: See `Generator.from_pretrained`.
            PermissionError: See `Generator.from_pretrained`.
            TypeError: See `Generator.from_pretrained`.
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
            repo_id: ``user/name`` or ``user/name@branch``; the repository is created if missing.
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
        batch_size: int | None = None,
        seeds: Sequence[int] | None = None,
        latents: Float[Tensor, "count latent_dim"] | None = None,
        generator: Draw | None = None,
        labels: LabelSpec | Float[Tensor, "count num_labels"] | None = None,
        truncation: float = 1.0,
        alpha: float | Mapping[str, float] | None = None,
        chunk_size: int | None = None,
        num_inference_steps: int | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        **unknown: Any,
    ) -> FAGANPipelineOutput | tuple[Any]:
        """Generate images from random seeds, given seeds, given latents, or the numbers of a `torch.Generator`.

        Args:
            num_images: Number of images, from seeds sampled by torch's global generator or from ``generator``; 1 if
                nothing else is given.
            batch_size: The same under its name in diffusers.
            seeds: One image for each: the same on every call, for any device and chunk size.
            latents: One image for each, used as they are.
            generator: Latents are sampled from it, as in diffusers; or a list of them, one for each image. For images
                that don't depend on their number use ``seeds``.
            labels: Labels of a conditional generator: ``{"beard": True, "hair": "red"}`` for all images, a list of
                such mappings with one for each image, or label vectors. Unspecified labels are sampled by seed (for
                given latents: by position; with ``generator``: from it), with their frequencies in the training data.
            truncation: Factor on sampled latents; below 1: less varied, closer to the mean. Batch statistics are
                recalibrated for it, once.
            alpha: Overrides the trained gates, see `fagan_hf.layers.override_alpha`: 0.0 is convolution only, 1.0
                attention only, ``{"layers.2": 0.0}`` overrides one layer.
            chunk_size: Images per forward pass; affects only memory and speed. By default as many as fit, see
                `fagan_hf.sampling.images.sample`.
            num_inference_steps: At most 1, for code that is written for diffusion: a GAN needs a single step.
            output_type: ``"pil"`` for a list of PIL images, ``"np"`` for a float32 array ``[count, size, size, C]``,
                ``"pt"`` for a float32 tensor ``[count, C, size, size]``, both in [0, 1]. C is 3, 1 for grayscale
                models, 4 for models with transparency, whose colors are not multiplied by alpha.
            return_dict: Return a `FAGANPipelineOutput`; otherwise a tuple, as diffusers' pipelines do.
            **unknown: None is accepted; the error says why, or which name is closest.

        Raises:
            ValueError: More than one source of latents was given, a value is out of range, or the latents don't fit.
            TypeError: There is no such argument.
        """
        refuse_keywords("FAGANPipeline", unknown, _parameters(type(self)), _OF_DIFFUSION)
        if num_inference_steps not in (None, 1):
            raise ValueError(f"num_inference_steps is {num_inference_steps!r}, but {_ONE_PASS}")
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type is {output_type!r}; it must be 'pil', 'np' or 'pt'")
        if chunk_size is not None:
            _check_count("chunk_size", chunk_size)
        count = _number_of_images(num_images, batch_size, {"seeds": seeds, "latents": latents, "generator": generator})
        drawn, label_seeds = None, None
        if generator is not None:
            latents, label_seeds = self._draw(generator, count, truncation)
        elif latents is None:
            drawn = label_seeds = _draw_seeds(count or 1) if seeds is None else list(seeds)
            latents = latents_from_seeds(drawn, self.generator.config.latent_dim, truncation)
        elif truncation != 1.0:
            raise ValueError("truncation applies to sampled latents only; multiply your latents yourself")
        if not isinstance(labels, Tensor):
            by_position = range(len(latents))
            labels = labels_from_seeds(self.generator, by_position if label_seeds is None else label_seeds, labels)
        network = self._recalibrated(truncation)
        progress = not getattr(self, "_progress_bar_config", {}).get("disable", False)
        with _turned(self.generator, network, alpha):
            batches = sample(network, latents, labels, batch_size=chunk_size, progress=progress)
            images = _convert(batches, output_type)
        return FAGANPipelineOutput(images=images, seeds=drawn) if return_dict else (images,)

    def _draw(self, draw: Draw, count: int | None, truncation: float) -> tuple[Tensor, list[int]]:
        """Sample latents as diffusers does, and then a seed for the labels of each image, from the same generator."""
        check_truncation(truncation)
        several = [*draw] if isinstance(draw, list | tuple) else None
        if not all(isinstance(each, torch.Generator) for each in several or [draw]):
            raise ValueError(
                f"generator is {draw!r:.60}; it must be a torch.Generator, such as torch.Generator().manual_seed(0), "
                "or a list of them with one for each image; for numbers use seeds="
            )
        if several is not None and count not in (None, len(several)):
            raise ValueError(
                f"{len(several)} generators for {count} images; give one generator, or a list with one for each image"
            )
        count = (1 if several is None else len(several)) if count is None else count
        shape = (count, self.generator.config.latent_dim)
        network: Any = self.generator
        latents = randn_tensor(shape, generator=several or draw, device=network.device, dtype=torch.float32)  # pyright: ignore
        rolls = [(each, 1) for each in several] if several else [(draw, count)]
        numbers = [torch.randint(0, 2**32, (each,), generator=one, device=one.device) for one, each in rolls]  # pyright: ignore
        return truncation * latents, torch.cat(numbers).tolist()

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


def _number_of_images(num_images: int | None, batch_size: int | None, sources: Mapping[str, Any]) -> int | None:
    """Return the requested number of images, if any; check that it and the source of the latents go together."""
    given = [name for name, source in sources.items() if source is not None]
    if isinstance(seeds := sources["seeds"], int):
        raise ValueError(f"seeds is {seeds}; it must be a list: seeds=[{seeds}], or num_images={seeds}")
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are mutually exclusive; give only one of them")
    for name, count in (("num_images", num_images), ("batch_size", batch_size)):
        if count is None:
            continue
        _check_count(name, count)
        if given and given != ["generator"]:
            hint = "" if name == "num_images" else f" ({_BATCH_SIZE})"
            raise ValueError(f"{name} and {given[0]} are mutually exclusive; give only one of them{hint}")
    if None not in (num_images, batch_size) and num_images != batch_size:
        raise ValueError(f"num_images is {num_images} and batch_size is {batch_size}; give only one ({_BATCH_SIZE})")
    return batch_size if num_images is None else num_images


_BATCH_SIZE = "batch_size is the number of images, as in diffusers; for images per forward pass use chunk_size="


def _check_count(name: str, count: Any) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"{name} is {count!r}; it must be a whole number of at least 1")


def _draw_seeds(count: int) -> list[int]:
    return torch.randint(0, 2**32, (count,)).tolist()


def _parameters(pipeline: type) -> list[str]:
    """List the names of the arguments of a call."""
    parameters = inspect.signature(pipeline.__call__).parameters
    return [name for name, each in parameters.items() if name != "self" and each.kind is not each.VAR_KEYWORD]


def _convert(batches: Any, output_type: OutputType) -> Any:
    if output_type == "pil":
        return [as_picture(pixels) for batch in batches for pixels in to_uint8(batch)]
    images = torch.cat([(batch.cpu() / 2 + 0.5).clamp(0, 1) for batch in batches])
    if images.shape[1] == 4:
        color, opacity = images.split([3, 1], dim=1)
        images = torch.cat([torch.where(opacity > 0, color / opacity, 0).clamp(0, 1), opacity], dim=1)
    return images if output_type == "pt" else np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
