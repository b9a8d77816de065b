import math
import threading
from contextlib import ExitStack, nullcontext

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from fagan_hf.architectures.configs import DiscriminatorConfig, GeneratorConfig
from fagan_hf.architectures.specs import ConvSpec, ConvTransposeSpec, FullAttentionSpec
from fagan_hf.attention_maps import kernels, statistics
from fagan_hf.attention_maps.capture import capture_attention
from fagan_hf.attention_maps.observe import ObservedAttention
from fagan_hf.attention_maps.report import inspect_layers
from fagan_hf.attention_maps.statistics import attention_statistics, uniform_distance
from fagan_hf.layers import FullAttention, SelfAttention, attention, override_alpha
from fagan_hf.layers.functional import attention_kernel
from fagan_hf.models import Discriminator, Generator
from tests.small import DISCRIMINATOR, GENERATOR, with_gates


@pytest.fixture
def generator():
    return with_gates(Generator(GENERATOR))


@pytest.fixture
def discriminator():
    return with_gates(Discriminator(DISCRIMINATOR))


def plain_weights(layer, feature_map):
    """Compute attention head by head, with the whole N x N matrix: [batch, heads, N, N]."""
    query, key = (module(feature_map).flatten(2).chunk(layer.heads, 1) for module in (layer.query, layer.key))
    return torch.stack([(q.mT @ k).softmax(-1) for q, k in zip(query, key, strict=True)], dim=1)


# Capturing


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_weights_are_the_formulas(heads, transposed):
    layer = FullAttention(
        8, 4, kernel_size=4, stride=2, padding=1, squeeze_factor=2, heads=heads, transposed=transposed
    ).eval()
    feature_map = torch.randn(3, 8, 6, 4)
    with capture_attention(layer, [(2, 1), (0, 0)]) as captured:
        layer(feature_map)
    weights = captured[""].weights
    height, width = (12, 8) if transposed else (3, 2)
    assert weights.shape == (3, heads, 2, height, width)
    expected = plain_weights(layer, feature_map)[:, :, [2 * width + 1, 0]]
    torch.testing.assert_close(weights.flatten(3), expected)
    torch.testing.assert_close(weights.sum((3, 4)), torch.ones(3, heads, 2))
    assert captured[""].positions == [(2, 1), (0, 0)]


def test_all_positions_are_what_chosen_ones_are_one_by_one():
    layer = SelfAttention(8, squeeze_factor=1, heads=2).eval()
    feature_map = torch.randn(2, 8, 3, 4)
    positions = [(row, column) for row in range(3) for column in range(4)]
    with capture_attention(layer, whole=True) as whole:
        layer(feature_map)
    with capture_attention(layer, positions) as chosen:
        layer(feature_map)
    assert whole[""].positions == positions
    torch.testing.assert_close(whole[""].weights, chosen[""].weights)
    torch.testing.assert_close(whole[""].weights.flatten(3), plain_weights(layer, feature_map))


def test_a_layers_output_is_the_blend_of_what_was_captured(generator):
    outputs = []
    for layer in generator.layers:
        layer.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    with capture_attention(generator, [(7, 7)]) as captured:
        generator(torch.randn(2, 8))
    assert list(captured) == ["layers.0", "layers.1", "layers.2"]
    for layer, output, seen in zip(generator.layers, outputs, captured.values(), strict=True):
        torch.testing.assert_close(sum(layer.blend(seen.plain, seen.gathered)), output)
        assert seen.gate == pytest.approx(0.3)
        assert not any(tensor.requires_grad for tensor in (seen.weights, seen.plain, seen.gathered))
    assert not torch.equal(captured["layers.0"].plain, captured["layers.0"].gathered)


def test_an_overridden_gate_is_captured(generator):
    with override_alpha(generator, {"layers.1": 0.7}), capture_attention(generator) as captured:
        generator(torch.randn(1, 8))
    assert [seen.gate for seen in captured.values()] == pytest.approx([0.3, 0.7, 0.3])


def test_each_forward_pass_is_captured_anew(generator):
    first, second = torch.randn(2, 1, 8)
    with capture_attention(generator, [(3, 3)]) as captured:
        generator(first)
        weights = captured["layers.2"].weights
        generator(second)
    assert not torch.equal(captured["layers.2"].weights, weights)


