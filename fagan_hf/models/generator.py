"""The generator: from latent vectors to images."""

from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from fagan_hf.architectures.configs import GeneratorConfig
from fagan_hf.models.labels import check_labels, even_frequencies
from fagan_hf.models.network import Network


class Generator(Network):
    """A generator described by its config: a sequence of layers from a 1x1 feature map to an image.

    Args:
        config: The architecture.

    Attributes:
        label_frequencies: Frequency of each label in the training data, from 0 to 1, by which unspecified labels are
            sampled. ``None`` for an unconditional generator.

    Raises:
        ValueError: ``config`` is not a `GeneratorConfig`.
    """

    config_class = GeneratorConfig
    subfolder = "generator"
    config: GeneratorConfig
    label_frequencies: Tensor | None

    def __init__(self, config: GeneratorConfig):
        super().__init__(config)
        frequencies = even_frequencies(config.label_names) if config.label_names else None
        self.register_buffer("label_frequencies", frequencies)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Move and cast everything, but keep the precision of frequencies: rounding would change sampled labels."""
        frequencies = self.label_frequencies
        super()._apply(fn, recurse)
        if frequencies is not None and self.label_frequencies is not None:
            moved = self.label_frequencies
            # From the meta device there is nothing to copy.
            self.label_frequencies = (
                moved.to(frequencies.dtype) if frequencies.is_meta else frequencies.to(moved.device)
            )
        return self

    def forward(
        self,
        latents: Float[Tensor, "batch latent_dim *one_by_one"],
        labels: Float[Tensor, "batch num_labels"] | None = None,
    ) -> Float[Tensor, "batch channels size size"]:
        """Turn latents into images.

        Args:
            latents: Standard normal vectors, ``[batch, latent_dim]`` or ``[batch, latent_dim, 1, 1]``.
            labels: One number in [0, 1] for each of the config's `label_names`; none for an unconditional generator.

        Returns:
            Images in [-1, 1].

        Raises:
            ValueError: Latents or labels have another shape.
        """
        check_latents(latents, self.config.latent_dim)
        latents = latents.flatten(1)
        labels = check_labels(labels, self.config.label_names, latents.shape[0])
        if labels is not None and self.config.conditioning == "concatenation":
            latents = torch.cat([latents, labels.to(latents)], dim=1)
        return self._run(latents[..., None, None], labels)


def check_latents(latents: Tensor, latent_dim: int) -> None:
    """Refuse latents whose shape does not fit a generator.

    Raises:
        ValueError: The shape is wrong; says what is allowed.
    """
    if latents.shape[1:] not in ((latent_dim,), (latent_dim, 1, 1)):
        raise ValueError(
            f"latents are {list(latents.shape)}; they must be [batch, {latent_dim}] or [batch, {latent_dim}, 1, 1]"
        )
