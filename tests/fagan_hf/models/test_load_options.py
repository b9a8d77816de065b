import json

import pytest
import torch
from safetensors.torch import load_file

from fagan_hf.hub.repository import save_repository
from fagan_hf.models import Discriminator, Generator
from fagan_hf.models.load_options import parse_device_map, parse_dtype
from fagan_hf.pipeline import FAGANPipeline
from tests.small import DISCRIMINATOR, GENERATOR

DOORS = [Generator, Discriminator, FAGANPipeline]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_repository(folder, Generator(GENERATOR).double(), Discriminator(DISCRIMINATOR).double())
    return folder


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, torch.float64),
        ({"dtype": "auto"}, torch.float64),
        ({"torch_dtype": "auto"}, torch.float64),
        ({"torch_dtype": "float16"}, torch.float16),
        ({"dtype": "torch.bfloat16"}, torch.bfloat16),
        ({"dtype": torch.float32}, torch.float32),
        ({"dtype": torch.float16, "torch_dtype": "float16"}, torch.float16),
    ],
)
@pytest.mark.parametrize("door", DOORS)
def test_dtypes(run, door, options, dtype):
    assert door.from_pretrained(run, **options).dtype == dtype


@pytest.mark.parametrize(
    "options",
    [
        {"use_safetensors": True, "variant": None},
        {"low_cpu_mem_usage": True, "trust_remote_code": True},
        {"low_cpu_mem_usage": False, "trust_remote_code": False, "use_safetensors": None},
        {"device_map": "cpu"},
        {"device_map": torch.device("cpu")},
        {"device_map": None},
    ],
)
@pytest.mark.parametrize("door", DOORS)
def test_habits_that_change_nothing(run, door, options):
    loaded = door.from_pretrained(run, **options)
    network = getattr(loaded, "generator", loaded)
    assert (loaded.device, network.training) == (torch.device("cpu"), False)
    expected = load_file(run / network.subfolder / "model.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dtype": "float16", "torch_dtype": "float32"},
            "dtype is 'float16' and torch_dtype is 'float32'; they are two",
        ),
        ({"dtype": "auto", "torch_dtype": "float32"}, "they are two names of one option, so give only one"),
        ({"torch_dtype": "float31"}, "torch_dtype is 'float31'; it must be a floating-point dtype"),
        ({"dtype": ""}, "dtype is ''; it must be a floating-point dtype"),
        ({"dtype": {"generator": torch.float16}}, "it must be a floating-point dtype"),
        ({"use_safetensors": False}, "use_safetensors is False, but pickles are never loaded"),
        ({"variant": "fp16"}, "variant is 'fp16', .*leave it out, and use dtype='float16'"),
        ({"variant": "ema"}, "variant is 'ema', but there is a single file of weights; leave it out$"),
        ({"device_map": {"": "cpu"}}, "a network is small, and is not split over devices: give one device, such as"),
        ({"device_map": "gpu"}, "device_map: device is 'gpu', which can't be used here"),
        ({"device_map": True}, "device_map is True; it must be a device"),
    ],
)
@pytest.mark.parametrize("door", DOORS)
def test_what_cannot_be_done_is_explained(run, door, options, message):
    with pytest.raises(ValueError, match=message):
        door.from_pretrained(run, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"safety_checker": None}, "from_pretrained takes no argument 'safety_checker': a GAN generates with a single"),
        ({"generator": None}, r"'generator': .* call FAGANPipeline\(generator\)"),
        ({"strict": False}, "'strict': loading is always strict"),
        ({"revison": "v1"}, "'revison'; did you mean 'revision'"),
        ({"cache_folder": "x"}, r"did you mean .*There are: cache_dir, checkpoint, device_map, dtype, "),
    ],
)
@pytest.mark.parametrize("door", DOORS)
def test_unknown_options_are_explained(run, door, options, message):
    with pytest.raises(TypeError, match=message):
        door.from_pretrained(run, **options)


@pytest.mark.parametrize("strategy", ["auto", "balanced", "balanced_low_0", "sequential"])
def test_a_strategy_is_the_fastest_device(monkeypatch, strategy):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("meta"))
    assert parse_device_map(strategy) == torch.device("meta")


def test_a_device_is_moved_to(run):
    network = Generator.from_pretrained(run, device_map="meta")
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
    assert not network.training
    assert FAGANPipeline.from_pretrained(run, device_map="meta").device.type == "meta"


def test_dtype_names():
    assert parse_dtype(None) is parse_dtype("auto") is parse_dtype(None, "auto") is None
    assert parse_dtype("float64", torch.float64) == torch.float64


def test_mistakes_are_found_before_a_download(monkeypatch):
    monkeypatch.setattr("fagan_hf.hub.client.snapshot_download", lambda *_, **__: pytest.fail("downloaded"))
    for options in ({"variant": "fp16"}, {"dtype": "int8"}, {"device_map": "gpu"}, {"revison": "v1"}):
        with pytest.raises((TypeError, ValueError)):
            Generator.from_pretrained("user/name", **options)


def test_a_config_is_never_an_option(run):
    """The mixin would pass it to the class; here the repository's own is used."""
    with pytest.raises(TypeError, match="'config'"):
        Generator.from_pretrained(run, config=json.loads((run / "generator/config.json").read_text()))
