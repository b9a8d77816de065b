import pytest
import torch
from torch.autograd import grad, gradcheck, gradgradcheck

from fagan_hf.layers import FullAttention, SelfAttention, attention, chunked_attention
from fagan_hf.layers.functional import attention_kernel, twice_differentiable
from tests.memory import peak_megabytes


def plain_attention(query, key, value, heads):
    """Compute attention with the whole matrix of weights, which autograd can differentiate any number of times."""
    q, k, v = (tensor.flatten(2).unflatten(1, (heads, -1)) for tensor in (query, key, value))
    return (v @ (q.mT @ k).softmax(-1).mT).flatten(1, 2).unflatten(2, query.shape[2:])


def exact_attention(*arguments):
    with twice_differentiable():
        return attention(*arguments)


def feature_maps(dtype=torch.float64, heads=2, pooling=1):
    shapes = (3, 5 * pooling, 4 * pooling), (3, 5, 4), (7, 5, 4)
    return [torch.randn(2, heads * channels, *positions, dtype=dtype) for channels, *positions in shapes]


def derivatives(function, tensors, heads=2):
    """Return the value, the first derivatives, and second derivatives via a function of all first ones."""
    tensors = [tensor.clone().requires_grad_() for tensor in tensors]
    output = function(*tensors, heads)
    cotangent = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view(output.shape).requires_grad_()
    first = grad((output * cotangent).sum(), tensors, create_graph=True)
    second = grad(sum(each.sin().sum() for each in first), [*tensors, cotangent])
    return [output, *first, *second]


@pytest.mark.parametrize("weights", [1, 20 * 6, 2**20], ids=["one query", "six queries, then two", "at once"])
@pytest.mark.parametrize("pooling", [1, 2])
def test_all_derivatives_equal_the_formula(monkeypatch, weights, pooling):
    monkeypatch.setattr(chunked_attention, "WEIGHTS_PER_CORE", weights)
    tensors = feature_maps(pooling=pooling)
    torch.testing.assert_close(derivatives(exact_attention, tensors), derivatives(plain_attention, tensors))


def test_channels_last():
    tensors = [tensor.to(memory_format=torch.channels_last) for tensor in feature_maps()]
    torch.testing.assert_close(derivatives(exact_attention, tensors), derivatives(plain_attention, tensors))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 3e-2)])
def test_less_precise_inputs(dtype, tolerance):
    tensors = feature_maps(dtype)
    ours = derivatives(exact_attention, tensors)
    assert {each.dtype for each in ours} == {dtype}
    expected = derivatives(plain_attention, [tensor.double() for tensor in tensors])
    for our, their in zip(ours, expected, strict=True):
        assert (our - their).norm() < tolerance * their.norm()


def test_bfloat16_is_rounded_only_where_it_comes_out():
    tensors = [tensor.requires_grad_() for tensor in feature_maps(torch.bfloat16)]
    outputs = exact_attention(*tensors, 2), exact_attention(*(tensor.float() for tensor in tensors), 2).bfloat16()
    assert torch.equal(*outputs)
    ours, expected = (grad(output.sum(), tensors) for output in outputs)
    assert all(torch.equal(our, their) for our, their in zip(ours, expected, strict=True))


def test_autocast_does_not_make_it_less_precise():
    tensors = feature_maps(torch.float32)
    expected = derivatives(exact_attention, tensors)[:4]
    with torch.autocast("cpu", torch.bfloat16):
        inside = derivatives(exact_attention, tensors)[:4]
    assert all(torch.equal(one, other) for one, other in zip(inside, expected, strict=True))


def fused_attention(*arguments):
    with attention_kernel("fused"):
        return attention(*arguments)


def test_the_value_and_an_ordinary_backward_pass_are_the_fused_kernel_s():
    results = []
    tensors = feature_maps()
    for function in (fused_attention, exact_attention):
        inputs = [tensor.clone().requires_grad_() for tensor in tensors]
        output = function(*inputs, 2)
        output.square().sum().backward()
        results.append([output, *(each.grad for each in inputs)])
    torch.testing.assert_close(*results)


LAYERS = {
    "conv": lambda heads: FullAttention(
        4, 4, kernel_size=3, stride=2, padding=1, squeeze_factor=2, heads=heads, activation="tanh"
    ),
    "transposed": lambda heads: FullAttention(
        4, 2, kernel_size=4, stride=2, padding=1, transposed=True, squeeze_factor=2, heads=heads, activation="silu"
    ),
    "self": lambda heads: SelfAttention(4, squeeze_factor=2, heads=heads),
}


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_and_their_gradients_are_right(monkeypatch, name, heads):
    # Of 16 positions three at a time, then one; of fewer, one at a time.
    monkeypatch.setattr(chunked_attention, "WEIGHTS_PER_CORE", 48 if name == "transposed" else 6)
    layer = LAYERS[name](heads).double().eval()
    gate = layer.gamma if name == "self" else layer.alpha
    gate.data.fill_(0.3)

    def forward(feature_map, *_parameters):
        with twice_differentiable():
            return layer(feature_map)

    feature_map = torch.randn(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    # The gate and a bias represent the parameters: checking all of them would take minutes.
    inputs = (feature_map, gate, layer.query.bias)
    assert gradcheck(forward, inputs)
    assert gradgradcheck(forward, inputs)


def test_the_fused_kernels_have_no_second_derivative():
    """If this fails, torch's kernels support second derivatives, and the mode can be removed."""
    with pytest.raises(RuntimeError, match="not implemented"):
        derivatives(fused_attention, feature_maps(torch.float32))


def test_a_third_derivative_is_refused():
    tensors = [tensor.requires_grad_() for tensor in feature_maps()]
    first = grad(exact_attention(*tensors, 2).square().sum(), tensors, create_graph=True)
    second = grad(sum(each.square().sum() for each in first), tensors, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        sum(each.sum() for each in second).backward()


PREPARED = """
import torch
from fagan_hf.layers.functional import attention, twice_differentiable
torch.set_num_threads(1)
def formula(query, key, value):
    return value.flatten(2) @ (query.flatten(2).mT @ key.flatten(2)).softmax(-1).mT
def exact(query, key, value):
    with twice_differentiable():
        return attention(query, key, value)
def step(function, size):
    tensors = [torch.randn(2, channels, size, size, requires_grad=True) for channels in (8, 8, 64)]
    gradients = torch.autograd.grad(function(*tensors).square().sum(), tensors, create_graph=True)
    sum(gradient.square().sum() for gradient in gradients).backward()
step({function}, 8)  # the libraries' own memory, before counting
"""


def peak(function):
    return peak_megabytes(PREPARED.format(function=function), f"step({function}, 64)")


def test_memory_of_a_penalty_is_linear_in_positions():
    """4,096 positions, 64 channels, batch 2, all three passes: chunks of weights, not the whole matrices."""
    assert peak("exact") < 250
    assert peak("formula") > 1000  # the measurement detects large memory use