def test_the_network_gives_what_it_gives_without(generator):
    latents = torch.randn(2, 8)
    expected, state = generator(latents), {name: each.clone() for name, each in generator.state_dict().items()}
    with capture_attention(generator, whole=True):
        captured = generator(latents)
    assert torch.equal(captured, expected)
    assert captured.requires_grad
    assert all(torch.equal(each, state[name]) for name, each in generator.state_dict().items())


def test_labels_reach_the_branches():
    layer = FullAttention(4, 4, kernel_size=1, squeeze_factor=1, num_labels=2).eval()
    torch.nn.init.normal_(layer.batch_norm.scale.weight)
    feature_map, labels = torch.randn(1, 4, 3, 3), torch.ones(1, 2)
    for call in (lambda: layer(feature_map, labels), lambda: layer(feature_map=feature_map, labels=labels)):
        with capture_attention(layer) as captured:
            call()
        torch.testing.assert_close(captured[""].plain, layer.branches(feature_map, labels)[0].detach())
        assert not torch.allclose(captured[""].plain, layer.branches(feature_map, 0 * labels)[0])


def test_half_precision_still_sums_to_one():
    layer = SelfAttention(8).eval()
    with torch.autocast("cpu", torch.bfloat16), capture_attention(layer, [(1, 1)]) as captured:
        layer(torch.randn(1, 8, 16, 16))
    assert captured[""].weights.dtype == torch.float32
    assert captured[""].weights.sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("pixel", "expected"),
    [((0, 0), [(0, 0), (0, 0), (0, 0)]), ((7, 7), [(3, 3), (3, 3), (7, 7)]), ((5, 2), [(2, 1), (2, 1), (5, 2)])],
)
def test_pixels_are_mapped_to_each_layers_map(generator, pixel, expected):
    with capture_attention(generator, [pixel]) as captured:
        generator(torch.randn(1, 8))
    assert [seen.positions for seen in captured.values()] == [[each] for each in expected]


def test_an_image_size_maps_where_there_is_no_config():
    layer = SelfAttention(8).eval()
    with capture_attention(layer, [(31, 8)], image_size=32) as captured:
        layer(torch.randn(1, 8, 4, 4))
    assert captured[""].positions == [(3, 1)]


@pytest.mark.parametrize("position", [(8, 0), (0, 8), (-1, 0), (0.5, 0), (1,), 3])
def test_pixels_outside_are_refused_at_once(generator, position):
    message = r"it must be \(row, column\), whole numbers from \(0, 0\) to \(7, 7\)"
    with pytest.raises(ValueError, match=message), capture_attention(generator, [position]):
        pytest.fail("never gets here")


def test_positions_outside_of_a_map_are_refused_in_the_forward_pass():
    layer = SelfAttention(8).eval()
    with capture_attention(layer, [(0, 4)]), pytest.raises(ValueError, match=r"\(0, 4\).*to \(4, 3\)"):
        layer(torch.randn(1, 8, 5, 4))
    layer(torch.randn(1, 8, 2, 2))  # nothing is captured any more


def test_hooks_are_gone_after_an_exception(generator):
    with pytest.raises(ValueError, match="latents are"), capture_attention(generator):
        generator(torch.randn(2, 9))
    assert not any(module._forward_hooks for module in generator.modules())


def test_what_cannot_be_captured_is_refused(generator):
    generator.layers[1].train()
    with pytest.raises(ValueError, match=r"training mode; call \.eval\(\)"), capture_attention(generator):
        pytest.fail("never gets here")
    with (
        pytest.raises(ValueError, match="Linear has no attention layer"),
        capture_attention(torch.nn.Linear(2, 2).eval()),
    ):
        pytest.fail("never gets here")
    with (
        pytest.raises(ValueError, match="give only one of them"),
        capture_attention(generator.eval(), [(0, 0)], whole=True),
    ):
        pytest.fail("never gets here")


# Statistics


def places(feature_map, scale):
    """Return the centers of a map's positions, in units of the query's positions."""
    height, width = feature_map.shape[2:]
    return scale * (torch.cartesian_prod(torch.arange(height), torch.arange(width)).double() + 0.5)


def observed(query, key, heads=1):
    """Observe a layer with this query and key."""
    value = torch.randn_like(key[:, :heads])
    layer, attended = SelfAttention(8, squeeze_factor=1, heads=heads), attention(query, key, value, heads)
    return ObservedAttention(layer, "layers.0", query, key, value, attended, attended, attended)


