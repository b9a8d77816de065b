"""The two attention layers: SAGAN's, on top of a feature map, and FAGAN's, which makes the feature map itself."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fagan_hf.layers.activations import build_activation
from fagan_hf.layers.batch_norm import build_batch_norm
from fagan_hf.layers.conditional_norm import normalize
from fagan_hf.layers.conv import normalized
from fagan_hf.layers.functional import attention
from fagan_hf.layers.gates import current_gate
from fagan_hf.layers.similarity import build_similarity
from fagan_hf.layers.upsampling import UpsamplingConv2d


class AttentionLayer(nn.Module):
    """What attention layers have in common: two branches and a gate between them.

    Whatever derives from it is found by `gates`, turned by `override_alpha` and seen by `capture_attention`.

    Attributes:
        gate_name: Name of the gate, a scalar parameter.
        query, key: Modules that make the query and the key of the input.
        heads: Number of groups of channels that attend on their own.
    """

    gate_name: ClassVar[str]
    query: nn.Module
    key: nn.Module
    heads: int

    @property
    def gate(self) -> Tensor | float:
        """The gate as it stands, overridden or trained."""
        return current_gate(getattr(self, self.gate_name))

    def query_and_key(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """Give the two maps whose products the softmax is taken of; the key's may have fewer positions."""
        return self.query(feature_map), self.key(feature_map)

    def branches(self, feature_map: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Give what the layer outputs without attention, and what attention gathers, of the same shape."""
        raise NotImplementedError

    def blend(self, plain: Tensor, gathered: Tensor) -> tuple[Tensor, Tensor]:
        """Give the two terms, one of each branch, whose sum is the layer's output."""
        raise NotImplementedError


class SelfAttention(AttentionLayer):
    """Add to a feature map what its positions gather from each other: ``gamma * f(attention(x)) + x``.

    Args:
        in_channels: Channels that come in and go out.
        squeeze_factor: Query and key have ``in_channels // squeeze_factor`` channels.
        heads: Number of groups of channels that attend on their own; the paper has one.
        bias: Do query, key and value have a bias?
        activation: f, a name such as ``"leaky_relu(0.2)"``; the paper has none.

    Attributes:
        query, key, value: 1x1 convolutions.
        gamma: The gate, a trained scalar that starts at 0: the layer begins as the identity.

    Reference:
        SAGAN, arXiv:1805.08318, equation 3.
    """

    gate_name = "gamma"

    def __init__(
        self,
        in_channels: int,
        *,
        squeeze_factor: int = 8,
        heads: int = 1,
        bias: bool = True,
        activation: str = "identity",
    ):
        super().__init__()
        squeezed = in_channels // squeeze_factor
        self.heads = heads
        self.query = nn.Conv2d(in_channels, squeezed, kernel_size=1, bias=bias)
        self.key = nn.Conv2d(in_channels, squeezed, kernel_size=1, bias=bias)
        self.value = nn.Conv2d(in_channels, in_channels, kernel_size=1, bias=bias)
        self.activation = build_activation(activation)
        self.gamma = nn.Parameter(torch.zeros(()))

    def branches(self, feature_map: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Give the feature map itself, and what its positions gather."""
        gathered = attention(*self.query_and_key(feature_map), self.value(feature_map), self.heads)
        return feature_map, self.activation(gathered)

    def blend(self, plain: Tensor, gathered: Tensor) -> tuple[Tensor, Tensor]:
        """Give ``x`` and ``gamma * attention``."""
        return plain, self.gate * gathered

    def forward(
        self, feature_map: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch in_channels height width"]:
        """Give the feature map with what it attended to added."""
        plain, gathered = self.branches(feature_map)
        return self.gate * gathered + plain


class FullAttention(AttentionLayer):
    """Extract features and attend at once: ``alpha * f(attention(x)) + (1 - alpha) * f(batch_norm(conv(x)))``.

    Query, key and value are k x k convolutions (or transposed ones) like the convolution path's own, so the layer
    shrinks or enlarges in both paths alike. Spectral and batch norm act on the convolution path only, the activation f
    on both paths before they are blended.

    Args:
        in_channels: Channels that come in.
        out_channels: Channels that go out.
        kernel_size: Height and width of all four kernels [pixels].
        stride: Their step [pixels].
        padding: Zeros around the input [pixels].
        transposed: Enlarge, by transposed convolutions?
        squeeze_factor: Query and key have ``in_channels // squeeze_factor`` channels.
        bias: Do the four convolutions have a bias?
        spectral_norm: Divide the convolution path's weight by its spectral norm?
        spectral_norm_dim: The weight's dimension that counts as rows for that norm.
        batch_norm: Normalize the convolution path over the batch?
        num_labels: Width of the label vectors that steer the batch norm; 0 for a plain one.
        activation: A name such as ``"leaky_relu(0.2)"``.
        heads: Number of groups of channels that attend on their own; the original has one.
        similarity: What the softmax is taken of: ``"dot_product"``, the original's, ``"cosine"`` or
            ``"negative_distance"``; see `fagan_hf.layers.similarity`.
        key_pooling: Key and value are made of means over squares of this side [pixels of the input, doubled if it is],
            so there are fewer of them by its square. 1 is the original's. SAGAN's published code has 2, by maxima
            behind its convolutions.
        upsample: Double height and width of the input by nearest neighbor first? The convolutions must then be no
            transposed ones, of stride 1, with a padding of half the kernel, and ``key_pooling`` 1 or even.
        initial_alpha: What the gate starts at. 0 is the original's: the layer begins as a convolution. From there
            chance decides its sign, which matters where the output has bounds, for below 0 it exceeds them.

    Attributes:
        query, key, value: The attention path's convolutions.
        similarity: What makes query and key comparable.
        residual: The convolution path's.
        batch_norm: Behind `residual`; an identity where there is none.
        alpha: The gate, a trained scalar. It is unbounded, as in the original, so a network may also learn to subtract
            what attention finds.

    Reference:
        FAGAN, Animesh Karnewar 2018; ``FullAttention`` of attn-gan-pytorch 1.2.3, whose gate is called ``gamma``.
    """

    gate_name = "alpha"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        transposed: bool = False,
        squeeze_factor: int = 8,
        bias: bool = True,
        spectral_norm: bool = True,
        spectral_norm_dim: int = 0,
        batch_norm: bool = True,
        num_labels: int = 0,
        activation: str = "leaky_relu(0.2)",
        heads: int = 1,
        similarity: str = "dot_product",
        key_pooling: int = 1,
        upsample: bool = False,
        initial_alpha: float = 0.0,
    ):
        super().__init__()
        conv_class = nn.ConvTranspose2d if transposed else nn.Conv2d
        squeezed = in_channels // squeeze_factor
        # A doubled map that is pooled again by an even number is the map itself, pooled by half of it.
        is_pooled_undoubled = upsample and key_pooling > 1

        def conv(channels: int, is_doubled: bool = upsample) -> nn.Module:
            if is_doubled:
                return UpsamplingConv2d(in_channels, channels, kernel_size, bias=bias)
            return conv_class(in_channels, channels, kernel_size, stride, padding, bias=bias)

        self.heads = heads
        self.query = conv(squeezed)
        self.key = conv(squeezed, upsample and not is_pooled_undoubled)
        self.value = conv(out_channels, upsample and not is_pooled_undoubled)
        self.similarity = build_similarity(similarity, heads)
        self.key_pooling = key_pooling // 2 if is_pooled_undoubled else key_pooling
        self.residual = normalized(conv(out_channels), spectral_norm, spectral_norm_dim)
        self.batch_norm = build_batch_norm(out_channels, batch_norm, num_labels)
        # Attention's backward pass needs what attention gives; nobody needs what the batch norm gives.
        self.activation = build_activation(activation)
        self.residual_activation = build_activation(activation, may_overwrite=True)
        self.alpha = nn.Parameter(torch.tensor(float(initial_alpha)))

    def query_and_key(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """Give the two maps whose products the softmax is taken of; the key's has fewer positions if it is pooled."""
        return self.similarity(self.query(feature_map), self.key(self._pooled(feature_map)))

    def _pooled(self, feature_map: Tensor) -> Tensor:
        return functional.avg_pool2d(feature_map, self.key_pooling) if self.key_pooling > 1 else feature_map

    def branches(self, feature_map: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Give the convolution path's output and the attention path's, both activated."""
        gathered = attention(*self.query_and_key(feature_map), self.value(self._pooled(feature_map)), self.heads)
        convolved = normalize(self.batch_norm, self.residual(feature_map), labels)
        return self.residual_activation(convolved), self.activation(gathered)

    def blend(self, plain: Tensor, gathered: Tensor) -> tuple[Tensor, Tensor]:
        """Give ``(1 - alpha) * convolution`` and ``alpha * attention``."""
        return (1 - self.gate) * plain, self.gate * gathered

    def forward(
        self,
        feature_map: Float[Tensor, "batch in_channels height width"],
        labels: Float[Tensor, "batch num_labels"] | None = None,
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        """Give the blend of both paths."""
        convolved, gathered = self.branches(feature_map, labels)
        gate = self.gate
        # One pass over both. It takes no numbers of two precisions, which there are under autocast.
        return torch.lerp(convolved, gathered, gate.to(gathered.dtype) if isinstance(gate, Tensor) else gate)
