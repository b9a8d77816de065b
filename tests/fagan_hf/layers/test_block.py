import pytest
import torch
from torch.nn import functional

from fagan_hf import Generator
from fagan_hf.architectures.configs import GeneratorConfig
from fagan_hf.architectures.specs import (
    NORMS,
    ActivationSpec,
    BatchNormSpec,
    ConvTransposeSpec,
    FullAttentionBlockSpec,
    FullAttentionSpec,
)
from fagan_hf.attention_maps.capture import capture_attention
from fagan_hf.attention_maps.report import inspect_layers
from fagan_hf.layers import Activation, FullAttentionBlock, gates, override_alpha, twice_differentiable


def block(in_channels=4, out_channels=6, **options):
    made = FullAttentionBlock(in_channels, out_channels, squeeze_factor=2, heads=2, **options).double().eval()
    made.branch.alpha.data.fill_(0.3)
    return made


def double(feature_map):
    return functional.interpolate(feature_map, scale_factor=2)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("resample", ["none", "up", "down"])
def test_the_sum_of_both_paths(resample, norm):
    layer = block(resample=resample, norm=norm)
    if norm == "batch":
        layer.norm.running_mean.normal_()
    feature_map = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    activated = functional.leaky_relu(layer.norm(feature_map), 0.2)
    expected = {
        "none": lambda: layer.shortcut(feature_map) + layer.branch(activated),
        "up": lambda: layer.shortcut(double(feature_map)) + layer.branch(activated),
        "down": lambda: layer.shortcut(functional.avg_pool2d(feature_map, 2)) + layer.branch(activated),
    }[resample]()
    size = {"none": 8, "up": 16, "down": 4}[resample]
    assert expected.shape == (2, 6, size, size)
    torch.testing.assert_close(layer(feature_map), expected)


def test_nothing_is_on_the_shortcut_where_channels_stay():
    layer = block(4, 4, spectral_norm=False)
    for name, parameter in layer.named_parameters():
        assert name.startswith("branch")
        torch.nn.init.zeros_(parameter)
    feature_map = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    assert torch.equal(layer(feature_map), feature_map)


def test_what_comes_in_is_not_overwritten():
    feature_map = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    before = feature_map.clone()
    for norm in NORMS:
        block(norm=norm)(feature_map)
    assert torch.equal(feature_map, before)


@pytest.mark.parametrize("resample", ["none", "up", "down"])
def test_both_derivatives(resample):
    layer = block(resample=resample, activation="silu", key_pooling=2)
    size = 2 if resample == "up" else 4  # either way at least 4x4 for the key to be pooled
    feature_map = torch.randn(1, 4, size, size, dtype=torch.float64, requires_grad=True)
    with twice_differentiable():
        torch.autograd.gradcheck(layer, feature_map)
        torch.autograd.gradgradcheck(layer, feature_map)


@pytest.mark.parametrize("norm", ["batch", "rms"])
def test_labels_steer_the_norm(norm):
    layer = block(norm=norm, num_labels=2)
    torch.nn.init.normal_(layer.norm.shift.weight)
    feature_map = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    labels = torch.eye(2, dtype=torch.float64)
    assert not torch.allclose(layer(feature_map, labels), layer(feature_map, labels.flip(0)))
    with pytest.raises(ValueError, match="labels are missing"):
        layer(feature_map)


@pytest.fixture
def generator():
    config = GeneratorConfig(
        latent_dim=8,
        image_size=16,
        layers=(
            ConvTransposeSpec(in_channels=8, out_channels=16, kernel_size=4),
            FullAttentionBlockSpec(in_channels=16, out_channels=8, resample="up", key_pooling=2),
            FullAttentionBlockSpec(in_channels=8, out_channels=8, resample="up", key_pooling=4),
            BatchNormSpec(in_channels=8),
            ActivationSpec(activation="relu"),
            FullAttentionSpec(in_channels=8, out_channels=3, kernel_size=3, padding=1, activation="tanh"),
        ),
    )
    return Generator(config).eval()


def test_a_network_of_blocks_is_seen_by_name(generator):
    names = ["layers.1.branch", "layers.2.branch", "layers.5"]
    assert list(gates(generator)) == [f"{name}.alpha" for name in names]
    latents = torch.randn(2, 8)
    with torch.no_grad(), capture_attention(generator, [(15, 0)]) as captured:
        plain = generator(latents)
    assert list(captured) == names
    assert [each.weights.shape[-2:] for each in captured.values()] == [(4, 4), (4, 4), (16, 16)]
    assert [each.positions for each in captured.values()] == [[(7, 0)], [(15, 0)], [(15, 0)]]
    with torch.no_grad(), override_alpha(generator, {names[0]: 1.0}):
        assert not torch.allclose(generator(latents), plain)


def test_a_block_is_inspected_as_a_whole_and_its_attention_after_it(generator):
    reports = {layer.name: layer for layer in inspect_layers(generator, torch.randn(2, 8))}
    inner = [name for name in reports if name.endswith("branch")]
    assert list(reports) == ["layers.0", "layers.1", inner[0], "layers.2", inner[1], "layers.3", "layers.4", "layers.5"]
    whole, attentive = reports["layers.1"], reports["layers.1.branch"]
    assert (whole.type, attentive.type) == ("full_attention_block", "full_attention")
    assert (whole.is_part, attentive.is_part) == (False, True)
    assert (whole.positions, attentive.positions, attentive.key_positions) == (None, 64, 16)
    shortcut = 16 * 8
    assert whole.parameters == attentive.parameters + shortcut + 8
    assert whole.flops == attentive.flops + 2 * shortcut * 4 * 4
    products = 2 * 64 * 16 * (16 // 8 + 8)
    assert attentive.flops == 2 * 16 * (4 * 64 + 9 * 16) * (2 + 8) + products


def test_a_network_of_blocks_folds_and_saves(generator, tmp_path):
    with torch.no_grad():
        generator.train()(torch.randn(4, 8))  # spectral norms move
        generator.eval()
        latents = torch.randn(2, 8)
        folded = generator.fold()
        assert not any(spec.spectral_norm for spec in folded.config.layers if hasattr(spec, "spectral_norm"))
        folded.save_pretrained(tmp_path)
        loaded = Generator.from_pretrained(tmp_path)
        torch.testing.assert_close(loaded(latents), generator(latents))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resample": "sideways"}, "resample is 'sideways'; it must be one of none, up, down"),
        ({"similarity": "cosin"}, "similarity is 'cosin'; it must be one of dot_product, cosine, negative_distance"),
        ({"num_labels": 2}, "num_labels is 2; it must be 0 if norm is 'none'"),
        ({"norm": "layer"}, "norm is 'layer'; it must be one of none, batch, rms"),
        ({"heads": 3}, "heads is 3; it must divide"),
        ({"key_pooling": 0}, "key_pooling is 0; it must be a whole number from 1 to 65,536"),
    ],
)
def test_nonsense_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        FullAttentionBlockSpec(in_channels=16, out_channels=8, **fields)


@pytest.mark.parametrize(("resample", "size"), [("down", 5), ("none", 9), ("up", 3)])
def test_sizes_that_cannot_be_divided_are_refused(resample, size):
    spec = FullAttentionBlockSpec(in_channels=16, out_channels=8, resample=resample, key_pooling=4)
    with pytest.raises(ValueError, match=f"{size}x{size} can't be halved|key_pooling is 4; it must divide"):
        spec.output_size(size)


def test_an_activation_alone():
    feature_map = torch.randn(1, 2, 3, 3)
    assert torch.equal(Activation(activation="relu")(feature_map), feature_map.clamp(min=0))
