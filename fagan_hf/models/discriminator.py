"""The discriminator: from images to one logit each."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fagan_hf.architectures.configs import DiscriminatorConfig
from fagan_hf.layers import spectral_norm
from fagan_hf.layers.execution import no_autocast
from fagan_hf.models.labels import check_labels
from fagan_hf.models.network import Network

_BUT_LAST, _LAST = slice(None, -1), slice(-1, None)


class Discriminator(Network):
    """A discriminator described by its config: a sequence of layers from an image to a 1x1 feature map, its logit.

    Args:
        config: The architecture.

    Raises:
        ValueError: ``config`` is not a `DiscriminatorConfig`.
    """

    config_class = DiscriminatorConfig
    subfolder = "discriminator"
    config: DiscriminatorConfig

    def __init__(self, config: DiscriminatorConfig):
        super().__init__(config)
        self.projection = None
        if config.num_labels and config.conditioning == "projection":
            # Normalized like the paper's embedding, so that labels can't dominate the images.
            embedding = nn.Linear(config.num_labels, config.features_channels, bias=False)
            self.projection = spectral_norm(embedding)

    def forward(
        self, images: Float[Tensor, "batch channels size size"], labels: Float[Tensor, "batch num_labels"] | None = None
    ) -> Float[Tensor, " batch"]:
        """Compute the logits of images.

        Args:
            images: In [-1, 1], of the config's `image_size`.
            labels: One number in [0, 1] for each of the config's `label_names`; none if unconditional.

        Returns:
            Logits, unbounded; higher means more real.

        Raises:
            ValueError: Images or labels have another shape.
        """
        channels, size = self.config.image_channels, self.config.image_size
        if images.ndim != 4 or images.shape[1:] != (channels, size, size):
            raise ValueError(f"images are {list(images.shape)}; they must be [batch, {channels}, {size}, {size}]")
        labels = check_labels(labels, self.config.label_names, images.shape[0])
        if labels is None:
            return self._compute_logits(self._run(images, None, _BUT_LAST), None)
        labels = labels.to(images)
        if self.projection is not None:
            return self._compute_logits(self._run(images, labels, _BUT_LAST), labels)
        features = self._run(images, labels, slice(None, self.config.labels_at))
        planes = labels[..., None, None].expand(-1, -1, *features.shape[2:])
        features = torch.cat([features, planes], dim=1)
        return self._compute_logits(self._run(features, labels, slice(self.config.labels_at, -1)), labels)

    def _compute_logits(
        self, features: Float[Tensor, "batch channels height width"], labels: Float[Tensor, "batch num_labels"] | None
    ) -> Float[Tensor, " batch"]:
        """Turn the last features into logits, in the weights' precision even under autocast.

        Losses depend on differences of logits, for which half precision is too coarse.
        """
        with no_autocast(features.device):
            features = features.to(self.dtype)
            logits = self._run(features, labels, _LAST).flatten()
            if self.projection is not None and labels is not None:
                logits = logits + (self.projection(labels.to(features)) * features.sum((2, 3))).sum(1)
            return logits
