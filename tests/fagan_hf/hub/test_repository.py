import json
from pathlib import Path

import pytest

from fagan_hf.hub.repository import complete_repository, is_index, published_files, save_repository
from fagan_hf.models import Discriminator, Generator
from tests.small import DISCRIMINATOR, GENERATOR

ROOT = Path(__file__).resolve().parents[3]
INDEX = {
    "library_name": "fagan_hf",
    "layout": 1,
    "networks": {"generator": "Generator", "discriminator": "Discriminator"},
}


def index_of(folder):
    return json.loads((folder / "config.json").read_text())


def test_the_index_is_written_for_any_network(tmp_path):
    generator, discriminator = Generator(GENERATOR), Discriminator(DISCRIMINATOR)
    save_repository(tmp_path / "both", generator, discriminator)
    save_repository(tmp_path / "generator", generator)
    save_repository(tmp_path / "discriminator", discriminator=discriminator)
    for name in ("both", "generator", "discriminator"):
        assert index_of(tmp_path / name) == INDEX
        assert "config.json" in published_files(tmp_path / name)


def test_an_older_folder_is_completed(tmp_path):
    save_repository(tmp_path, Generator(GENERATOR))
    (tmp_path / "config.json").unlink()
    complete_repository(tmp_path, Generator(GENERATOR))
    assert index_of(tmp_path) == INDEX


@pytest.mark.parametrize("network", [Generator(GENERATOR), Discriminator(DISCRIMINATOR)])
def test_the_config_of_a_single_network_is_kept(tmp_path, network):
    network.save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    save_repository(tmp_path, Generator(GENERATOR), Discriminator(DISCRIMINATOR))
    assert (tmp_path / "config.json").read_bytes() == before
    assert "config.json" not in published_files(tmp_path)
    assert type(network).from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (json.dumps(INDEX), True),
        ('{"library_name": "fagan_hf", "layout": 2, "more": []}', True),
        ('{"library_name": "fagan_hf"}', False),
        ('{"library_name": "timm", "layout": 1}', False),
        (json.dumps(GENERATOR.to_dict()), False),
        (json.dumps(DISCRIMINATOR.to_dict()), False),
        ("[]", False),
        ("{", False),
        (b"\xff", False),
    ],
)
def test_an_index_is_told_from_other_configs(text, expected):
    assert is_index(text) is expected


@pytest.mark.parametrize("name", ["fagan-avatars-64", "fagan-avatars-64-labels"])
def test_the_released_models_have_it(name):
    assert index_of(ROOT / "model_cards" / name) == INDEX
