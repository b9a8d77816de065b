"""Networks and layers work with torch's own tools, or say at once why not."""

import copy
import pickle

import pytest
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from fagan_hf.architectures.conditioning import with_labels
from fagan_hf.layers import (
    BatchNorm,
    Conv,
    ConvBlock,
    Dropout,
    FullAttention,
    FullAttentionBlock,
    SelfAttention,
    gates,
    hold_spectral_norms,
    override_alpha,
    refresh_spectral_norms,
    twice_differentiable,
)
from fagan_hf.models import Discriminator, Generator
from tests.hub import forked
from tests.small import DISCRIMINATOR, GENERATOR, with_gates

LAYERS = {
    "conv": lambda: Conv(8, 8, kernel_size=3, padding=1, batch_norm=True, activation="relu"),
    "conv_block": lambda: ConvBlock(8, 6, resample="down", norm="rms"),
    "self_attention": lambda: SelfAttention(8, heads=1, squeeze_factor=2),
    "full_attention": lambda: FullAttention(8, 6, kernel_size=4, stride=2, padding=1, squeeze_factor=2),
    "cosine": lambda: FullAttention(
        8, 8, kernel_size=3, padding=1, squeeze_factor=2, heads=2, similarity="cosine", key_pooling=2
    ),
    "block": lambda: FullAttentionBlock(8, 6, resample="up", norm="rms", squeeze_factor=2, key_pooling=2),
}


@pytest.fixture(params=[pytest.param(build, id=name) for name, build in LAYERS.items()])
def layer(request):
    return with_gates(request.param().double())


@pytest.fixture
def feature_map():
    return torch.randn(3, 8, 4, 4, dtype=torch.float64)


def generator():
    return with_gates(Generator(GENERATOR)), torch.randn(3, 8)


def discriminator():
    return with_gates(Discriminator(DISCRIMINATOR)), torch.randn(3, 3, 8, 8)


NETWORKS = pytest.mark.parametrize("build", [generator, discriminator])


def parameters_of(network):
    return {name: each.detach() for name, each in network.named_parameters()}


def gradients_of(network):
    return {name: each.grad for name, each in network.named_parameters()}


def buffers_of(network):
    return {name: each.clone() for name, each in network.named_buffers()}


# torch.func

# torch's own forward-mode formulas use it.
script = pytest.mark.filterwarnings(r"ignore:`torch.jit.script` is deprecated:DeprecationWarning")


def test_grad_of_a_layer_is_that_of_autograd(layer, feature_map):
    functional = grad(lambda parameters: functional_call(layer, parameters, (feature_map,)).square().sum())
    found = functional(parameters_of(layer))
    layer(feature_map).square().sum().backward()
    assert_close(found, gradients_of(layer))


@script
def test_vmap_and_jvp_of_a_layer(layer, feature_map):
    singly = vmap(lambda each: layer(each[None])[0])(feature_map)
    assert_close(singly, layer(feature_map))
    direction = torch.randn_like(feature_map)
    _, slope = jvp(layer, (feature_map,), (direction,))
    step = 1e-6 * direction
    numeric = (layer(feature_map + step) - layer(feature_map - step)) / 2e-6
    assert_close(slope, numeric, rtol=1e-5, atol=1e-6)


@NETWORKS
def test_a_gradient_for_each_image(build):
    network, inputs = build()

    def loss(parameters, each):
        return functional_call(network, parameters, (each[None],)).square().sum()

    found = vmap(grad(loss), in_dims=(None, 0))(parameters_of(network), inputs)
    network(inputs[1:2]).square().sum().backward()
    assert_close({name: each[1] for name, each in found.items()}, gradients_of(network), rtol=1e-4, atol=1e-5)


@script
def test_derivatives_of_derivatives():
    network, images = discriminator()
    with twice_differentiable():
        images.requires_grad_()
        [first] = torch.autograd.grad(network(images).square().sum(), images, create_graph=True)
        [second] = torch.autograd.grad(first.sum(), images)
    images = images.detach()
    found = hessian(lambda each: network(each[None]).square().sum())(images[0])
    assert_close(found.sum((0, 1, 2)), second[0], rtol=1e-4, atol=1e-5)


