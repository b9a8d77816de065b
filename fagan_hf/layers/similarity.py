"""Similarity of query and key: the input of attention's softmax."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fagan_hf.architectures.specs import SIMILARITIES

_INITIAL_SCALE = 8.0  # of cosines: factors from e^-8 to e^8 allow almost one-hot weights, uniform at first
_EPSILON = 1e-6


class DotProduct(nn.Module):
    """The plain ``query . key``, unscaled and unbounded, as in SAGAN and FAGAN."""

    def forward(
        self, query: Float[Tensor, "batch channels height width"], key: Float[Tensor, "batch channels rows columns"]
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch channels rows columns"]]:
        """Return query and key unchanged."""
        return query, key


class Cosine(nn.Module):
    """The cosine of the angle between query and key, times a trained scale per head, which bounds it.

    Args:
        heads: Number of attention heads.

    Attributes:
        log_scale: Logarithm of each head's scale.

    Reference:
        Query-Key Normalization for Transformers, Henry et al., arXiv:2010.04245; per head and as a logarithm in Swin
        Transformer V2, arXiv:2111.09883.
    """

    def __init__(self, heads: int):
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((heads,), _INITIAL_SCALE).log())

    def extra_repr(self) -> str:
        """Return the number of heads."""
        return f"heads={len(self.log_scale)}"

    def forward(
        self, query: Float[Tensor, "batch channels height width"], key: Float[Tensor, "batch channels rows columns"]
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch channels rows columns"]]:
        """Return both normalized to length 1 in each head, the query times the scale."""
        heads = len(self.log_scale)
        by_head = query.unflatten(1, (heads, -1)), key.unflatten(1, (heads, -1))
        query, key = (each * _reciprocal_length(each) for each in by_head)
        return (query * self.log_scale.exp()[:, None, None, None]).flatten(1, 2), key.flatten(1, 2)


class NegativeDistance(nn.Module):
    """The negative squared distance of query and key, divided by the root of their channels: never above 0.

    Written as a product: ``2 q.k - |k|^2`` differs from ``-|q - k|^2`` by a term that is the same for all keys.

    Args:
        heads: Number of attention heads.

    Reference:
        The Lipschitz Constant of Self-Attention, Kim et al., arXiv:2006.04710, equation 9; in GANs ViTGAN,
        arXiv:2107.04589. Theirs has one weight for query and key.
    """

    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads

    def extra_repr(self) -> str:
        """Return the number of heads."""
        return f"heads={self.heads}"

    def forward(
        self, query: Float[Tensor, "batch channels height width"], key: Float[Tensor, "batch channels rows columns"]
    ) -> tuple[Float[Tensor, "batch longer height width"], Float[Tensor, "batch longer rows columns"]]:
        """Return both with one additional channel in each head."""
        query, key = query.unflatten(1, (self.heads, -1)), key.unflatten(1, (self.heads, -1))
        query = query * (2 * query.shape[2] ** -0.5)
        squares = key.square().sum(2, keepdim=True) * (key.shape[2] ** -0.5)
        minus_ones = query.new_full((1,), -1.0).expand(query.shape[0], self.heads, 1, *query.shape[3:])
        return torch.cat([query, minus_ones], 2).flatten(1, 2), torch.cat([key, squares], 2).flatten(1, 2)


def build_similarity(name: str, heads: int) -> nn.Module:
    """Build the module that transforms query and key such that their products are the similarity.

    Args:
        name: ``"dot_product"``, ``"cosine"`` or ``"negative_distance"``.
        heads: Number of attention heads.
    """
    assert name in SIMILARITIES, name
    return {
        "dot_product": DotProduct,
        "cosine": lambda: Cosine(heads),
        "negative_distance": lambda: NegativeDistance(heads),
    }[name]()


def _reciprocal_length(by_head: Float[Tensor, "batch heads channels *map"]) -> Float[Tensor, "batch heads 1 *map"]:
    """Return 1 by the length; in single precision if it is float16, in which the gradient would overflow."""
    wide = by_head.float() if by_head.dtype == torch.float16 else by_head
    return (wide.square().sum(2, keepdim=True) + _EPSILON).rsqrt().to(by_head.dtype)
