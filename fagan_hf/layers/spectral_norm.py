"""Spectral normalization as a parametrization (Miyato et al., arXiv:1802.05957, algorithm 1).

Why not torch's: torch updates u before v, the original attn-gan-pytorch v before u as in the paper, and the two agree
only once the iteration has converged. In this order a new network agrees with the original up to rounding. Unlike the
original, u and v are not updated in eval mode, so the same input gives the same output.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

EPSILON = 1e-12  # the original's, added to a length before dividing by it


def _unit(vector: Float[Tensor, " length"]) -> Float[Tensor, " length"]:
    return vector / (vector.norm() + EPSILON)


class SpectralNorm(nn.Module):
    """Divide a weight by an estimate of its largest singular value.

    In training mode each call updates the estimate by one power iteration; in eval mode it is not updated.

    Args:
        weight: The weight, for its shape and dtype.
        dim: The weight's dimension used as rows; all others together are the columns.

    Attributes:
        u: Left singular vector ``[rows]``, of length 1.
        v: Right singular vector ``[columns]``, of length 1.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, dim: int = 0):
        super().__init__()
        self.dim = dim
        rows, columns = weight.movedim(dim, 0).flatten(1).shape
        self.register_buffer("u", _unit(torch.randn(rows, device=weight.device, dtype=weight.dtype)))
        self.register_buffer("v", _unit(torch.randn(columns, device=weight.device, dtype=weight.dtype)))

    def extra_repr(self) -> str:
        """Return the size of the matrix."""
        return f"dim={self.dim}, rows={len(self.u)}, columns={len(self.v)}"

    def _matrix(self, weight: Tensor) -> tuple[Float[Tensor, "rows columns"], Tensor]:
        """Return the weight as a matrix, and `v` as a view whose entries are in the order of its columns.

        That is the memory order, which for channels_last differs from the order of `v`: a matrix in `v`'s order would
        require a copy of the weight in every call.
        """
        rows = weight.movedim(self.dim, 0)
        order = sorted(range(1, rows.ndim), key=lambda dim: -rows.stride(dim))
        v = self.v.view(rows.shape[1:]).permute([dim - 1 for dim in order])
        return rows.permute(0, *order).flatten(1), v

    @torch.no_grad()
    def iterate(self, weight: Tensor, iterations: int = 1) -> None:
        """Move `u` and `v` toward the singular vectors of ``weight``."""
        matrix, v = self._matrix(weight)
        for _ in range(iterations):
            unit = _unit(matrix.mT @ self.u)
            # Copied in place: the buffers must stay the same tensors, for state dicts and other processes.
            v.copy_(unit.view(v.shape))
            self.u.copy_(_unit(matrix @ unit))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight divided by its estimated norm, in the weight's shape."""
        # In the weight's precision even under autocast: half precision is too coarse for a norm that divides all
        # weights.
        with torch.autocast(weight.device.type, enabled=False):
            if self.training:
                self.iterate(weight)
            return weight / self.sigma(weight)

    def sigma(self, weight: Tensor) -> Float[Tensor, ""]:
        """Return the estimate of the weight's largest singular value."""
        # Clones, because the next iteration overwrites the buffers while this call's gradient still needs them.
        matrix, v = self._matrix(weight)
        return torch.dot(self.u.clone(), matrix @ v.clone(memory_format=torch.contiguous_format).flatten())


def spectral_norm(module: nn.Module, dim: int = 0) -> nn.Module:
    """Normalize a module's weight by its spectral norm, along ``dim``; modifies and returns the module."""
    parametrize.register_parametrization(module, "weight", SpectralNorm(cast(Tensor, module.weight), dim))
    return module


def hold_spectral_norms(network: nn.Module) -> list[SpectralNorm]:
    """Keep forward passes in training mode from updating the estimates; `refresh_spectral_norms` still does.

    A training loop that updates them once per step uses the same weights in every pass of the step.

    Args:
        network: Any module. Calling its ``train()`` undoes this.

    Returns:
        The spectral norms in it.
    """
    return [module.eval() for module in network.modules() if isinstance(module, SpectralNorm)]


def refresh_spectral_norms(network: nn.Module, iterations: int = 20) -> None:
    """Update the estimates of a network whose weights were set from outside, such as averaged ones.

    Args:
        network: Any module; each spectrally normalized weight in it is refreshed in place.
        iterations: Power iterations; with 20 the estimate for averaged weights is within about 1e-3 of the true norm.
    """
    for _, norm, weight in _normalized_weights(network):
        norm.iterate(weight, iterations)


@torch.no_grad()
def spectral_norms(network: nn.Module) -> dict[str, Tensor]:
    """Return the estimated largest singular value of every spectrally normalized weight, by the layer's name."""
    return {name: norm.sigma(weight) for name, norm, weight in _normalized_weights(network)}


def _normalized_weights(network: nn.Module) -> Iterator[tuple[str, SpectralNorm, Tensor]]:
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrizations = cast(Any, module.parametrizations)["weight"]
            for norm in parametrizations:
                if isinstance(norm, SpectralNorm):
                    yield name, norm, parametrizations.original