@script
@NETWORKS
def test_jacobians_agree_in_both_modes(build):
    network, inputs = build()
    assert_close(torch.func.jacfwd(network)(inputs[:1]), jacrev(network)(inputs[:1]), rtol=1e-4, atol=1e-5)


@NETWORKS
def test_gates_overridden_in_a_functional_call(build):
    network, inputs = build()
    alphas = torch.tensor([0.0, 0.5, 1.0])
    found = vmap(lambda alpha: functional_call(network, dict.fromkeys(gates(network), alpha), (inputs,)))(alphas)
    for alpha, outputs in zip(alphas, found, strict=True):
        with override_alpha(network, alpha.item()):
            assert_close(outputs, network(inputs))


@NETWORKS
def test_a_functional_calls_gates_precede_overridden_ones(build):
    network, inputs = build()
    with override_alpha(network, 1.0):
        outputs = functional_call(network, {name: gate.clone() for name, gate in gates(network).items()}, (inputs,))
    assert_close(outputs, network(inputs))


def test_training_mode_updates_buffers_that_are_inputs():
    network, latents = generator()
    network.train()
    reference = copy.deepcopy(network)

    def loss(parameters, buffers):
        value = functional_call(network, (parameters, buffers), (latents,)).square().sum()
        return value, buffers

    found, buffers = grad(loss, has_aux=True)(parameters_of(network), buffers_of(network))
    reference(latents).square().sum().backward()
    assert_close(found, gradients_of(reference))
    assert_close(buffers, buffers_of(reference))


@pytest.mark.parametrize(
    "layer_of", [lambda: Conv(2, 2, kernel_size=1), lambda: BatchNorm(2)], ids=["spectral", "batch"]
)
@pytest.mark.parametrize("transform", [grad, vmap])
def test_training_mode_says_why_it_cannot_be_transformed(layer_of, transform):
    layer = layer_of().train()
    parameters = parameters_of(layer)
    if transform is vmap:
        parameters = {name: torch.stack([each, each]) for name, each in parameters.items()}
    images = torch.randn(2, 2, 2, 2)
    function = transform(lambda each: functional_call(layer, each, (images,)).sum())
    if transform is vmap and isinstance(layer, BatchNorm):  # only its input is measured
        function, parameters = vmap(layer), torch.randn(2, 2, 2, 2, 2)
    with pytest.raises(
        ValueError, match=r"a transform of torch.func may change only its own inputs; call network.eval"
    ):
        function(parameters)


# Copies and files


@NETWORKS
@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("way", ["deepcopy", "copy", "pickle", "save"])
def test_a_copy_is_the_same_network(build, is_training, way, tmp_path):
    network, inputs = build()
    network.train(is_training)
    hold_spectral_norms(network)
    if way == "save":
        torch.save(network, tmp_path / "network.pt")
        again = torch.load(tmp_path / "network.pt", weights_only=False)
    elif way == "pickle":
        again = pickle.loads(pickle.dumps(network))
    else:
        again = getattr(copy, way)(network)
    assert type(again) is type(network)
    assert str(again) == str(network)
    assert [each.training for each in again.modules()] == [each.training for each in network.modules()]
    assert_close(dict(again.state_dict()), dict(network.state_dict()), rtol=0, atol=0)
    assert torch.equal(network.eval()(inputs), again.eval()(inputs))
    if way != "copy":
        with torch.no_grad():
            for parameter in again.parameters():
                parameter.zero_()
        assert network(inputs).any()


def test_a_pickled_layer_can_be_pickled_again_and_shares_what_it_shared():
    layer = Conv(3, 4, kernel_size=3)
    layer, parameters = pickle.loads(pickle.dumps((layer, list(layer.parameters()))))
    assert all(one is other for one, other in zip(layer.parameters(), parameters, strict=True))
    again = pickle.loads(pickle.dumps(layer))
    images = torch.randn(1, 3, 4, 4)
    assert torch.equal(layer(images), again(images))
    assert_close(buffers_of(layer), buffers_of(again), rtol=0, atol=0)


