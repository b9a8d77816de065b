"""Adaptive augmentation (ADA): a probability that follows the discriminator's overfitting, on the device."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fagan_hf.training.recipe import Recipe

EVERY_STEPS = 4  # between two adjustments; the paper's
HIGHEST = 0.8  # the paper finds that augmentations leak into the generated images above it


class AugmentProbability:
    """The probability of each augmentation of each image: constant, or adjusted by `observe`.

    All of it is one tensor at a fixed address, updated in place: nothing is read back, a CUDA graph reads and moves it
    like weights, and a checkpoint that has it resumes exactly.

    Args:
        device: Device of the training step.
        probability: The constant, or the initial probability.
        target: Overfitting, in (0, 1), above which the probability rises; ``None`` for a constant one.
        change: By how much the probability moves in each adjustment, every `EVERY_STEPS` steps.

    Attributes:
        state: Probability; sum of the overfitting since the last adjustment; number of steps in that sum.
    """

    def __init__(self, device: torch.device, probability: float, target: float | None = None, change: float = 0.0):
        self.target = target
        self.change = change
        self.start = probability
        self.state = torch.tensor([probability, 0.0, 0.0], device=device)

    @classmethod
    def of(cls, recipe: Recipe, device: torch.device) -> "AugmentProbability | None":
        """Create the probability of a recipe; ``None`` if every image is augmented."""
        if not recipe.augments_by_chance:
            return None
        if recipe.augment_target is None:
            return cls(device, recipe.augment_probability)
        change = EVERY_STEPS * recipe.batch_size / recipe.augment_adjust_images
        return cls(device, 0.0, recipe.augment_target, change)

    @property
    def is_adaptive(self) -> bool:
        """Whether `observe` is needed."""
        return self.target is not None

    @property
    def value(self) -> Float[Tensor, ""]:
        """The current probability, a view on the state."""
        return self.state[0]

    @torch.no_grad()
    def observe(self, overfitting: Float[Tensor, ""], is_good: Bool[Tensor, ""]) -> None:
        """Take account of a step, and adjust the probability if enough steps have been seen.

        Args:
            overfitting: Of this step, the same in all processes; see `fagan_hf.losses.overfitting`.
            is_good: Whether the step was taken; a skipped step changes nothing.
        """
        assert self.target is not None
        probability, total, steps = self.state
        total, steps = total + overfitting, steps + 1
        is_due = steps >= EVERY_STEPS
        moved = (probability + self.change * (total / steps - self.target).sign()).clamp(0, HIGHEST)
        pending = torch.where(is_due, 0.0, torch.stack([total, steps]))
        after = torch.cat([torch.where(is_due, moved, probability)[None], pending])
        self.state.copy_(torch.where(is_good, after, self.state))

    def restore(self, state: Float[Tensor, "3"] | None) -> None:
        """Restore the state of a checkpoint; one that has none continues from the start."""
        if state is None:
            state = self.state.new_tensor([self.start, 0.0, 0.0])
        self.state.copy_(state)
