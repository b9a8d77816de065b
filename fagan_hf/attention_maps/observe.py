"""Run an attention layer once, and see what it gives to `AttentionLayer.attend`; refuse layers that hide it.

Maps, statistics and operations are all computed from what is seen here, so they are true or there are none.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fagan_hf.attention_maps.positions import Position
from fagan_hf.layers import AttentionLayer
from fagan_hf.layers.execution import no_autocast

# Permitted differences, as a share of the numbers' spread: kernels round differently, and with products of query and
# key in the hundreds this is amplified by the softmax. A window that its weights don't know of differs by much more.
_TOLERANCE = 0.02
_ROUNDINGS = 8  # and this many roundings of the largest number
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class ObservedAttention:
    """What one attention layer did with one input, without gradients.

    Attributes:
        layer: The layer.
        name: Its name in error messages.
        query, key, value: The arguments of `AttentionLayer.attend`.
        attended: What it returned.
        plain, gathered: Both branches' outputs, before the gate.
    """

    layer: AttentionLayer
    name: str
    query: Float[Tensor, "batch key_channels height width"]
    key: Float[Tensor, "batch key_channels rows columns"]
    value: Float[Tensor, "batch channels rows columns"]
    attended: Float[Tensor, "batch channels height width"]
    plain: Float[Tensor, "batch out_channels out_height out_width"]
    gathered: Float[Tensor, "batch out_channels out_height out_width"]

    @property
    def map_shape(self) -> Position:
        """Height and width of the map of queries."""
        return self.query.shape[2], self.query.shape[3]

    @property
    def key_shape(self) -> Position:
        """Height and width of the map of keys."""
        return self.key.shape[2], self.key.shape[3]

    @torch.no_grad()
    def weights(self, queries: Int[Tensor, " queries"]) -> Float[Tensor, "batch heads queries keys"]:
        """Return the weights of some queries, in single precision at least, if the layer attends by them.

        Args:
            queries: Indices of positions, row by row, on the layer's device.

        Raises:
            ValueError: The weights have another shape, are negative, not finite or don't sum to 1, or their product
                with the value is not what was gathered.
        """
        weights = self.layer.weights(self.query, self.key, queries)
        rounding = torch.finfo(weights.dtype).eps
        weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
        shape = (len(self.query), self.layer.heads, len(queries), self.key.shape[2:].numel())
        if weights.shape != shape:
            raise ValueError(
                f"{self.name}: weights() of {_definition(self.layer, 'weights')} returned {list(weights.shape)}; it "
                f"must be [batch, heads, queries, keys], here {list(shape)}"
            )
        if weights.numel():
            self._check_distribution(weights, _SUM_TOLERANCE + _ROUNDINGS * rounding)
            self._check_product(weights, queries)
        return weights

    def _check_distribution(self, weights: Tensor, tolerance: float) -> None:
        sums = weights.sum(-1)
        lowest, least, most = (each.item() for each in (weights.min(), sums.min(), sums.max()))
        if not (lowest >= 0 and 1 - tolerance <= least and most <= 1 + tolerance):
            raise ValueError(
                f"{self.name}: weights() of {_definition(self.layer, 'weights')} returned weights from {lowest:.3g} on "
                f"with sums from {least:.3g} to {most:.3g}; they must not be negative, and sum to 1 for each query, "
                "because maps, distances and entropies are those of distributions. If they are not finite, neither are "
                "the layer's query and key. Otherwise divide by the sums in attend() and weights(), and multiply by "
                "them in branches(), after attend()"
            )

    def _check_product(self, weights: Tensor, queries: Tensor) -> None:
        values = self.value.to(weights.dtype).flatten(2).unflatten(1, (self.layer.heads, -1)).mT
        with no_autocast(weights.device):
            expected = (weights @ values).mT.flatten(1, 2)
        actual = self.attended.flatten(2)[..., queries].to(weights.dtype)
        spread = (values.amax(2) - values.amin(2)).max().item()
        difference = (actual - expected).abs().max().item()
        if not difference <= _allowed(spread, values.abs().max().item(), self.attended):
            raise ValueError(
                f"{self.name}: weights() times the value differs by up to {difference:.3g} from what attend() gathered "
                f"where values differ by {spread:.3g}; weights() is defined in {_definition(self.layer, 'weights')}, "
                f"attend() in {_definition(self.layer, 'attend')}. Override both, so that the layer attends by these "
                "weights"
            )


@torch.no_grad()
def observe_attention(layer: AttentionLayer, *args: Any, name: str = "", **kwargs: Any) -> ObservedAttention:
    """Run a layer once and return what it did; its parameters, buffers and hooks are not touched.

    Args:
        layer: In eval mode, or its batch and spectral norms are updated as by any pass.
        *args: Arguments of its forward.
        name: Name in error messages; by default that of its class.
        **kwargs: Keyword arguments of its forward.

    Raises:
        ValueError: The layer's forward does not attend by one call of `branches` that calls `attend` once, its output
            is not the sum of `blend`, or the shapes of query, key, value and result don't match.
    """
    name = name or type(layer).__name__
    attended, branched = [], []

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result = layer.attend(query, key, value)
        attended.append((query, key, value, result))
        return result

    def branches(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        before = len(attended)
        result = type(layer).branches(spied, *args, **kwargs)
        branched.append((*result, len(attended) - before))
        return result

    # A shallow copy with the same parameters and modules, which other threads that run the layer don't see. Calling
    # its forward runs no hooks.
    spied = object.__new__(type(layer))
    spied.__dict__.update(layer.__dict__, attend=attend, branches=branches)
    output = spied.forward(*args, **kwargs)
    if len(attended) != 1 or [calls for *_, calls in branched] != [1]:
        raise ValueError(
            f"{name}: forward() of {_definition(layer, 'forward')} called branches() {len(branched)} times, attend() "
            f"{len(attended)} times, {sum(calls for *_, calls in branched)} of them in branches() of "
            f"{_definition(layer, 'branches')}; it must be once each. Attend by attend(query, key, value) in "
            "branches(), and override attend() and weights() for another kind of attention"
        )
    [(query, key, value, result)], [(plain, gathered, _)] = attended, branched
    is_fitting = query.ndim == key.ndim == 4 and value.shape[2:] == key.shape[2:]
    if not is_fitting or result.shape != (len(value), value.shape[1], *query.shape[2:]):
        shapes = [list(each.shape) for each in (query, key, value, result)]
        raise ValueError(
            f"{name}: attend() of {_definition(layer, 'attend')} got query, key and value of {shapes[0]}, {shapes[1]} "
            f"and {shapes[2]}, and returned {shapes[3]}; all must be [batch, channels, height, width], with one value "
            "for each key and one result for each query"
        )
    terms = layer.blend(plain, gathered)
    largest = sum(term.abs().max().item() for term in terms) if output.numel() else 0.0
    difference = (output - sum(terms)).abs().max().item() if output.numel() else 0.0
    # Networks whose numbers overflowed are not refused: they have no attention to misreport.
    if difference > _allowed(largest, largest, output):
        raise ValueError(
            f"{name}: forward() of {_definition(layer, 'forward')} differs by up to {difference:.3g} from the sum of "
            f"blend() of both branches, up to {largest:.3g}; they must be equal. Blend what branches() returns, as "
            "blend() says"
        )
    return ObservedAttention(layer, name, query, key, value, result, plain, gathered)


def _allowed(spread: float, largest: float, computed: Tensor) -> float:
    """Return the difference that rounding explains."""
    rounding = torch.finfo(computed.dtype).eps
    if computed.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest":
        rounding = max(rounding, torch.finfo(torch.float16).eps)  # TF32 has as many digits
    return _TOLERANCE * spread + _ROUNDINGS * rounding * largest


def _definition(layer: AttentionLayer, method: str) -> str:
    """Return the name of the class in which a layer's method is defined."""
    return next(kind.__name__ for kind in type(layer).__mro__ if method in vars(kind))
