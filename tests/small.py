"""Networks small enough to build in every test."""

from dataclasses import replace

from torch import nn

from fagan_hf.architectures.configs import DiscriminatorConfig, GeneratorConfig
from fagan_hf.architectures.specs import (
    ActivationSpec,
    ConvSpec,
    ConvTransposeSpec,
    FullAttentionSpec,
    SelfAttentionSpec,
)
from fagan_hf.layers import gates
from fagan_hf.metrics.features import FeatureExtractor

GENERATOR = GeneratorConfig(
    latent_dim=8,
    image_size=8,
    layers=(
        FullAttentionSpec(in_channels=8, out_channels=16, kernel_size=4, transposed=True),
        SelfAttentionSpec(in_channels=16),
        FullAttentionSpec(
            in_channels=16, out_channels=3, kernel_size=4, stride=2, padding=1, transposed=True, batch_norm=False,
            activation="tanh",
        ),
    ),
)  # fmt: skip
WITHOUT_ATTENTION = replace(
    GENERATOR,
    layers=(
        ConvTransposeSpec(in_channels=8, out_channels=16, kernel_size=4),
        ConvTransposeSpec(in_channels=16, out_channels=3, kernel_size=4, stride=2, padding=1),
        ActivationSpec(activation="tanh"),
    ),
)
DISCRIMINATOR = DiscriminatorConfig(
    image_size=8,
    layers=(
        FullAttentionSpec(
            in_channels=3, out_channels=16, kernel_size=4, stride=2, padding=1, squeeze_factor=1, batch_norm=False
        ),
        ConvSpec(in_channels=16, out_channels=1, kernel_size=4),
    ),
)


def with_gates(network, value=0.3):
    """Open all gates, so that attention contributes, and put the network into eval mode."""
    for gate in gates(network).values():
        gate.data.fill_(value)
    return network.eval()


class Means(nn.Module):
    """Three features that take no time: the mean of each color."""

    def forward(self, images):
        return images.float().mean((2, 3))


EXTRACTOR = FeatureExtractor("means", Means(), "mean colors")
