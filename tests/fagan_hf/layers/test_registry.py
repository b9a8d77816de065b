from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from fagan_hf.configs import LAYER_SPECS, DiscriminatorConfig, LayerSpec
from fagan_hf.layers import LAYERS, Conv, register_layer
from fagan_hf.models import Discriminator
from tests.small import DISCRIMINATOR


@dataclass(frozen=True, kw_only=True)
class ScaleSpec(LayerSpec):
    type: ClassVar[str] = "test_scale"
    factor: float = 2.0
    num_labels: int = 0


class Scale(torch.nn.Module):
    def __init__(self, *, factor, num_labels):
        super().__init__()
        self.factor, self.num_labels = factor, num_labels

    def forward(self, feature_map, labels=None):
        assert (labels is not None) == bool(self.num_labels)
        return self.factor * feature_map


@pytest.fixture
def registered():
    register_layer(ScaleSpec, Scale)
    yield
    LAYER_SPECS.pop("test_scale"), LAYERS.pop("test_scale")


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("num_labels", [0, 2])
def test_a_layer_of_ones_own_in_json(num_labels, tmp_path):
    first, last = (layer.to_dict() for layer in DISCRIMINATOR.layers)
    own = {"type": "test_scale", "factor": 3, "num_labels": num_labels}
    names = {"label_names": ["a", "b"], "conditioning": "projection"} if num_labels else {}
    config = DiscriminatorConfig.from_dict({"image_size": 8, "layers": [first, own, last], **names})
    network = Discriminator(config).eval()
    network.save_pretrained(tmp_path)
    again = Discriminator.from_pretrained(tmp_path)
    images, labels = torch.randn(2, 3, 8, 8), torch.eye(2) if num_labels else None
    assert torch.equal(network(images, labels), again(images, labels))
    assert again.layers[1].factor == 3


@pytest.mark.usefixtures("registered")
def test_again_is_nothing_and_another_under_the_name_is_refused():
    register_layer(ScaleSpec, Scale)
    with pytest.raises(ValueError, match="type 'test_scale' of ScaleSpec is taken by ScaleSpec; rename it"):
        register_layer(ScaleSpec, Conv)
    assert LAYERS["test_scale"] is Scale


def test_our_own_types_are_taken():
    @dataclass(frozen=True, kw_only=True)
    class ConvSpec(LayerSpec):
        type: ClassVar[str] = "conv"

    with pytest.raises(ValueError, match="type 'conv' of ConvSpec is taken by ConvSpec"):
        register_layer(ConvSpec, Scale)


def test_what_is_no_spec():
    class Undecorated(LayerSpec):
        type: ClassVar[str] = "undecorated"

    @dataclass(frozen=True, kw_only=True)
    class Nameless(LayerSpec):
        pass

    for wrong in (Undecorated, Nameless, LayerSpec):
        with pytest.raises(ValueError, match=r"it must be a class derived from LayerSpec, decorated with"):
            register_layer(wrong, Scale)


def test_an_unknown_layer_says_how_it_would_be_known():
    first, last = (layer.to_dict() for layer in DISCRIMINATOR.layers)
    with pytest.raises(ValueError, match=r"type is 'test_scale'; .*must be registered first: import the module"):
        DiscriminatorConfig.from_dict({"image_size": 8, "layers": [first, {"type": "test_scale"}, last]})
