"""The two attention layers: SAGAN's, on top of a feature map, and FAGAN's, which computes the feature map itself."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fagan_hf.architectures.specs import FullAttentionSpec, SelfAttentionSpec, check_arguments, check_key_pooling
from fagan_hf.layers.activations import build_activation
from fagan_hf.layers.batch_norm import build_batch_norm
from fagan_hf.layers.conditional_norm import apply_norm
from fagan_hf.layers.conv import maybe_spectral_norm
from fagan_hf.layers.functional import attention, attention_weights
from fagan_hf.layers.gates import current_gate
from fagan_hf.layers.similarity import build_similarity
from fagan_hf.layers.upsampling import UpsamplingConv2d


class AttentionLayer(nn.Module):
    """Base class of attention layers: two branches and a gate between them.

    Subclasses are found by `gates`, overridden by `override_alpha` and recorded by `capture_attention`. To attend in
    another way (within windows, to the nearest keys, in linear time), override both `attend` and `weights`, such that
    the weights times the value are what is gathered: maps, statistics and operations are theirs. A layer for which this
    does not hold works, but `fagan_hf.attention_maps` refuses to inspect it.

    Attributes:
        gate_name: Name of the gate, a scalar parameter.
        query, key: Modules that compute the query and the key from the input.
        heads: Number of attention heads.
    """

    gate_name: ClassVar[str]
    query: nn.Module
    key: nn.Module
    heads: int
    _options: str = ""  # for `extra_repr`

    @property
    def gate(self) -> Tensor | float:
        """The current gate, overridden or trained."""
        return current_gate(getattr(self, self.gate_name))

    def query_and_key(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """Return the query and the key that are given to `attend`; the key may have fewer positions."""
        return self.query(feature_map), self.key(feature_map)

    def attend(
        self,
        query: Float[Tensor, "batch key_channels height width"],
        key: Float[Tensor, "batch key_channels rows columns"],
        value: Float[Tensor, "batch channels rows columns"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Return for each position of the query the mean of all values, weighted by `weights`.

        `branches` calls it once; nothing else in a layer mixes positions by content.
        """
        return attention(query, key, value, self.heads)

    def weights(
        self,
        query: Float[Tensor, "batch key_channels height width"],
        key: Float[Tensor, "batch key_channels rows columns"],
        queries: Int[Tensor, " queries"],
    ) -> Float[Tensor, "batch heads queries keys"]:
        """Return the weights with which `attend` averages the values, for some positions of the query.

        Args:
            query: As given to `attend`.
            key: As given to `attend`.
            queries: Indices of positions, row by row, from 0 to ``height * width - 1``.

        Returns:
            One for each key, row by row: not negative, with a sum of 1 for each query.
        """
        return attention_weights(query, key, queries, self.heads)

    def branches(self, feature_map: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the output without attention, and the output of attention, of the same shape."""
        raise NotImplementedError

    def blend(self, plain: Tensor, gathered: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two terms, one per branch, whose sum is the layer's output."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Return the options that the layer was built with, the heads, and the gate."""
        gate = torch.as_tensor(self.gate).detach()
        own = f"heads={self.heads}, {self.gate_name}={'?' if gate.is_meta else format(gate.item(), '.3g')}"
        return f"{self._options}, {own}" if self._options else own


class SelfAttention(AttentionLayer):
    """Add attention over its positions to a feature map: ``gamma * f(attention(x)) + x``.

    Args:
        in_channels: Input and output channels.
        squeeze_factor: Query and key have ``in_channels // squeeze_factor`` channels.
        heads: Number of attention heads; the paper has one.
        bias: Whether query, key and value have a bias.
        activation: f, a name such as ``"leaky_relu(0.2)"``; the paper has none.

    Attributes:
        query, key, value: 1x1 convolutions.
        gamma: The gate, a trained scalar that starts at 0: the layer begins as the identity.

    Raises:
        ValueError: An argument is not allowed; the rules and messages are those of its spec.

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
        check_arguments(SelfAttentionSpec, locals())
        super().__init__()
        squeezed = in_channels // squeeze_factor
        self.heads = heads
        self.query = nn.Conv2d(in_channels, squeezed, kernel_size=1, bias=bias)
        self.key = nn.Conv2d(in_channels, squeezed, kernel_size=1, bias=bias)
        self.value = nn.Conv2d(in_channels, in_channels, kernel_size=1, bias=bias)
        self.activation = build_activation(activation)
        self.gamma = nn.Parameter(torch.zeros(()))
        self._options = f"{in_channels}, squeeze_factor={squeeze_factor}"

    def branches(self, feature_map: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the feature map itself, and the output of attention."""
        gathered = self.attend(*self.query_and_key(feature_map), self.value(feature_map))
        return feature_map, self.activation(gathered)

    def blend(self, plain: Tensor, gathered: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``x`` and ``gamma * attention``."""
        return plain, self.gate * gathered

    def forward(
        self, feature_map: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch in_channels height width"]:
        """Return the feature map plus the gated attention."""
        plain, gathered = self.branches(feature_map)
        return self.gate * gathered + plain


class FullAttention(AttentionLayer):
    """Extract features and attend at once: ``alpha * f(attention(x)) + (1 - alpha) * f(batch_norm(conv(x)))``.

    Query, key and value are k x k convolutions (or transposed ones) like that of the convolution path, so both paths
    downsample or upsample alike. Spectral and batch norm apply to the convolution path only, the activation f to both
    paths before they are blended.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel_size: Height and width of all four kernels [pixels].
        stride: Stride of all four convolutions [pixels].
        padding: Zeros around the input [pixels].
        transposed: Upsample with transposed convolutions.
        squeeze_factor: Query and key have ``in_channels // squeeze_factor`` channels.
        bias: Whether the four convolutions have a bias.
        spectral_norm: Divide the convolution path's weight by its spectral norm.
        spectral_norm_dim: The weight's dimension used as the rows for that norm.
        batch_norm: Apply batch norm to the convolution path.
        num_labels: Width of the label vectors that condition the batch norm; 0 for a plain one.
        activation: A name such as ``"leaky_relu(0.2)"``.
        heads: Number of attention heads; the original has one.
        similarity: Input of the softmax: ``"dot_product"``, as in the original, ``"cosine"`` or
            ``"negative_distance"``; see `fagan_hf.layers.similarity`.
        key_pooling: Key and value are computed from means over squares of this side [pixels of the (doubled) input],
            which divides their number by its square. The original has 1. SAGAN's published code has 2, by max pooling
            after its convolutions.
        upsample: Double height and width of the input by nearest neighbor first. The convolutions must then not be
            transposed, with stride 1 and a padding of half the kernel, and ``key_pooling`` must be 1 or even.
        initial_alpha: Initial value of the gate. The original has 0: the layer begins as a convolution. From there its
            sign is decided by chance, which matters if the output is bounded: with a negative gate it exceeds the
            bounds.

    Attributes:
        query, key, value: Convolutions of the attention path.
        similarity: Transforms query and key before their product.
        residual: Convolution of the convolution path.
        batch_norm: Follows `residual`; an identity if there is none.
        alpha: The gate, a trained scalar. It is unbounded, as in the original, so a network may also learn to subtract
            attention.

    Raises:
        ValueError: An argument is not allowed; the rules and messages are those of its spec.

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
        check_arguments(FullAttentionSpec, locals())
        super().__init__()
        conv_class = nn.ConvTranspose2d if transposed else nn.Conv2d
        squeezed = in_channels // squeeze_factor
        # Doubling a map and pooling it by an even number equals pooling the map by half that number.
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
        self.upsample = upsample
        self.key_pooling = key_pooling // 2 if is_pooled_undoubled else key_pooling
        self.residual = maybe_spectral_norm(conv(out_channels), spectral_norm, spectral_norm_dim)
        self.batch_norm = build_batch_norm(out_channels, batch_norm, num_labels)
        # Attention's backward pass needs its output; nothing needs the output of the batch norm.
        self.activation = build_activation(activation)
        self.residual_activation = build_activation(activation, may_overwrite=True)
        self.alpha = nn.Parameter(torch.tensor(float(initial_alpha)))
        shape = f"{in_channels}, {out_channels}, kernel_size={kernel_size}, stride={stride}, padding={padding}"
        resized = ", transposed=True" if transposed else ", upsample=True" if upsample else ""
        self._options = f"{shape}{resized}, squeeze_factor={squeeze_factor}, {similarity=}, {key_pooling=}"

    def query_and_key(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """Return query and key, transformed by the similarity; a pooled key has fewer positions."""
        return self.similarity(self.query(feature_map), self.key(self._pooled(feature_map)))

    def _pooled(self, feature_map: Tensor) -> Tensor:
        if self.key_pooling == 1:
            return feature_map
        for size in feature_map.shape[2:]:
            check_key_pooling(self.key_pooling * (2 if self.upsample else 1), size, self.upsample)
        return functional.avg_pool2d(feature_map, self.key_pooling)

    def branches(self, feature_map: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the outputs of the convolution path and the attention path, both activated."""
        gathered = self.attend(*self.query_and_key(feature_map), self.value(self._pooled(feature_map)))
        convolved = apply_norm(self.batch_norm, self.residual(feature_map), labels)
        return self.residual_activation(convolved), self.activation(gathered)

    def blend(self, plain: Tensor, gathered: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(1 - alpha) * convolution`` and ``alpha * attention``."""
        return (1 - self.gate) * plain, self.gate * gathered

    def forward(
        self,
        feature_map: Float[Tensor, "batch in_channels height width"],
        labels: Float[Tensor, "batch num_labels"] | None = None,
    ) -> Float[Tensor, "batch out_channels out_height out_width"]:
        """Return the blend of both paths."""
        convolved, gathered = self.branches(feature_map, labels)
        gate = self.gate
        # A single pass over both. It does not support mixed dtypes, which occur under autocast.
        return torch.lerp(convolved, gathered, gate.to(gathered.dtype) if isinstance(gate, Tensor) else gate)
