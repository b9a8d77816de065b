import math
import threading

import pytest
import torch

from fagan_hf.layers import FullAttention, SelfAttention, gates, override_alpha
from fagan_hf.layers.gates import overridden
from fagan_hf.models import Generator
from tests.hub import forked
from tests.small import GENERATOR, with_gates


@pytest.fixture
def layer():
    layer = FullAttention(8, 4, kernel_size=3, padding=1).double().eval()
    layer.alpha.data.fill_(0.3)
    return layer


@pytest.fixture
def generator():
    return with_gates(Generator(GENERATOR))


@pytest.fixture
def feature_map():
    return torch.randn(2, 8, 5, 5, dtype=torch.float64)


def test_gates_are_the_parameters_themselves_in_order(generator):
    found = gates(generator)
    assert list(found) == ["layers.0.alpha", "layers.1.gamma", "layers.2.alpha"]
    assert found["layers.1.gamma"] is generator.layers[1].gamma
    assert list(gates(generator.layers[1])) == ["gamma"]


def test_zero_is_the_convolution_and_one_the_attention(layer, feature_map):
    convolved, gathered = layer.branches(feature_map)
    for alpha, expected in ((0.0, convolved), (1.0, gathered), (-2.0, 3 * convolved - 2 * gathered)):
        with override_alpha(layer, alpha):
            torch.testing.assert_close(layer(feature_map), expected)
    torch.testing.assert_close(layer(feature_map), 0.7 * convolved + 0.3 * gathered)


def test_zero_leaves_a_feature_map_and_one_adds_all_attention(feature_map):
    layer = SelfAttention(8).double()
    layer.gamma.data.fill_(0.3)
    _, gathered = layer.branches(feature_map)
    for alpha, expected in ((0.0, feature_map), (1.0, feature_map + gathered)):
        with override_alpha(layer, alpha):
            torch.testing.assert_close(layer(feature_map), expected)


@pytest.mark.parametrize("names", [("layers.0", "layers.1"), ("layers.0.alpha", "layers.1.gamma")])
def test_by_layer(generator, names):
    with override_alpha(generator, {names[0]: 0.5, names[1]: -1.0}):
        assert [layer.gate for layer in generator.layers] == [0.5, -1.0, generator.layers[2].alpha]


def test_the_inner_of_two_wins_and_ends_first(generator):
    with override_alpha(generator, 0.5):
        with override_alpha(generator, {"layers.1": 0.1}):
            assert [layer.gate for layer in generator.layers] == [0.5, 0.1, 0.5]
        assert [layer.gate for layer in generator.layers] == [0.5] * 3
    assert [layer.gate for layer in generator.layers] == list(gates(generator).values())


def test_the_trained_gates_are_back_after_an_exception(layer):
    with pytest.raises(KeyError), override_alpha(layer, 0.0):
        raise KeyError
    assert layer.gate is layer.alpha


def test_other_threads_see_the_trained_gate(layer):
    seen = []
    with override_alpha(layer, 0.0):
        thread = threading.Thread(target=lambda: seen.append(layer.gate))
        thread.start()
        thread.join()
        assert layer.gate == 0.0
    assert seen == [layer.alpha]


def test_what_would_be_saved_stays(generator):
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    with override_alpha(generator, 0.9):
        generator(torch.randn(2, 8))
        inside = generator.state_dict()
    assert inside.keys() == before.keys()
    assert all(torch.equal(inside[name], tensor) for name, tensor in before.items())


def test_gradients_flow_to_everything_but_the_gate(layer, feature_map):
    with override_alpha(layer, 0.5):
        layer(feature_map).square().sum().backward()
    assert layer.alpha.grad is None
    others = {name: parameter for name, parameter in layer.named_parameters() if name != "alpha"}
    # A bias of the key adds the same to all of a query's scores, which softmax doesn't see.
    assert [name for name, parameter in others.items() if not parameter.grad.abs().max() > 1e-12] == ["key.bias"]


def test_an_unknown_layer_is_answered_with_those_that_there_are(generator):
    message = r"unknown attention layer 'layer.2'; did you mean 'layers.2'\? There are: layers.0, layers.1, layers.2"
    with pytest.raises(ValueError, match=message), override_alpha(generator, {"layer.2": 0.0}):
        pytest.fail("never gets here")


@pytest.mark.parametrize("alpha", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(generator, alpha):
    for given in (alpha, {"layers.0": alpha}):
        with pytest.raises(ValueError, match="must be a finite number"), override_alpha(generator, given):
            pytest.fail("never gets here")


def test_what_is_no_number_is_refused():
    """In a separate process: in this one annotations are checked, which would refuse it first."""
    code = """
import numpy, torch
from fagan_hf.layers import SelfAttention, override_alpha
layer = SelfAttention(8)
for alpha in (True, "0.5", None, torch.ones(2)):
    try:
        with override_alpha(layer, alpha):
            print("taken")
    except ValueError as error:
        print(error)
for alpha in (1, numpy.float32(0.5), torch.tensor(0.25), layer.gamma):
    with override_alpha(layer, alpha):
        print(layer.gate)
"""
    printed = forked.python(code)
    expected = [
        f"alpha of gamma is {alpha}; it must be a finite number"
        for alpha in ("True", "'0.5'", "None", "tensor([1., 1.])")
    ]
    expected += ["1.0", "0.5", "0.25", "0.0"]
    assert all(line.startswith(start) for line, start in zip(printed.splitlines(), expected, strict=True))


def test_a_network_without_attention_is_refused():
    with pytest.raises(ValueError, match="Linear has no attention layer"), override_alpha(torch.nn.Linear(2, 2), 0.0):
        pytest.fail("never gets here")


def test_a_compiled_layer_is_one_graph_and_can_be_turned():
    """In a separate process: in this one each call is wrapped in a shape check."""
    code = """
import torch
from fagan_hf.layers import FullAttention, override_alpha
layer = FullAttention(8, 4, kernel_size=3, padding=1).eval()
layer.alpha.data.fill_(0.3)
feature_map = torch.randn(1, 8, 5, 5)
whole = torch.compile(layer, backend="eager", fullgraph=True)
compiled = torch.compile(layer, backend="eager")
print(torch.allclose(whole(feature_map), layer(feature_map), atol=1e-6))  # compiled it takes another kernel
trained = compiled(feature_map)
for alpha in (1.0, 0.0):
    with override_alpha(layer, alpha):
        turned = layer(feature_map)
        print(torch.allclose(compiled(feature_map), turned, atol=1e-6), not torch.equal(turned, trained))
print(torch.equal(compiled(feature_map), trained))
"""
    printed = forked.python(code)
    assert printed.split() == ["True"] * 6


def test_overrides_are_told_by_name(generator):
    assert overridden(generator) == {}
    with override_alpha(generator, {"layers.2": 0.7}):
        assert overridden(generator) == {"layers.2.alpha": 0.7}
