import json
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from fagan_hf.architectures.configs import DiscriminatorConfig
from fagan_hf.architectures.own_code import import_code
from fagan_hf.architectures.specs import LAYER_SPECS, LayerSpec, parse_layer
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
def test_another_under_the_name_is_refused():
    @dataclass(frozen=True, kw_only=True)
    class OtherSpec(LayerSpec):
        type: ClassVar[str] = "test_scale"

    with pytest.raises(ValueError, match="type 'test_scale' of OtherSpec is taken by ScaleSpec; rename it"):
        register_layer(OtherSpec, Conv)
    assert LAYERS["test_scale"] is Scale


CELL = """
from dataclasses import dataclass
from typing import ClassVar
from fagan_hf.architectures.specs import LayerSpec
from fagan_hf.layers import Conv, register_layer

@dataclass(frozen=True, kw_only=True)
class MySpec(LayerSpec):
    type: ClassVar[str] = "test_scale"
    sizes: tuple = (1, 2)
    shift: int = -3

register_layer(MySpec, Conv)
"""


def test_a_cell_of_a_notebook_may_run_again(monkeypatch):
    monkeypatch.setitem(LAYER_SPECS, "test_scale", ScaleSpec)
    monkeypatch.delitem(LAYER_SPECS, "test_scale")
    monkeypatch.setitem(LAYERS, "test_scale", Scale)
    for _ in range(2):
        namespace = {"__name__": "__main__"}
        exec(CELL, namespace)
    assert LAYER_SPECS["test_scale"] is namespace["MySpec"]


def test_a_file_may_be_imported_under_two_names(tmp_path, monkeypatch):
    monkeypatch.setitem(LAYER_SPECS, "test_scale", ScaleSpec)
    monkeypatch.delitem(LAYER_SPECS, "test_scale")
    monkeypatch.setitem(LAYERS, "test_scale", Scale)
    (tmp_path / "registers.py").write_text(CELL)
    monkeypatch.syspath_prepend(tmp_path)
    import_code(str(tmp_path / "registers.py"))
    assert import_code("registers").MySpec is LAYER_SPECS["test_scale"]
    monkeypatch.delitem(sys.modules, "registers")
    with pytest.raises(ValueError, match=r"'nowhere\.py' can't be imported: there is no such file"):
        import_code("nowhere.py")
    spec = parse_layer({"type": "test_scale"})
    assert parse_layer(json.loads(json.dumps(spec.to_dict()))) == spec  # lists become tuples again


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
    with pytest.raises(
        ValueError,
        match=r"type is 'test_scale', which is not a built-in layer.*must be registered first: import the module",
    ):
        DiscriminatorConfig.from_dict({"image_size": 8, "layers": [first, {"type": "test_scale"}, last]})
