"""What is said of attention is true, for our layers and for those of others, or it is refused with words."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch.nn import functional

from fagan_hf.architectures.configs import GeneratorConfig
from fagan_hf.architectures.specs import (
    LAYER_SPECS,
    SIMILARITIES,
    ConvTransposeSpec,
    FullAttentionSpec,
    SelfAttentionSpec,
)
from fagan_hf.attention_maps import capture_attention, inspect_layers, observe_attention
from fagan_hf.layers import (
    LAYERS,
    FullAttention,
    FullAttentionBlock,
    SelfAttention,
    attention,
    attention_kernel,
    attention_weights,
    build_layer,
    register_layer,
)
from fagan_hf.models import Generator
from tests.small import with_gates

# Attention of others, as they would write it


@dataclass(frozen=True, kw_only=True)
class WindowAttentionSpec(FullAttentionSpec):
    type: ClassVar[str] = "window_attention"
    window: int = 2


class WindowAttention(FullAttention):
    """Attend within squares only."""

    def __init__(self, in_channels, out_channels, *, window, **options):
        super().__init__(in_channels, out_channels, **options)
        self.window = window

    def attend(self, query, key, value):
        rows = query.shape[2] // self.window
        cut = (
            each.unflatten(3, (-1, self.window)).unflatten(2, (-1, self.window)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
            for each in (query, key, value)
        )
        squares = attention(*cut, self.heads).unflatten(0, (len(value), rows, -1))
        return squares.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)

    def weights(self, query, key, queries):
        height, width = query.shape[2:]
        rows, columns = (torch.arange(size, device=query.device) // self.window for size in (height, width))
        square = (rows[:, None] * width + columns).flatten()
        query, key = (each.flatten(2).unflatten(1, (self.heads, -1)) for each in (query, key))
        scores = query[..., queries].mT @ key
        return scores.masked_fill(square[queries, None] != square, -torch.inf).softmax(-1)


@dataclass(frozen=True, kw_only=True)
class TopAttentionSpec(SelfAttentionSpec):
    type: ClassVar[str] = "top_attention"
    top: int = 3


class TopAttention(SelfAttention):
    """Attend to the most similar keys only."""

    def __init__(self, in_channels, *, top, **options):
        super().__init__(in_channels, **options)
        self.top = top

    def attend(self, query, key, value):
        every = torch.arange(query.shape[2:].numel(), device=query.device)
        values = value.flatten(2).unflatten(1, (self.heads, -1))
        return (values @ self.weights(query, key, every).mT).flatten(1, 2).unflatten(2, query.shape[2:])

    def weights(self, query, key, queries):
        query, key = (each.flatten(2).unflatten(1, (self.heads, -1)) for each in (query, key))
        scores, places = (query[..., queries].mT @ key).topk(self.top)
        empty = scores.new_zeros(*scores.shape[:3], key.shape[3])
        return empty.scatter(-1, places, scores.softmax(-1))


@dataclass(frozen=True, kw_only=True)
class LinearAttentionSpec(FullAttentionSpec):
    type: ClassVar[str] = "linear_attention"


class LinearAttention(FullAttention):
    """Attend in linear time, by a product of positive features (Katharopoulos et al., arXiv:2006.16236)."""

    def features(self, feature_map):
        return functional.elu(feature_map.flatten(2).unflatten(1, (self.heads, -1))) + 1

    def attend(self, query, key, value):
        queries, keys = self.features(query), self.features(key)
        values = value.flatten(2).unflatten(1, (self.heads, -1))
        gathered = (values @ keys.mT) @ queries / (keys.sum(3, keepdim=True).mT @ queries)
        return gathered.flatten(1, 2).unflatten(2, query.shape[2:])

    def weights(self, query, key, queries):
        products = self.features(query)[..., queries].mT @ self.features(key)
        return products / products.sum(-1, keepdim=True)


@pytest.fixture(autouse=True)
def registered():
    before = dict(LAYER_SPECS), dict(LAYERS)
    for pair in (
        (WindowAttentionSpec, WindowAttention),
        (TopAttentionSpec, TopAttention),
        (LinearAttentionSpec, LinearAttention),
    ):
        register_layer(*pair)
    yield
    for registry, content in zip((LAYER_SPECS, LAYERS), before, strict=True):
        registry.clear()
        registry.update(content)


SAME_SIZE = {"in_channels": 8, "out_channels": 8, "kernel_size": 3, "padding": 1, "squeeze_factor": 2}
OURS = {
    f"{similarity}-{heads}-{pooling}": FullAttentionSpec(
        **SAME_SIZE, similarity=similarity, heads=heads, key_pooling=pooling
    )
    for similarity in SIMILARITIES
    for heads in (1, 2)
    for pooling in (1, 2)
}
OURS |= {
    "down": FullAttentionSpec(in_channels=8, out_channels=4, kernel_size=4, stride=2, padding=1, heads=1),
    "up": FullAttentionSpec(**SAME_SIZE, upsample=True, key_pooling=4, heads=2),
    "self": SelfAttentionSpec(in_channels=8, squeeze_factor=2),
    "self-2": SelfAttentionSpec(in_channels=8, squeeze_factor=2, heads=2),
}
FOREIGN = {
    "window": WindowAttentionSpec(**SAME_SIZE),
    "window-2": WindowAttentionSpec(**SAME_SIZE, heads=2, similarity="cosine"),
    "top": TopAttentionSpec(in_channels=8, squeeze_factor=2),
    "top-2": TopAttentionSpec(in_channels=8, squeeze_factor=2, heads=2),
    "linear": LinearAttentionSpec(**SAME_SIZE, key_pooling=2),
    "linear-2": LinearAttentionSpec(**SAME_SIZE, heads=2),
}


def whole_weights(seen):
    return seen.weights(torch.arange(seen.query.shape[2:].numel()))


@pytest.mark.parametrize("kernel", ["chunked", "fused"])
@pytest.mark.parametrize("spec", (OURS | FOREIGN).values(), ids=(OURS | FOREIGN).keys())
def test_weights_times_value_is_what_was_gathered(spec, kernel):
    layer = build_layer(spec).double().eval()
    with attention_kernel(kernel):
        seen = observe_attention(layer, torch.randn(2, 8, 6, 4, dtype=torch.float64))
    weights = whole_weights(seen)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    values = seen.value.flatten(2).unflatten(1, (layer.heads, -1))
    expected = (values @ weights.mT).flatten(1, 2).unflatten(2, seen.map_shape)
    torch.testing.assert_close(seen.attended, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(layer.activation(seen.attended), seen.gathered)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1, 30])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_rounding_is_not_refused(similarity, scale, dtype):
    """Products of query and key in the hundreds, as in a network without a bound on them."""
    layer = FullAttention(**SAME_SIZE, similarity=similarity).to(dtype).eval()
    with torch.no_grad():
        layer.value.bias.add_(10)
        if similarity == "cosine":
            layer.similarity.log_scale.fill_(math.log(scale))
    feature_map = (scale * torch.randn(4, 8, 32, 32)).to(dtype)
    whole_weights(observe_attention(layer, feature_map))
    with torch.autocast("cpu", torch.bfloat16):
        whole_weights(observe_attention(layer.float(), feature_map.float()))


def test_a_window_has_no_weights_outside_of_it():
    layer = build_layer(WindowAttentionSpec(**SAME_SIZE)).eval()
    with capture_attention(layer, [(3, 2)]) as captured:
        layer(torch.randn(2, 8, 6, 6))
    weights = captured[""].weights[:, 0, 0]
    torch.testing.assert_close(weights[:, 2:4, 2:4].sum((1, 2)), torch.ones(2))
    assert weights.count_nonzero() == 2 * 4


def test_networks_of_foreign_layers_are_inspected():
    config = GeneratorConfig(
        latent_dim=8,
        image_size=8,
        layers=(
            ConvTransposeSpec(in_channels=8, out_channels=8, kernel_size=8),
            FOREIGN["window"],
            FOREIGN["top"],
            LinearAttentionSpec(**SAME_SIZE | {"out_channels": 3}),
        ),
    )
    _, window, top, linear = inspect_layers(with_gates(Generator(config)), torch.randn(2, 8))
    assert [layer.type for layer in (window, top, linear)] == ["window_attention", "top_attention", "linear_attention"]
    assert 0 < window.distance <= 2**0.5 < window.uniform_distance
    assert 0 < top.entropy < torch.tensor(3.0).log() / torch.tensor(64.0).log()
    assert {layer.kernel for layer in (window, top, linear)} == {None}
    convolutions = 2 * 64 * 9 * 8 * (4 + 4 + 8 + 8)
    assert window.flops == convolutions + 2 * 64 * 4 * (4 + 8)
    assert top.flops == 2 * 64 * 8 * (4 + 4 + 8) + 2 * 64 * 64 * (4 + 8)
    # Keys times values, that by queries, and the sums of the weights.
    assert linear.flops == 2 * 64 * 9 * 8 * (4 + 4 + 3 + 3) + 2 * 64 * 4 * (3 + 3 + 1)


def test_observing_leaves_the_layer_alone():
    layer, calls = SelfAttention(8).eval(), []
    layer.register_forward_hook(lambda *_: calls.append(1))
    before = dict(layer.__dict__)
    observe_attention(layer, torch.randn(1, 8, 4, 4))
    assert not calls
    assert layer.__dict__ == before


def test_blocks_are_captured():
    block = FullAttentionBlock(8, 8, resample="up", key_pooling=2).eval()
    with capture_attention(block, [(5, 5)]) as captured:
        block(torch.randn(1, 8, 4, 4))
    assert captured["branch"].weights.shape == (1, 1, 1, 4, 4)


# Layers that hide their weights


class OnlyAttends(WindowAttention):
    weights = FullAttention.weights


class OnlyWeighs(WindowAttention):
    attend = FullAttention.attend


class HidesInBranches(SelfAttention):
    def branches(self, feature_map, labels=None):
        query, key = self.query_and_key(feature_map)
        return feature_map, attention(query, key.roll(1, 2), self.value(feature_map))


class HidesInForward(SelfAttention):
    def forward(self, feature_map):
        query, key = self.query_and_key(feature_map)
        return feature_map + self.gate * attention(query, key.roll(1, 2), self.value(feature_map))


class SkipsBranches(SelfAttention):
    def forward(self, feature_map):
        return feature_map + self.attend(*self.query_and_key(feature_map), self.value(feature_map))


class AttendsTwice(SelfAttention):
    def branches(self, feature_map, labels=None):
        plain, gathered = super().branches(feature_map)
        return plain, self.attend(*self.query_and_key(gathered), self.value(gathered))


class BlendsOtherwise(SelfAttention):
    def forward(self, feature_map):
        plain, gathered = self.branches(feature_map)
        return plain + gathered


class Sigmoid(SelfAttention):
    def attend(self, query, key, value):
        every = torch.arange(query.shape[2:].numel())
        return (value.flatten(2) @ self.weights(query, key, every)[:, 0].mT).unflatten(2, query.shape[2:])

    def weights(self, query, key, queries):
        return (query.flatten(2)[..., queries].mT @ key.flatten(2)).sigmoid()[:, None]


class Negative(Sigmoid):
    def weights(self, query, key, queries):
        weights = attention_weights(query, key, queries)
        return 2 * weights - 1 / weights.shape[-1]


class NoHeads(SelfAttention):
    def weights(self, query, key, queries):
        return attention_weights(query, key, queries)[:, 0]


class Flattens(SelfAttention):
    def attend(self, query, key, value):
        return super().attend(query, key, value).flatten(2)

    def branches(self, feature_map, labels=None):
        gathered = self.attend(*self.query_and_key(feature_map), self.value(feature_map))
        return feature_map, gathered.unflatten(2, feature_map.shape[2:])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            OnlyAttends(**SAME_SIZE, window=2),
            r"^1: weights\(\) times the value differs by .* gathered where .*; weights\(\) is defined in OnlyAttends",
        ),
        (OnlyWeighs(**SAME_SIZE, window=2), r"weights\(\) is defined in WindowAttention, attend\(\) in OnlyWeighs"),
        (HidesInBranches(8), r"branches\(\) 1 times, attend\(\) 0 times, 0 of them in branches\(\) of HidesInBra"),
        (HidesInForward(8), r"forward\(\) of HidesInForward called branches\(\) 0 times, attend\(\) 0 times"),
        (SkipsBranches(8), r"called branches\(\) 0 times, attend\(\) 1 times, 0 of them in branches\(\) of SelfA"),
        (AttendsTwice(8), r"attend\(\) 2 times, .*; it must be once each\. Attend by attend\(query, key, value\) in"),
        (BlendsOtherwise(8), r"forward\(\) of BlendsOtherwise differs by up to .* they must be equal"),
        (
            Sigmoid(8),
            r"weights\(\) of Sigmoid returned weights from \S+ on with sums from .* and sum to 1 for each",
        ),
        (Negative(8), r"returned weights from -\S+ on with sums from 1 to 1; they must not be negative"),
        (NoHeads(8), r"returned \[1, 16, 16\]; it must be \[batch, heads, queries, keys\], here \[1, 1, 16, 16\]"),
        (
            Flattens(8),
            r"attend\(\) of Flattens got .* and returned \[1, 8, 16\]; all must be \[batch, channels, height",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else "",
)
def test_layers_that_hide_their_weights_are_refused(layer, message):
    network = torch.nn.Sequential(torch.nn.Identity(), layer).eval()
    torch.nn.init.normal_(layer.query.weight)
    feature_map = torch.randn(1, 8, 4, 4)
    assert network(feature_map).shape == feature_map.shape  # it works
    with capture_attention(network, whole=True), pytest.raises(ValueError, match=message):
        network(feature_map)


def test_what_does_not_ask_for_weights_is_told_of_any_layer_that_attends():
    layer = Sigmoid(8).eval()
    with capture_attention(layer) as captured:
        layer(torch.randn(1, 8, 4, 4))
    assert captured[""].weights.shape == (1, 1, 0, 4, 4)


def test_weights_that_are_not_finite_are_refused():
    layer = SelfAttention(8).eval()
    torch.nn.init.constant_(layer.query.bias, torch.inf)
    with (
        capture_attention(layer, [(0, 0)]),
        pytest.raises(ValueError, match=r"from nan on.* If they are not finite, neither are the layer's query and key"),
    ):
        layer(torch.randn(1, 8, 4, 4))
