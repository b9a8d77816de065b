"""The training step of attn-gan-pytorch, without the training loop around it."""

import torch
from attn_gan_pytorch import Losses, Networks
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from benchmarks.peer import peer_layer
from benchmarks.speed_of.our_step import BETAS, RATES, Architecture

PEER_LOSSES = {"relativistic_hinge": Losses.RelativisticAverageHingeGAN, "hinge": Losses.HingeGAN}


class Peer:
    """The step of attn-gan-pytorch, as its `GAN.train` takes it.

    Args:
        architecture: Configs of both networks.
        loss: A name in `PEER_LOSSES`.
        batch: Images per step.
        device: Where to compute.
    """

    def __init__(self, architecture: Architecture, loss: str, batch: int, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        layers = [[peer_layer(spec) for spec in config.layers] for config in architecture]
        self.latent_dim = architecture[0].latent_dim
        self.gan = Networks.GAN(
            Networks.Generator(layers[0], self.latent_dim), Networks.Discriminator(layers[1]), self.device
        )
        self.generator: nn.Module = self.gan.generator.train()
        self.discriminator: nn.Module = self.gan.discriminator.train()
        self.loss = PEER_LOSSES[loss](self.device, self.discriminator)
        self.optimizers: list[Optimizer] = [
            Adam(network.parameters(), lr=rate, betas=BETAS)
            for network, rate in zip((self.generator, self.discriminator), RATES, strict=True)
        ]
        self.real = torch.rand(batch, 3, *[architecture[0].image_size] * 2, device=self.device) * 2 - 1

    def _latents(self) -> Tensor:
        return torch.randn(len(self.real), self.latent_dim, 1, 1, device=self.device)

    def step(self) -> None:
        """Update both players once."""
        for_generator, for_discriminator = self.optimizers
        self.gan.optimize_discriminator(for_discriminator, self._latents(), self.real, self.loss)
        self.gan.optimize_generator(for_generator, self._latents(), self.real, self.loss)
