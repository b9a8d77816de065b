from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fagan_hf.architectures.presets import preset
from fagan_hf.architectures.specs import SIMILARITIES
from fagan_hf.layers import FullAttention, SelfAttention, attention, attention_kernel
from fagan_hf.layers.functional import Kernel
from tests.memory import peak_megabytes


def plain_attention(query, key, value, heads=1):
    """Compute attention as in the paper, one head after the other, with the whole matrix of weights."""
    results = []
    for q, k, v in zip(query.chunk(heads, 1), key.chunk(heads, 1), value.chunk(heads, 1), strict=True):
        weights = torch.einsum("bci,bcj->bij", q.flatten(2), k.flatten(2)).softmax(-1)
        results.append(torch.einsum("bij,bcj->bci", weights, v.flatten(2)))
    return torch.cat(results, 1).unflatten(2, query.shape[2:])


@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(1, 3), heads=st.integers(1, 3), key=st.integers(1, 20), value=st.integers(1, 40),
    height=st.integers(1, 9), width=st.integers(1, 9), pooling=st.integers(1, 3), seed=st.integers(0, 1000),
)  # fmt: skip
def test_attention_equals_the_formula(batch, heads, key, value, height, width, pooling, seed):
    random = torch.Generator().manual_seed(seed)

    def feature_map(channels, scale):
        shape = batch, heads * channels, scale * height, scale * width
        return torch.randn(shape, generator=random, dtype=torch.float64)

    query, key, value = feature_map(key, pooling), feature_map(key, 1), feature_map(value, 1)
    expected = plain_attention(query, key, value, heads)
    for kernel in get_args(Kernel):
        with attention_kernel(kernel):
            torch.testing.assert_close(attention(query, key, value, heads), expected)


def test_attention_takes_channels_last_and_gives_gradients():
    tensors = [torch.randn(2, c, 6, 5, dtype=torch.float64) for c in (3, 3, 7)]
    results = []
    for function, layout in ((attention, torch.channels_last), (plain_attention, torch.contiguous_format)):
        inputs = [tensor.clone().to(memory_format=layout).requires_grad_() for tensor in tensors]
        output = function(*inputs)
        output.square().sum().backward()
        results.append([output, *(each.grad for each in inputs)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


PREPARED = """
import torch
from fagan_hf.layers import attention, attention_kernel
torch.set_num_threads(1)
N, C = 4096, 64
def inputs():
    shapes = [(2, 8, 64, 64), (2, 8, 64, 64), (2, C, 64, 64)]
    return [torch.randn(shape, requires_grad=True) for shape in shapes]
def formula(query, key, value):
    return value.flatten(2) @ (query.flatten(2).mT @ key.flatten(2)).softmax(-1).mT
def step(function, tensors):
    output = function(*tensors)
    output.backward(torch.ones_like(output))
small = [torch.randn(1, 8, 8, 8, requires_grad=True) for _ in range(3)]
step(attention, small)  # the libraries' own memory, before counting
tensors = inputs()
"""


@pytest.mark.parametrize("kernel", ["fused", "chunked"])
def test_memory_is_linear_in_positions(kernel):
    """4,096 positions, 64 channels, batch 2, forward and backward: the N x N form needs hundreds of megabytes."""
    measured = f"with attention_kernel('{kernel}'): step(attention, tensors)"
    assert peak_megabytes(PREPARED, measured) < 30


def test_memory_of_the_formula_is_not():
    """Check that the measurement detects large memory use."""
    assert peak_megabytes(PREPARED, "step(formula, tensors)") > 300


@pytest.mark.parametrize("layer", [SelfAttention(16), FullAttention(16, 16, kernel_size=3, padding=1)])
def test_a_fresh_layer_does_not_attend(layer):
    feature_map = torch.randn(2, 16, 5, 5)
    layer.eval()
    if isinstance(layer, SelfAttention):
        expected = feature_map
    else:
        expected = layer.activation(layer.batch_norm(layer.residual(feature_map)))
    assert torch.equal(layer(feature_map), expected)


def test_alpha_one_is_attention_only():
    layer = FullAttention(8, 4, kernel_size=3, padding=1, activation="tanh").double().eval()
    layer.alpha.data.fill_(1)
    feature_map = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    gathered = attention(layer.query(feature_map), layer.key(feature_map), layer.value(feature_map))
    torch.testing.assert_close(layer(feature_map), gathered.tanh())


@pytest.mark.parametrize("key_pooling", [1, 2])
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("heads", [1, 2])
def test_gradients_are_right(heads, similarity, key_pooling):
    options = {"heads": heads, "similarity": similarity, "key_pooling": key_pooling}
    layer = FullAttention(4, 4, kernel_size=3, stride=2, padding=1, squeeze_factor=2, activation="tanh", **options)
    layer.double().eval()
    layer.alpha.data.fill_(0.3)
    torch.autograd.gradcheck(layer, torch.randn(1, 4, 4, 4, dtype=torch.float64, requires_grad=True))


def test_pooled_keys_are_those_of_the_pooled_input():
    layer = FullAttention(8, 4, kernel_size=3, padding=1, key_pooling=2, activation="identity").double().eval()
    layer.alpha.data.fill_(1)
    feature_map = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    pooled = feature_map.unflatten(2, (3, 2)).unflatten(4, (3, 2)).mean((3, 5))
    expected = plain_attention(layer.query(feature_map), layer.key(pooled), layer.value(pooled))
    torch.testing.assert_close(layer(feature_map), expected)


def test_a_layer_alone_in_anyones_sequential():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1),
        SelfAttention(16),
        FullAttention(16, 8, kernel_size=4, stride=2, padding=1),
    )
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 8, 4, 4)


def test_the_gate_starts_where_it_is_told():
    options = {"kernel_size": 3, "padding": 1, "batch_norm": False, "spectral_norm": False}
    assert FullAttention(8, 4, **options).alpha.item() == 0
    layer = FullAttention(8, 4, **options, initial_alpha=0.25)
    x = torch.randn(1, 8, 4, 4)
    convolved, gathered = layer.branches(x)
    assert torch.allclose(layer(x), 0.75 * convolved + 0.25 * gathered, atol=1e-6)
    assert layer.alpha.requires_grad


def test_the_flagships_image_stays_in_its_range_at_first():
    generator, discriminator = preset("fagan-32")
    starts = [layer.initial_alpha for layer in generator.layers if layer.type == "full_attention"]
    assert starts == [0, 0, 0, 0, 0.1]
    assert {layer.initial_alpha for layer in discriminator.layers if layer.type == "full_attention"} == {0}
