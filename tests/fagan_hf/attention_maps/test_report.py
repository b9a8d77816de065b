"""`inspect_layers` of modules that are not our networks."""

import pytest
import torch
from torch import nn

from fagan_hf.attention_maps import inspect_layers
from fagan_hf.layers import Activation, Conv, FullAttentionBlock, SelfAttention
from fagan_hf.models import Generator
from tests.small import GENERATOR, with_gates


class Own(SelfAttention):
    pass


def module():
    blocks = nn.Sequential(FullAttentionBlock(8, 8, resample="up"), Own(8))
    return with_gates(nn.Sequential(nn.Conv2d(3, 8, 1), blocks, Conv(8, 4, kernel_size=3)))


def test_any_module_with_our_layers():
    network, images = module(), torch.randn(3, 3, 4, 4)
    reports = inspect_layers(network, images, batch_size=2)
    assert [(each.name, each.type, each.is_part) for each in reports] == [
        ("1.0", "full_attention_block", False),
        ("1.0.branch", "full_attention", True),
        ("1.1", "Own", False),
        ("2", "conv", False),
    ]
    own = reports[2]
    assert own.gate == pytest.approx(0.3)
    assert own.flops > 0
    [twice] = [each for each in inspect_layers(network, images, image_size=16) if each.name == "1.1"]
    assert twice.distance == pytest.approx(2 * own.distance)


def test_a_layer_on_its_own_and_one_that_was_not_run():
    [report] = inspect_layers(SelfAttention(8), torch.randn(2, 8, 4, 4))
    assert (report.name, report.type, report.positions) == ("", "self_attention", 16)
    network = nn.Module()
    network.used, network.unused = SelfAttention(8), SelfAttention(8)
    network.forward = network.used.forward
    network.forward = lambda images: network.used(feature_map=images)  # by name
    assert [each.name for each in inspect_layers(network, torch.randn(2, 8, 4, 4))] == ["used"]


def test_a_network_inside_another_module():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator = with_gates(Generator(GENERATOR))

        def forward(self, latents):
            return 2 * self.generator(latents)

    network, latents = Scaled(), torch.randn(2, 8)
    inner, outer = inspect_layers(network.generator, latents), inspect_layers(network, latents)
    assert [f"generator.{each.name}" for each in inner] == [each.name for each in outer]
    assert [each.distance for each in inner] == pytest.approx([each.distance for each in outer])


def test_a_module_without_our_layers():
    with pytest.raises(ValueError, match=r"Linear holds no layer of fagan_hf.layers"):
        inspect_layers(nn.Linear(2, 2), torch.randn(1, 2))
    assert [each.type for each in inspect_layers(Activation(activation="relu"), torch.randn(1, 2, 3, 3))] == [
        "activation"
    ]
