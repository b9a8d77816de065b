"""The generator of a web page: a network that also returns where its layers attend, and what their branches add.

The page moves gates, leaves out terms and asks for the attention of some pixels; all three are inputs, so that one
exported model answers everything, and no output has N x N weights.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fagan_hf.attention_maps.capture import attention_layers
from fagan_hf.export.generator_file import Traceable
from fagan_hf.layers import AttentionLayer
from fagan_hf.models import Generator


class WebGraph(nn.Module):
    """A generator whose gates, terms and queries are inputs, and whose attention is an output.

    Args:
        generator: In eval mode; its layers are run one after another, each is the sum of its `AttentionLayer.blend`.

    Attributes:
        output_names: Names of what `forward` returns, in order.
    """

    def __init__(self, generator: Generator):
        super().__init__()
        self.traceable = Traceable(generator)
        self.image_size = generator.config.image_size
        self.layers = list(attention_layers(generator).values())
        kinds = ("attention", "convolution", "gathered")
        self.output_names = ["images", *(f"{kind}_{i}" for i in range(len(self.layers)) for kind in kinds)]

    def forward(
        self,
        latents: Float[Tensor, "batch latent_dim"],
        labels: Float[Tensor, "batch num_labels"] | None = None,
        gates: Float[Tensor, " layers"] | None = None,
        terms: Float[Tensor, "layers 2"] | None = None,
        positions: Int[Tensor, "count 2"] | None = None,
    ) -> tuple[Tensor, ...]:
        """Return images, and for each layer the weights of its queries and the strength of both of its terms.

        Args:
            latents: Standard normal.
            labels: From 0 to 1; for a conditional generator only.
            gates: Value of each layer's gate. This and the following are given if there are attention layers.
            terms: Factors on the terms of `AttentionLayer.blend`, ``[1, 0]`` is a layer without attention.
            positions: Queries, as (row, column) in pixels of the image.

        Returns:
            ``images``, ``[batch, channels, size, size]``; then for each layer ``attention``, the weights averaged over
            heads, ``[batch, count, rows, columns]``, and ``convolution`` and ``gathered``, the root mean square over
            channels of each term before ``terms``, ``[batch, height, width]``.
        """
        if gates is None or terms is None or positions is None:
            return (self.traceable(latents, labels),)
        seen: list[tuple[Tensor, ...]] = []
        with ExitStack() as stack:
            for index, layer in enumerate(self.layers):
                spy = _Spy(layer, gates[index], terms[index], positions, self.image_size, seen)
                stack.enter_context(_running(layer, spy))
            images = self.traceable(latents, labels)
        return images, *(each for outputs in seen for each in outputs)


class _Spy:
    """Runs a layer with a gate and factors of its own, and keeps what it attends to."""

    def __init__(
        self,
        layer: AttentionLayer,
        gate: Tensor,
        factors: Tensor,
        positions: Tensor,
        image_size: int,
        seen: list[tuple[Tensor, ...]],
    ):
        # A shallow copy, as in `observe_attention`: entries of `__dict__` precede parameters of the same name.
        self.layer = object.__new__(type(layer))
        self.layer.__dict__.update(layer.__dict__, attend=self.attend)
        self.layer.__dict__[layer.gate_name] = gate
        self.attend_of_layer = layer.attend
        self.factors, self.positions, self.image_size, self.seen = factors, positions, image_size, seen

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        self.query, self.key = query, key
        return self.attend_of_layer(query, key, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        terms = self.layer.blend(*self.layer.branches(*args, **kwargs))
        self.seen.append((self._attention(), *map(_strength, terms)))
        return self.factors[0] * terms[0] + self.factors[1] * terms[1]

    def _attention(self) -> Tensor:
        height, width = self.query.shape[2:]
        # As `position_on_map`. The quotient of tensors is rounded toward zero: the same for positions inside the image.
        rows, columns = (
            torch.div(self.positions[:, axis] * size, self.image_size, rounding_mode="trunc")
            for axis, size in enumerate((height, width))
        )
        weights = self.layer.weights(self.query, self.key, rows * width + columns)
        return weights.mean(1).unflatten(-1, self.key.shape[2:])


def _strength(term: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch height width"]:
    """Return the root mean square over channels, by a convolution: means over channels are slow in ONNX Runtime."""
    channels = term.shape[1]
    mean = term.new_full((1, channels, 1, 1), 1 / channels)
    return torch.nn.functional.conv2d(term.square(), mean)[:, 0].sqrt()


@contextmanager
def _running(layer: nn.Module, forward: Any) -> Iterator[None]:
    """Replace a layer's forward in this block."""
    layer.__dict__["forward"] = forward
    try:
        yield
    finally:
        del layer.__dict__["forward"]
