"""Frozen layers of the discriminator (FreezeD, Mo et al., arXiv:2002.10964), for fine-tuning with few images."""

from torch import nn

from fagan_hf.models import Discriminator


def freeze_layers(discriminator: Discriminator, count: int) -> None:
    """Stop training the first layers, before the network is wrapped for several processes.

    Args:
        discriminator: Modified in place.
        count: Number of layers, as they are listed in its config.
    """
    for layer in list(discriminator.layers)[:count]:
        layer.requires_grad_(False)


def fix_layers(discriminator: Discriminator, count: int) -> list[nn.Module]:
    """Turn the first layers into fixed functions, and return the modules that are trained.

    In eval mode batch statistics stay as they are and dropout is off. Singular vectors, which are updated once per
    step, must be updated in the returned modules only.

    Args:
        discriminator: After it was prepared for training, which puts all layers into training mode.
        count: Number of frozen layers.
    """
    for layer in list(discriminator.layers)[:count]:
        layer.eval()
    return [*list(discriminator.layers)[count:], *(each for each in [discriminator.projection] if each is not None)]
