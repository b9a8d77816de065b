"""Spectral normalization as a parametrization (Miyato et al., arXiv:1802.05957, algorithm 1).

Why not torch's: torch updates u before v, the original attn-gan-pytorch v before u as in the paper, and the two agree
only once the iteration has converged. In this order a new network agrees with the original up to rounding. Unlike the
original, u and v are not updated in eval mode, so the same input gives the same output.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, SupportsIndex, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fagan_hf.layers.execution import has_tensor_hooks, is_recomputing, is_transformed, no_autocast

EPSILON = 1e-12  # the original's, added to a length before dividing by it

_NOT_REPEATABLE = (
    "gradient checkpointing repeats a forward pass in training mode that can't be repeated exactly: another pass has "
    "updated the spectral norm since. To update it once per step instead, in which there may be any number of passes, "
    "call fagan_hf.layers.hold_spectral_norms(network) after network.train(), and refresh_spectral_norms(network, "
    "iterations=1) at the beginning of each step"
)


def _unit(vector: Float[Tensor, " length"]) -> Float[Tensor, " length"]:
    return vector / (vector.norm() + EPSILON)


class SpectralNorm(nn.Module):
    """Divide a weight by an estimate of its largest singular value.

    In training mode each call updates the estimate by one power iteration; in eval mode it is not updated. A call that
    is repeated by gradient checkpointing uses the estimate of the first one.

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
        self.forget_passes()
        rows, columns = weight.movedim(dim, 0).flatten(1).shape
        self.register_buffer("u", _unit(torch.randn(rows, device=weight.device, dtype=weight.dtype)))
        self.register_buffer("v", _unit(torch.randn(columns, device=weight.device, dtype=weight.dtype)))

    def extra_repr(self) -> str:
        """Return the size of the matrix."""
        return f"dim={self.dim}, rows={len(self.u)}, columns={len(self.v)}"

    def forget_passes(self) -> None:
        """Forget which passes updated the estimate: none of them will be recomputed."""
        self._unrepeated = Counter[str]()  # by kind
        self._last_pass = "none"

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
            try:
                v.copy_(unit.view(v.shape))
                self.u.copy_(_unit(matrix @ unit))
            except RuntimeError as error:
                if not is_transformed():
                    raise
                raise ValueError(
                    "spectral norm updates its buffers in training mode, but a transform of torch.func may change only "
                    "its own inputs; call network.eval() or hold_spectral_norms(network) first, or under grad give the "
                    "buffers as an input, too: functional_call(network, (parameters, buffers), ...)"
                ) from error

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight divided by its estimated norm, in the weight's shape."""
        # In the weight's precision even under autocast: half precision is too coarse for a norm that divides all
        # weights.
        with no_autocast(weight.device):
            if self.training:
                self._move(weight)
            return weight / self.sigma(weight)

    def _move(self, weight: Tensor) -> None:
        """Update the estimate, unless this call repeats the last one that did.

        Raises:
            ValueError: It may repeat an earlier one, whose estimate is gone.
        """
        if torch.compiler.is_compiling():  # a compiled graph recomputes from the values that it had
            self.iterate(weight)
        elif is_recomputing():
            kind = "hooked" if has_tensor_hooks() else "without gradient"
            if self._last_pass not in ("none", kind) or self._unrepeated[kind] > 1:
                raise ValueError(_NOT_REPEATABLE)
            self._unrepeated[kind] = 0
        else:
            self.iterate(weight)
            # Reentrant checkpointing runs the first pass without gradient, the other kind with hooks.
            is_plain = torch.is_grad_enabled() and not has_tensor_hooks()
            self._last_pass = "plain" if is_plain else "hooked" if torch.is_grad_enabled() else "without gradient"
            self._unrepeated[self._last_pass] += 1

    def sigma(self, weight: Tensor) -> Float[Tensor, ""]:
        """Return the estimate of the weight's largest singular value."""
        # Clones, because the next iteration overwrites the buffers while this call's gradient still needs them.
        matrix, v = self._matrix(weight)
        return torch.dot(self.u.clone(), matrix @ v.clone(memory_format=torch.contiguous_format).flatten())


def spectral_norm(module: nn.Module, dim: int = 0) -> nn.Module:
    """Normalize a module's weight by its spectral norm, along ``dim``; modifies and returns the module."""
    norm = SpectralNorm(cast(Tensor, module.weight), dim)
    parametrize.register_parametrization(module, "weight", norm)  # with a trial call
    norm.forget_passes()
    type(module).__reduce_ex__ = _reduce  # the class belongs to this module and its copies
    return module


def _reduce(module: nn.Module, protocol: SupportsIndex) -> str | tuple[Any, ...]:
    """Pickle a module as the plain one and its norm: pickle can't find classes that torch makes for parametrizations.

    Raises:
        RuntimeError: The module has other parametrizations, too.
    """
    parametrizations: Any = module.parametrizations
    if list(parametrizations) != ["weight"] or [type(each) for each in parametrizations["weight"]] != [SpectralNorm]:
        return nn.Module.__reduce_ex__(module, protocol)  # torch's refusal
    weights = parametrizations["weight"]
    state = dict(vars(module))
    state["_parameters"] = {**state["_parameters"], "weight": weights.original}
    state["_modules"] = {name: each for name, each in state["_modules"].items() if name != "parametrizations"}
    return _restore, (parametrize.type_before_parametrizations(module), state, weights[0])


def _restore(module_class: type[nn.Module], state: dict[str, Any], norm: SpectralNorm) -> nn.Module:
    module = module_class.__new__(module_class)
    module.__setstate__(state)
    is_moving = norm.training
    parametrize.register_parametrization(module, "weight", norm, unsafe=True)  # a trial call would update the estimate
    cast(nn.Module, module.parametrizations).train(module.training)
    norm.train(is_moving)
    type(module).__reduce_ex__ = _reduce
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
