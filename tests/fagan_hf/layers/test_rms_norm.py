import torch

from fagan_hf.layers import RMSNorm


def test_each_position_on_its_own():
    layer = RMSNorm(4).double()
    layer.norm.weight.data.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    feature_map = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    rms = (feature_map.square().sum(1) / 4 + 1e-6).sqrt()
    for channel in range(4):
        expected = (channel + 1) * feature_map[:, channel] / rms
        torch.testing.assert_close(layer(feature_map)[:, channel], expected)


def test_memory_format_stays():
    feature_map = torch.randn(2, 4, 3, 5).to(memory_format=torch.channels_last)
    assert RMSNorm(4)(feature_map).is_contiguous(memory_format=torch.channels_last)


def test_training_and_evaluation_are_the_same():
    feature_map = torch.randn(2, 4, 3, 5)
    layer = RMSNorm(4)
    assert torch.equal(layer.train()(feature_map), layer.eval()(feature_map))
    assert not list(layer.buffers())


def test_labels_scale_and_shift():
    layer = RMSNorm(4, num_labels=3).double()
    torch.nn.init.normal_(layer.norm.scale.weight)
    torch.nn.init.normal_(layer.norm.shift.weight)
    feature_map, labels = torch.randn(2, 4, 3, 5).double(), torch.rand(2, 3).double()
    plain = layer.norm.norm(feature_map)
    scale, shift = (each(labels)[..., None, None] for each in (layer.norm.scale, layer.norm.shift))
    torch.testing.assert_close(layer(feature_map, labels), plain * (1 + scale) + shift)


def test_second_derivatives():
    layer = RMSNorm(3).double()
    feature_map = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradgradcheck(layer, feature_map)
