"""Batch norm, plain or conditioned on labels."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fagan_hf.architectures.specs import BatchNormSpec, check_arguments
from fagan_hf.layers.conditional_norm import ConditionalNorm, apply_norm
from fagan_hf.layers.execution import is_recomputing, is_transformed


class BatchNorm2d(nn.BatchNorm2d):
    """torch's batch norm, whose running statistics are updated once if gradient checkpointing repeats a pass.

    Raises:
        ValueError: In training mode under a transform of `torch.func` that can't update the running statistics.
    """

    def forward(
        self,
        input: Float[Tensor, "batch channels height width"],  # noqa: A002  # torch's name
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the normalized feature map."""
        if not self.training or not is_recomputing():
            try:
                return super().forward(input)
            except RuntimeError as error:
                if not (self.training and is_transformed()):
                    raise
                raise ValueError(
                    "batch norm updates its running statistics in training mode, but a transform of torch.func may "
                    "change only its own inputs; call network.eval(), or under grad give the buffers as an input, too: "
                    "functional_call(network, (parameters, buffers), ...)"
                ) from error
        # Copies are updated, and not left out: a repeated pass must save as many tensors as the first one.
        mean, variance = (each if each is None else each.clone() for each in (self.running_mean, self.running_var))
        return functional.batch_norm(
            input, mean, variance, self.weight, self.bias, True, self.momentum or 0.0, self.eps
        )


class ConditionalBatchNorm(ConditionalNorm):
    """Batch norm whose scale and shift depend on labels, see `ConditionalNorm`.

    Args:
        channels: Input and output channels.
        num_labels: Width of the label vectors.
    """

    def __init__(self, channels: int, num_labels: int):
        super().__init__(BatchNorm2d(channels), channels, num_labels)


def build_batch_norm(channels: int, is_normalized: bool, num_labels: int) -> nn.Module:
    """Build the batch norm of a layer: none, a plain one, or a conditional one."""
    if not is_normalized:
        return nn.Identity()
    return ConditionalBatchNorm(channels, num_labels) if num_labels else BatchNorm2d(channels)


class BatchNorm(nn.Module):
    """Batch norm as a separate layer.

    Args:
        in_channels: Input and output channels.
        num_labels: Width of the label vectors that condition it; 0 for a plain one.

    Raises:
        ValueError: An argument is not allowed; the rules and messages are those of its spec.
    """

    def __init__(self, in_channels: int, *, num_labels: int = 0):
        check_arguments(BatchNormSpec, locals())
        super().__init__()
        self.batch_norm = build_batch_norm(in_channels, True, num_labels)

    def forward(
        self,
        feature_map: Float[Tensor, "batch in_channels height width"],
        labels: Float[Tensor, "batch num_labels"] | None = None,
    ) -> Float[Tensor, "batch in_channels height width"]:
        """Return the normalized feature map."""
        return apply_norm(self.batch_norm, feature_map, labels)
