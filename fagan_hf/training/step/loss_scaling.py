"""Loss scaling: gradients in float16 would vanish, so each player's loss is multiplied, and its gradients divided."""

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

INITIAL = 2.0**16
LARGEST = 2.0**24
GROWTH_STEPS = 2000  # after so many steps without overflow the factor is doubled


class LossScale:
    """The factor on one player's loss, adapted to its gradients: halved by each overflow, doubled when there is none.

    As in `torch.amp.GradScaler`, but all of it is one tensor at a fixed address, updated in place: nothing is read
    back, a CUDA graph reads and changes it like weights, and a checkpoint that has it resumes exactly.

    Args:
        device: Device of the training step.

    Attributes:
        state: The factor, and the number of steps since it was changed.

    Reference:
        Micikevicius et al., Mixed Precision Training, arXiv:1710.03740, section 3.2.
    """

    def __init__(self, device: torch.device):
        self.state = torch.tensor([INITIAL, 0.0], device=device)

    @property
    def value(self) -> Float[Tensor, ""]:
        """The factor, a view on the state."""
        return self.state[0]

    @torch.no_grad()
    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divide gradients by the factor; what is not finite stays so."""
        gradients = [each.grad for each in parameters if each.grad is not None]
        torch._foreach_mul_(gradients, self.value.reciprocal())

    @torch.no_grad()
    def observe(self, is_finite: Bool[Tensor, ""], is_loss_finite: Bool[Tensor, ""]) -> Bool[Tensor, ""]:
        """Take account of a step, and adapt the factor.

        Args:
            is_finite: Whether loss and gradient are.
            is_loss_finite: Whether the loss is. If it isn't, the factor is not to blame.

        Returns:
            Whether the gradient overflowed because of the factor, which is halved now.
        """
        factor, steps = self.state
        is_overflow = ~is_finite & is_loss_finite & (factor > 1)
        steps = torch.where(is_finite, steps + 1, steps)
        is_due = steps >= GROWTH_STEPS
        factor = torch.where(is_overflow, factor / 2, torch.where(is_due, (2 * factor).clamp(max=LARGEST), factor))
        self.state.copy_(torch.stack([factor, torch.where(is_overflow | is_due, 0.0, steps)]))
        return is_overflow

    def restore(self, state: Float[Tensor, "2"] | None) -> None:
        """Restore the state of a checkpoint; one that has none, as of another precision, continues from the start."""
        self.state.copy_(self.state.new_tensor([INITIAL, 0.0]) if state is None else state)
