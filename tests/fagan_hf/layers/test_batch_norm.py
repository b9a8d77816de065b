import pytest
import torch

from fagan_hf.layers import BatchNorm, ConditionalBatchNorm, Conv, FullAttention


def test_conditional_batch_norm_begins_as_a_plain_one():
    norm, plain = ConditionalBatchNorm(4, 3), torch.nn.BatchNorm2d(4)
    feature_map = torch.randn(8, 4, 5, 5)
    torch.testing.assert_close(norm(feature_map, torch.rand(8, 3)), plain(feature_map))


def test_conditional_batch_norm_by_hand():
    norm = ConditionalBatchNorm(2, 2).double()
    torch.nn.init.normal_(norm.scale.weight)
    torch.nn.init.normal_(norm.shift.weight)
    feature_map, labels = torch.randn(3, 2, 4, 4).double(), torch.tensor([[1, 0], [0, 1], [0.5, 0.5]]).double()
    mean, variance = feature_map.mean((0, 2, 3)), feature_map.var((0, 2, 3), unbiased=False)
    normalized = (feature_map - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    for image in range(3):
        scale = 1 + labels[image] @ norm.scale.weight.mT
        shift = labels[image] @ norm.shift.weight.mT
        expected = normalized[image] * scale[:, None, None] + shift[:, None, None]
        torch.testing.assert_close(norm(feature_map, labels)[image], expected)


@pytest.mark.parametrize(
    "layer",
    [
        BatchNorm(4, num_labels=2),
        Conv(4, 4, kernel_size=3, padding=1, batch_norm=True, num_labels=2),
        FullAttention(4, 4, kernel_size=3, padding=1, squeeze_factor=2, num_labels=2),
    ],
)
def test_layers_take_labels_and_miss_them(layer):
    layer.eval()
    norm = layer.batch_norm
    assert isinstance(norm, ConditionalBatchNorm)
    torch.nn.init.normal_(norm.scale.weight)
    feature_map, labels = torch.randn(2, 4, 5, 5), torch.eye(2)
    assert not torch.allclose(layer(feature_map, labels), layer(feature_map, labels.flip(0)))
    with pytest.raises(ValueError, match=r"labels are missing; they must be \[2, 2\]"):
        layer(feature_map)


def test_dropout_drops_whole_channels():
    from fagan_hf.layers import Dropout

    layer, feature_map = Dropout(probability=0.5), torch.ones(4, 50, 3, 3)
    dropped = layer(feature_map).flatten(2)
    assert set(dropped.unique().tolist()) == {0, 2}
    assert torch.all(dropped == dropped[..., :1])
    assert torch.equal(layer.eval()(feature_map), feature_map)