def test_foreign_parametrizations_are_refused_by_torch():
    layer = Conv(3, 4, kernel_size=3)
    parametrize.register_parametrization(layer.conv, "bias", nn.Tanh())
    with pytest.raises(RuntimeError, match=r"parametrized modules is only supported through state_dict"):
        pickle.dumps(layer)


# Devices


def conditional():
    config, _ = with_labels((GENERATOR, DISCRIMINATOR), ("a", "b"), "projection")
    return with_gates(Generator(config)), torch.randn(3, 8), torch.rand(3, 2)


@pytest.mark.parametrize("build", [generator, discriminator, conditional])
def test_from_the_meta_device(build):
    network, *inputs = build()
    with torch.device("meta"):
        empty = type(network)(network.config)
    assert all(each.is_meta for each in empty.state_dict().values())
    assert "?" in repr(empty)
    assert empty(*(each.to("meta") for each in inputs)).shape == network(*inputs).shape
    assigned = copy.deepcopy(empty)
    assigned.load_state_dict(network.state_dict(), assign=True)
    filled = empty.to_empty(device="cpu")
    filled.load_state_dict(network.state_dict())
    for each in (assigned, filled):
        assert not any(tensor.is_meta for tensor in [*each.parameters(), *each.buffers()])
        assert torch.equal(each.eval()(*inputs), network(*inputs))


# Gradient checkpointing


def trained_pass(network, inputs, run):
    outputs = run(network, inputs.clone().requires_grad_())
    outputs.square().sum().backward()
    return outputs


def each_layer(network, inputs, **options):
    for layer in network.layers:
        inputs = checkpoint(layer, inputs, **options)
    return inputs


def segments(network, inputs, **options):
    return checkpoint_sequential(network.layers, 2, inputs, **options)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("way", [checkpoint, each_layer, segments])
@NETWORKS
def test_checkpointing_changes_nothing(build, way, use_reentrant):
    network, inputs = build()
    network = network.double().train()
    network.layers.append(Dropout(probability=0.5).train())
    plain, checkpointed = copy.deepcopy(network), copy.deepcopy(network)
    inputs = inputs.double()
    if build is generator:
        inputs = inputs[..., None, None]
    for _ in range(3):
        torch.manual_seed(1)
        one = trained_pass(plain.layers, inputs, lambda each, x: each(x))
        torch.manual_seed(1)
        if way is checkpoint:
            other = trained_pass(
                checkpointed.layers, inputs, lambda each, x: checkpoint(each, x, use_reentrant=use_reentrant)
            )
        else:
            other = trained_pass(checkpointed, inputs, lambda each, x: way(each, x, use_reentrant=use_reentrant))
        assert torch.equal(one, other)
    for (name, one), other in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name
    for (name, one), other in zip(plain.named_buffers(), checkpointed.named_buffers(), strict=True):
        assert torch.equal(one, other[1]), name


def test_passes_that_are_not_recomputed_do_not_matter():
    network, images = discriminator()
    network.train()
    network(images)
    with torch.no_grad():
        network(images), network(images)
    network(images).sum().backward()
    network.zero_grad()
    plain = copy.deepcopy(network)
    plain(images).sum().backward()
    checkpoint(network, images, use_reentrant=False).sum().backward()
    assert_close(gradients_of(network), gradients_of(plain), rtol=0, atol=0)


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("second", ["checkpointed", "plain"])
def test_two_checkpointed_passes_are_refused_unless_norms_are_held(use_reentrant, second):
    network, images = discriminator()
    network.train()
    images.requires_grad_()

    def passes(run):
        real = run(network, images)
        fake = run(network, -images) if second == "checkpointed" else network(-images)
        (real - fake).sum().backward()

    def checkpointed(each, x):
        return checkpoint(each, x, use_reentrant=use_reentrant)

    with pytest.raises(ValueError, match=r"can't be repeated exactly.*hold_spectral_norms.*refresh_spectral_norms"):
        passes(checkpointed)
    network.zero_grad()
    hold_spectral_norms(network)
    refresh_spectral_norms(network, iterations=1)
    passes(lambda each, x: each(x))
    expected = {name: gradient.clone() for name, gradient in gradients_of(network).items()}
    network.zero_grad()
    passes(checkpointed)
    assert_close(gradients_of(network), expected)