def plain_statistics(query, key, heads):
    """Compute the statistics from the whole matrix of weights."""
    distances = torch.cdist(places(query, 1), places(key, query.shape[2] // key.shape[2]))
    query, key = (feature_map.flatten(2).unflatten(1, (heads, -1)) for feature_map in (query, key))
    weights = torch.einsum("bhci,bhcj->bhij", query, key).softmax(-1)
    entropy = -(weights * weights.log()).sum(-1).mean() / math.log(key.shape[-1])
    return (weights * distances).sum(-1).mean().item(), entropy.item()


@pytest.mark.parametrize("weights_per_chunk", [1, 100, 2**20])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("pooling", [1, 3])
def test_statistics_equal_those_of_the_whole_matrix(monkeypatch, weights_per_chunk, heads, pooling):
    monkeypatch.setattr(statistics, "WEIGHTS_PER_CHUNK", weights_per_chunk)
    query, key = (torch.randn(3, 4, 5 * scale, 7 * scale, dtype=torch.float64) for scale in (pooling, 1))
    expected = plain_statistics(query, key, heads)
    assert attention_statistics(observed(query, key, heads)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("pooling", [1, 2])
def test_uniform_attention(pooling):
    query, key = torch.zeros(1, 2, 6, 8), torch.randn(1, 2, 6 // pooling, 8 // pooling)
    distance, entropy = attention_statistics(observed(query, key))
    assert entropy == pytest.approx(1)
    assert distance == pytest.approx(plain_statistics(query, key, 1)[0], rel=1e-5)
    assert distance == pytest.approx(uniform_distance((6, 8), (6 // pooling, 8 // pooling)), rel=1e-5)


def test_attention_to_one_position():
    """Every query attends to the first position: the mean distance is that to a corner."""
    key = torch.zeros(1, 1, 3, 3)
    key[0, 0, 0, 0] = 1
    distance, entropy = attention_statistics(observed(torch.full((1, 1, 3, 3), 1e4), key))
    assert entropy == pytest.approx(0, abs=1e-6)
    corner = (0 + 2 * (1 + 2) + math.sqrt(2) + 2 * math.sqrt(5) + math.sqrt(8)) / 9
    assert distance == pytest.approx(corner, rel=1e-5)


def test_one_position_has_no_entropy():
    assert attention_statistics(observed(*torch.randn(2, 2, 3, 1, 1))) == (0, 0)


def test_the_whole_matrix_is_never_held():
    """4,096 positions: no intermediate tensor may come near 4,096 x 4,096 numbers."""

    class Sizes(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.largest = max(self.largest, result.numel())
            return result

    seen = observed(*torch.randn(2, 1, 2, 64, 64))
    with Sizes() as sizes:
        attention_statistics(seen)
    assert 64 * 4096 <= sizes.largest <= 2**20


# Statistics of layers


def test_flops_by_hand(generator, discriminator):
    [first, middle, last] = inspect_layers(generator, torch.randn(3, 8))
    # Transposed: each of the inputs' numbers meets a kernel for each output channel. Query, key, value, residual.
    assert first.flops == 2 * (8 * 16) * (1 + 1 + 16 + 16) + 2 * 16**2 * (1 + 16)
    assert middle.flops == 2 * 16 * 16 * (2 + 2 + 16) + 2 * 16**2 * (2 + 16)
    assert last.flops == 2 * 16 * 16 * 16 * (2 + 2 + 3 + 3) + 2 * 64**2 * (2 + 3)
    [attentive, convolution] = inspect_layers(discriminator, torch.zeros(2, 3, 8, 8))
    assert attentive.flops == 2 * 16 * (3 * 16) * (3 + 3 + 16 + 16) + 2 * 16**2 * (3 + 16)
    assert convolution.flops == 2 * 16 * 16


def test_flops_do_not_depend_on_the_kernel_or_the_mode(generator):
    latents = torch.randn(1, 8)
    expected = [layer.flops for layer in inspect_layers(generator, latents)]
    with torch.inference_mode():
        assert [layer.flops for layer in inspect_layers(generator, latents)] == expected
    for kernel in ("chunked", "fused"):
        with attention_kernel(kernel), sdpa_kernel(SDPBackend.MATH):
            assert [layer.flops for layer in inspect_layers(generator, latents)] == expected
        with attention_kernel(kernel):
            assert [layer.flops for layer in inspect_layers(generator, latents)] == expected


# How attention is computed


class Calls(TorchDispatchMode):
    """Records the arguments of torch's attention kernels, and the number of batched matrix products."""

    def __init__(self):
        super().__init__()
        self.fused, self.products = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "scaled_dot_product" in str(function):
            self.fused.append((str(function), args[0].shape[2], args[1].shape[3], args[2].shape[3]))
        self.products += "bmm" in str(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", ["chunked", "fused", None])
def test_the_kernel_is_the_one_of_a_forward_pass(kernel, dtype):
    """With 16 to 1,024 positions, so that both kernels are chosen."""
    generator = with_gates(Generator.from_preset("fagan-plain-32")).to(dtype)
    latents = torch.randn(1, 64, dtype=dtype)
    with nullcontext() if kernel is None else attention_kernel(kernel), torch.no_grad():
        reports = [layer.kernel for layer in inspect_layers(generator, latents)]
        with Calls() as calls:
            generator(latents)
    assert {report.kernel for report in reports} == {kernel} or kernel is None
    fused = [
        ("aten._scaled_dot_product_flash_attention_for_cpu.default", positions, *sizes)
        for positions, report in zip((16, 64, 256, 1024), reports, strict=True)
        if report.kernel == "fused"
        for sizes in [(report.kernel_key_size, report.kernel_value_size)]
    ]
    assert calls.fused == fused
    assert (calls.products > 0) == (len(fused) < 4)
    for report in reports:
        assert report.backend == ("flash" if report.kernel == "fused" else None)
        assert (report.weights_held == "none") == (report.kernel == "fused")
        assert (report.device, report.dtype) == ("cpu", str(dtype)[6:])


def test_heads_have_their_share_of_the_channels():
    specs = (
        FullAttentionSpec(
            in_channels=8,
            out_channels=12,
            kernel_size=4,
            transposed=True,
            squeeze_factor=2,
            heads=2,
            spectral_norm=False,
        ),
        ConvTransposeSpec(in_channels=12, out_channels=3, kernel_size=1),
    )
    generator = Generator(GeneratorConfig(latent_dim=8, image_size=4, layers=specs))
    with attention_kernel("fused"):
        attentive, plain = inspect_layers(generator, torch.randn(1, 8))
    report = attentive.kernel
    assert plain.kernel is None
    assert (report.heads, report.key_size, report.value_size) == (2, 2, 6)
    assert (report.kernel_key_size, report.kernel_value_size) == (16, 16)


def test_a_kernel_that_holds_all_weights_is_told(generator):
    with attention_kernel("fused"), sdpa_kernel(SDPBackend.MATH):
        report = inspect_layers(generator, torch.randn(1, 8))[0].kernel
    assert (report.backend, report.weights_held) == ("math", "all")


def test_of_other_devices_nothing_is_claimed():
    """On other devices torch can't report whether its kernel is fused."""
    with attention_kernel("fused"):
        report = kernels.kernel_report(observed(*torch.empty(2, 1, 8, 4, 4, device="meta"), heads=2))
    assert (report.device, report.backend, report.weights_held) == ("meta", None, "unknown")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(("dtype", "backends"), [(torch.bfloat16, {"flash", "cudnn"}), (torch.float32, {"efficient"})])
def test_on_cuda_the_kernels_are_none_that_hold_all_weights(dtype, backends):
    generator = with_gates(Generator.from_preset("fagan-32")).to("cuda", dtype)
    layers = inspect_layers(generator, torch.randn(1, 64))
    reports = [layer.kernel for layer in layers if layer.kernel is not None]  # norms and activations have none
    assert len(reports) == 5
    assert {report.kernel for report in reports} == {"fused"}
    assert {report.backend for report in reports} <= backends


# Statistics of attention


def test_a_layer_in_numbers(generator):
    [first, middle, last] = inspect_layers(generator, torch.randn(2, 8))
    assert [layer.name for layer in (first, middle, last)] == ["layers.0", "layers.1", "layers.2"]
    assert [layer.type for layer in (first, middle, last)] == ["full_attention", "self_attention", "full_attention"]
    assert [(layer.height, layer.width) for layer in (first, middle, last)] == [(4, 4), (4, 4), (8, 8)]
    assert [layer.positions for layer in (first, middle, last)] == [16, 16, 64]
    assert middle.parameters == 2 * (16 * 2 + 2) + 16 * 16 + 16 + 1
    assert middle.gate == pytest.approx(0.3)
    assert first.uniform_distance == pytest.approx(2 * uniform_distance((4, 4), (4, 4)))


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_means_are_over_all_inputs_whatever_the_batch(generator, batch_size):
    latents = torch.randn(3, 8)
    with torch.no_grad():
        feature_map = generator.layers[0](latents[..., None, None])
    layer = generator.layers[1]
    distance, entropy = plain_statistics(layer.query(feature_map), layer.key(feature_map), 1)
    plain, gathered = (branch.square().sum().item() for branch in layer.branches(feature_map))
    report = inspect_layers(generator, latents, batch_size=batch_size)[1]
    assert report.distance == pytest.approx(2 * distance, rel=1e-5)  # a position is two pixels wide
    assert report.entropy == pytest.approx(entropy, rel=1e-5)
    assert report.attention_energy == pytest.approx(0.09 * gathered / (0.09 * gathered + plain), rel=1e-5)


def test_energy_follows_the_gate(generator):
    latents = torch.randn(2, 8)
    for gate, expected in ((0.0, 0), (1.0, 1)):
        with override_alpha(generator, gate):
            first, middle, _ = inspect_layers(generator, latents)
        assert first.attention_energy == expected
        assert 0 <= middle.attention_energy < 1  # self-attention adds to its input
        assert first.gate == gate


def test_fresh_networks_have_no_energy_in_attention():
    for network, inputs in (
        (Generator(GENERATOR), torch.randn(2, 8)),
        (Discriminator(DISCRIMINATOR), torch.zeros(2, 3, 8, 8)),
    ):
        energies = [layer.attention_energy for layer in inspect_layers(network, inputs)]
        assert {energy for energy in energies if energy is not None} == {0}
        assert network.training  # unchanged


def test_a_layer_without_attention_has_no_numbers_of_it(discriminator):
    report = inspect_layers(discriminator, torch.zeros(2, 3, 8, 8))[1]
    assert (report.type, report.parameters, report.height) == ("conv", 16 * 16 + 1, 1)
    assert (report.positions, report.gate, report.attention_energy, report.distance, report.entropy) == (None,) * 5


def test_labels_reach_the_layers():
    specs = [
        FullAttentionSpec(in_channels=9, out_channels=16, kernel_size=4, transposed=True, num_labels=1),
        ConvTransposeSpec(in_channels=16, out_channels=3, kernel_size=4, stride=2, padding=1),
    ]
    generator = Generator(GeneratorConfig(latent_dim=8, image_size=8, layers=tuple(specs), label_names=("beard",)))
    report = inspect_layers(generator, torch.randn(2, 8), torch.ones(2, 1))[0]
    # The labels' own two linear maps are the layer's, too.
    assert report.flops >= 2 * (9 * 16) * (1 + 1 + 16 + 16) + 2 * 16**2 * (1 + 16)
    with pytest.raises(ValueError, match="labels are missing"):
        inspect_layers(generator, torch.randn(2, 8))


def test_another_threads_pass_is_not_recorded(generator):
    mine, others = torch.randn(1, 8), torch.randn(3, 8)
    with torch.no_grad(), capture_attention(generator, [(1, 6)]) as captured:
        generator(mine)
        thread = threading.Thread(target=generator, args=(others,))
        thread.start()
        thread.join()
    assert {len(layer.weights) for layer in captured.values()} == {1}


def test_another_threads_pass_survives_that_the_capture_ends_meanwhile(generator):
    generator.eval()
    capture, done = ExitStack(), []
    layer = next(module for module in generator.modules() if isinstance(module, FullAttention | SelfAttention))
    layer.register_forward_hook(lambda *_: capture.close())
    capture.enter_context(capture_attention(generator))
    latents = torch.zeros(1, generator.config.latent_dim)
    thread = threading.Thread(target=lambda: done.append(generator(latents)))
    thread.start()
    thread.join()
    assert len(done) == 1


def test_nothing_to_inspect_is_refused(generator):
    with pytest.raises(ValueError, match="0 inputs in batches of 16"):
        inspect_layers(generator, torch.empty(0, 8))
    with pytest.raises(ValueError, match="2 inputs in batches of 0"):
        inspect_layers(generator, torch.empty(2, 8), batch_size=0)


def test_networks_without_attention_are_inspected():
    config = DiscriminatorConfig(image_size=4, layers=(ConvSpec(in_channels=3, out_channels=1, kernel_size=4),))
    [report] = inspect_layers(Discriminator(config), torch.zeros(1, 3, 4, 4))
    assert (report.flops, report.gate) == (2 * 3 * 16, None)
