import dataclasses
import json

import pytest
import torch

from fagan_hf.architectures.conditioning import with_labels
from fagan_hf.architectures.load import load_architecture, save_architecture
from fagan_hf.architectures.presets import PRESETS
from fagan_hf.architectures.specs import ConvSpec
from fagan_hf.models import Discriminator, Generator
from tests.small import DISCRIMINATOR, GENERATOR

NAMES = ("beard", "hair=red", "hair=black")


def test_a_preset_and_a_file_of_it(tmp_path):
    path = tmp_path / "mine.json"
    save_architecture(path, PRESETS["fagan-32"])
    assert load_architecture(str(path)) == load_architecture("fagan-32") == PRESETS["fagan-32"]


def test_a_mistyped_preset():
    with pytest.raises(
        ValueError, match=r"model is 'fagan-23', which is neither a preset .* did you mean 'fagan-32'\?"
    ):
        load_architecture("fagan-23")


def test_a_mistyped_file(tmp_path):
    save_architecture(tmp_path / "mine.json", PRESETS["fagan-32"])
    with pytest.raises(ValueError, match=r"did you mean '.*mine\.json'\?"):
        load_architecture(str(tmp_path / "mine.jsn"))


def test_a_python_file_is_run_once(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from pathlib import Path\n"
        "from tests.small import DISCRIMINATOR, GENERATOR\n"
        "with (Path(__file__).parent / 'runs').open('a') as file: file.write('x')\n"
    )
    assert load_architecture(str(path)) == load_architecture(str(path)) == (GENERATOR, DISCRIMINATOR)
    assert (tmp_path / "runs").read_text() == "x"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("no.json", None, "is neither a preset nor a file that ends in .json or .py"),
        ("a.json", "{", "is not a valid JSON file"),
        ("b.json", "[]", "contains list; it must be a mapping with the keys 'generator' and 'discriminator'"),
        ("c.json", '{"generator": {}}', r"contains \['generator'\]"),
        ("d.json", '{"generator": {"layers": []}, "discriminator": {}}', "d.json: generator: missing 'image_size'"),
        ("e.py", "GENERATOR = 1", "does not set DISCRIMINATOR"),
        ("f.py", "1 / 0", "f.py can't be run: ZeroDivisionError: division by zero"),
        ("g.py", "GENERATOR = DISCRIMINATOR = 1", "g.py: generator: it is int 1; it must be a mapping"),
    ],
)
def test_errors_name_the_file(tmp_path, file, content, message):
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_architecture(str(tmp_path / file))


@pytest.mark.parametrize("conditioning", ["concatenation", "projection"])
@pytest.mark.parametrize("name", ["fagan-32", "fagan-classic-64", "dcgan-64"])
def test_every_way_of_conditioning_runs_and_survives_json(name, conditioning):
    configs = with_labels(PRESETS[name], NAMES, conditioning)
    for network_class, config in zip((Generator, Discriminator), configs, strict=True):
        assert config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        network = network_class(config).eval()
        size = config.image_size
        inputs = torch.randn(2, config.latent_dim) if network_class is Generator else torch.randn(2, 3, size, size)
        for each in network.modules():
            if isinstance(each, torch.nn.Linear) and hasattr(each, "weight") and not each.weight.any():
                torch.nn.init.normal_(each.weight)  # conditional batch norm has no effect at first
        one, other = torch.eye(3)[[0, 1]], torch.eye(3)[[2, 2]]
        assert not torch.allclose(network(inputs, one), network(inputs, other))
    assert with_labels(configs, NAMES, conditioning) == configs


def interaction(discriminator):
    """Measure how much the effect of a label change differs between images."""
    images, labels = torch.randn(2, 3, 8, 8), torch.eye(3)
    judge = discriminator.double().eval()
    with torch.no_grad():
        change = judge(images.double(), labels[[0, 0]]) - judge(images.double(), labels[[1, 1]])
    return (change[0] - change[1]).abs().item()


@pytest.mark.parametrize("conditioning", ["concatenation", "projection"])
def test_labels_meet_the_image(conditioning):
    assert interaction(Discriminator(with_labels((GENERATOR, DISCRIMINATOR), NAMES, conditioning)[1])) > 1e-6


def test_labels_beside_the_last_convolution_only_add_up():
    """As in the original; this is why `with_labels` puts a layer in between."""
    *first, last = DISCRIMINATOR.layers
    wide = dataclasses.replace(last, in_channels=last.in_channels + 3)
    config = dataclasses.replace(DISCRIMINATOR, layers=(*first, wide), label_names=NAMES)
    assert interaction(Discriminator(config)) < 1e-12


def test_a_place_of_ones_own_for_labels():
    config = with_labels((GENERATOR, dataclasses.replace(DISCRIMINATOR, labels_at=-2)), NAMES, "concatenation")[1]
    assert config.labels_at == -2
    assert len(config.layers) == len(DISCRIMINATOR.layers)
    assert config.layers[0].in_channels == 3 + len(NAMES)
    assert interaction(Discriminator(config)) > 1e-6


def test_labels_that_do_not_fit():
    networks = with_labels((GENERATOR, DISCRIMINATOR), NAMES, "projection")
    with pytest.raises(ValueError, match=r"the architecture has the labels .*the data \['other'\]"):
        with_labels(networks, ("other",), "projection")
    plain = tuple(
        dataclasses.replace(layer, **({"batch_norm": False} if hasattr(layer, "batch_norm") else {}))
        for layer in GENERATOR.layers
    )
    with pytest.raises(ValueError, match=r"no layer of the generator has a batch norm.* use 'concatenation'"):
        with_labels((dataclasses.replace(GENERATOR, layers=plain), DISCRIMINATOR), NAMES, "projection")
    wrong = ConvSpec(in_channels=16, out_channels=1, kernel_size=4, batch_norm=True, num_labels=2)
    with pytest.raises(ValueError, match=r"layers\[1\] \(conv\): num_labels is 2; it must be 0 or the number of"):
        dataclasses.replace(DISCRIMINATOR, layers=(DISCRIMINATOR.layers[0], wrong))
    with pytest.raises(ValueError, match=r"labels_at is 0; it must be from -2, the first layer, to -1, the last"):
        dataclasses.replace(DISCRIMINATOR, labels_at=0)
    with pytest.raises(ValueError, match=r"conditioning is 'magic'; it must be 'concatenation' or 'batch_norm'"):
        dataclasses.replace(GENERATOR, conditioning="magic")
    with pytest.raises(ValueError, match=r"conditioning is 'batch_norm'; it must be 'concatenation', or some layer"):
        dataclasses.replace(GENERATOR, conditioning="batch_norm", label_names=("a",))
