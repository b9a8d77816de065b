"""The gradient penalties of a run: which ones, their weights and interval."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from fagan_hf.penalties import (
    approximate_gradient_penalty,
    wasserstein_gradient_penalty,
    zero_centered_gradient_penalty,
)
from fagan_hf.training.recipe import Recipe


@dataclass(frozen=True)
class PenaltyDraws:
    """Random numbers for the penalties of a run.

    Attributes:
        mix: Interpolation weights between real and fake for the Wasserstein penalty, in [0, 1).
        noise: Standard normal perturbations for approximated penalties, of real and fake images.
    """

    mix: Float[Tensor, " batch"] | None = None
    real_noise: Float[Tensor, "batch channels size size"] | None = None
    fake_noise: Float[Tensor, "batch channels size size"] | None = None


@dataclass(frozen=True)
class Regularization:
    """Adds penalties to the discriminator's loss.

    Attributes:
        r1_gamma: Weight of R1, halved as in the paper; 0 disables it.
        r2_gamma: Weight of R2, halved as in the paper; 0 disables it.
        wasserstein_weight: Weight of the WGAN-GP penalty; 0 disables it.
        every_steps: Lazy regularization: steps between penalties, whose weights are multiplied by it.
        sigma: Step of the finite difference that approximates R1's and R2's gradients; none: exact gradients.
    """

    r1_gamma: float = 0.0
    r2_gamma: float = 0.0
    wasserstein_weight: float = 0.0
    every_steps: int = 1
    sigma: float | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> "Regularization":
        """Create the penalties of a recipe."""
        return cls(
            recipe.r1_gamma,
            recipe.r2_gamma,
            recipe.wasserstein_penalty,
            recipe.penalty_every_steps,
            recipe.approximation_sigma if recipe.approximate_penalties else None,
        )

    def is_due(self, step: int) -> bool:
        """Return whether a step, counted from 0, has penalties."""
        return any((self.r1_gamma, self.r2_gamma, self.wasserstein_weight)) and step % self.every_steps == 0

    def penalize(
        self, discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, draws: PenaltyDraws
    ) -> dict[str, tuple[float, Tensor]]:
        """Compute the penalties.

        Args:
            discriminator: Images to logits.
            real: Real images, augmented.
            fake: Generated images, augmented; no gradient flows to the generator.
            draws: Random numbers.

        Returns:
            Weight and value of each penalty by name.
        """
        penalties = {}
        if self.r1_gamma:
            penalties["r1"] = self.r1_gamma / 2, self._zero_centered(discriminator, real, draws.real_noise)
        if self.r2_gamma:
            penalties["r2"] = self.r2_gamma / 2, self._zero_centered(discriminator, fake, draws.fake_noise)
        if self.wasserstein_weight:
            assert draws.mix is not None
            penalty = wasserstein_gradient_penalty(discriminator, real, fake, draws.mix)
            penalties["wasserstein_penalty"] = self.wasserstein_weight, penalty
        return {name: (self.every_steps * weight, penalty) for name, (weight, penalty) in penalties.items()}

    def _zero_centered(self, discriminator: Callable[[Tensor], Tensor], images: Tensor, noise: Tensor | None) -> Tensor:
        if self.sigma is None:
            return zero_centered_gradient_penalty(discriminator, images)
        assert noise is not None
        return approximate_gradient_penalty(discriminator, images, noise, self.sigma)
