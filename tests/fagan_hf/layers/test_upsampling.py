import pytest
import torch
from torch.nn import functional

from fagan_hf.architectures.specs import ConvSpec, ConvTransposeSpec, FullAttentionSpec
from fagan_hf.layers import Conv, FullAttention
from fagan_hf.layers.upsampling import UpsamplingConv2d


def double(feature_map):
    return functional.interpolate(feature_map, scale_factor=2)


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
def test_it_is_a_convolution_of_the_doubled_map(kernel_size):
    conv = UpsamplingConv2d(3, 5, kernel_size).double()
    feature_map = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    expected = functional.conv2d(double(feature_map), conv.weight, conv.bias, padding=kernel_size // 2)
    torch.testing.assert_close(conv(feature_map), expected)


def test_gradients():
    conv = UpsamplingConv2d(2, 3, 3).double()
    feature_map = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradgradcheck(conv, feature_map)


@pytest.mark.parametrize("spectral_norm", [True, False])
def test_a_layer_that_upsamples_is_one_of_the_doubled_map(spectral_norm):
    layer = Conv(4, 6, kernel_size=3, padding=1, upsample=True, spectral_norm=spectral_norm).double().eval()
    feature_map = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    expected = functional.conv2d(double(feature_map), layer.conv.weight, layer.conv.bias, padding=1)
    torch.testing.assert_close(layer(feature_map), expected)


@pytest.mark.parametrize("key_pooling", [1, 2, 4])
def test_full_attention_that_upsamples_is_that_of_the_doubled_map(key_pooling):
    options = {"kernel_size": 3, "padding": 1, "squeeze_factor": 2, "key_pooling": key_pooling}
    torch.manual_seed(0)
    layer = FullAttention(4, 6, upsample=True, **options).double().eval()
    plain = FullAttention(4, 6, **options).double().eval()
    plain.load_state_dict(layer.state_dict())
    for each in (layer, plain):
        each.alpha.data.fill_(0.5)
    feature_map = torch.randn(2, 4, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(feature_map), plain(double(feature_map)))


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        (ConvSpec, {"kernel_size": 4, "padding": 1}),
        (ConvSpec, {"kernel_size": 3, "padding": 0}),
        (ConvSpec, {"kernel_size": 3, "padding": 1, "stride": 2}),
        (ConvTransposeSpec, {"kernel_size": 3, "padding": 1}),
        (FullAttentionSpec, {"kernel_size": 3, "padding": 1, "transposed": True}),
    ],
)
def test_what_cannot_be_doubled_is_refused(spec, fields):
    with pytest.raises(ValueError, match="upsample is True; it must be false unless kernel_size is odd"):
        spec(in_channels=16, out_channels=8, upsample=True, **fields)


def test_pooling_that_does_not_fit_a_doubled_map_is_refused():
    options = {"in_channels": 16, "out_channels": 8, "kernel_size": 3, "padding": 1, "upsample": True}
    with pytest.raises(ValueError, match=r"key_pooling is 3; it must be 1 or even, because the input is doubled first"):
        FullAttentionSpec(**options, key_pooling=3)
    wanted = r"key_pooling is 8; it must divide 12, the height or width of its input, which is doubled first"
    with pytest.raises(ValueError, match=wanted):
        FullAttentionSpec(**options, key_pooling=8).output_size(6)
    layer = FullAttention(**options, key_pooling=8)
    with pytest.raises(ValueError, match=wanted):
        layer(torch.zeros(1, 16, 4, 6))