# Several processes


@pytest.fixture
def one_process(tmp_path):
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@NETWORKS
def test_data_parallel(build):
    network, inputs = build()
    plain = copy.deepcopy(network).train()
    wrapped = DistributedDataParallel(network.train())
    for each in (plain, wrapped):
        each(inputs).square().sum().backward()
    assert_close(gradients_of(network), gradients_of(plain), rtol=0, atol=0)
    assert_close(buffers_of(network), buffers_of(plain), rtol=0, atol=0)


# About logits, which are a view of the last feature map; nothing changes them in place.
@pytest.mark.filterwarnings(r"ignore:FSDP2-wrapped module .* returned a view tensor:UserWarning")
@pytest.mark.usefixtures("one_process")
@NETWORKS
def test_fully_sharded(build):
    network, inputs = build()
    plain = copy.deepcopy(network).train()
    mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
    scalars = set(gates(network).values())  # FSDP does not shard them
    for layer in network.train().layers:
        fully_shard(layer, mesh=mesh, ignored_params=scalars)
    fully_shard(network, mesh=mesh, ignored_params=scalars)
    for each in (plain, network):
        optimizer = torch.optim.Adam(each.parameters(), lr=0.01)
        for _ in range(2):
            each(inputs).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    sharded = {
        name: getattr(each, "full_tensor", lambda each=each: each)() for name, each in network.state_dict().items()
    }
    assert_close(sharded, dict(plain.state_dict()), rtol=0, atol=0)


# Compilers and precision


COMPILED = """
import copy, torch
from fagan_hf.models import Discriminator, Generator
from tests.hub import forked
from tests.small import DISCRIMINATOR, GENERATOR, with_gates

def run(network, inputs):
    for _ in range(2):
        network(inputs).square().sum().backward()
    return [each.grad for each in network.parameters()], list(network.buffers())

torch.manual_seed(0)
for network, inputs in (
    (Generator(GENERATOR), torch.randn(3, 8)), (Discriminator(DISCRIMINATOR), torch.randn(3, 3, 8, 8))
):
    plain = with_gates(network).train()
    compiled = copy.deepcopy(plain)
    compiled.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(run(compiled, inputs), run(plain, inputs), rtol=1e-3, atol=1e-4)
print("same")
"""


def test_compiled_in_one_graph():
    """In a separate process: in this one each call is wrapped in a shape check."""
    assert forked.python(COMPILED).split() == ["same"]


@NETWORKS
def test_exported(build):
    network, inputs = build()
    batch = torch.export.Dim("batch", min=2)
    name = "latents" if build is generator else "images"
    program = torch.export.export(network, (inputs,), dynamic_shapes={name: {0: batch}})
    more = torch.cat([inputs, inputs])
    assert_close(program.module()(more), network(more))


@NETWORKS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(build, dtype):
    network, inputs = build()
    exact = network(inputs)
    half = copy.deepcopy(network).to(dtype)
    outputs = half(inputs.to(dtype))
    assert outputs.dtype == dtype
    assert_close(outputs.float(), exact, rtol=0.05, atol=0.02)
    outputs.float().square().sum().backward()
    assert all(each.grad.isfinite().all() for each in half.parameters())


@NETWORKS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(build, dtype):
    network, inputs = build()
    exact = network(inputs)
    vectors = buffers_of(network.train())
    with torch.autocast("cpu", dtype=dtype):
        network(inputs).float().square().sum().backward()
        assert_close(network.eval()(inputs).float(), exact, rtol=0.1, atol=0.1)
    assert all(each.grad.isfinite().all() and each.grad.dtype == torch.float32 for each in network.parameters())
    assert all(each.dtype == vectors[name].dtype for name, each in network.named_buffers())
