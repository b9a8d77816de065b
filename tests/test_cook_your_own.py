"""docs/cook-your-own.md is correct: its files and commands train, its snippets run."""

import re
import shlex
from pathlib import Path

import pytest

from fagan_hf import FAGANPipeline, Generator
from fagan_hf.architectures.specs import LAYER_SPECS
from fagan_hf.augmentations import DISTORTIONS
from fagan_hf.layers import LAYERS
from fagan_hf.losses import LOSSES
from fagan_hf.training.flags import parse_recipe
from tests.folder_hub import FolderHub
from tests.sessions import train

TEXT = Path("docs/cook-your-own.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`(\S+)`:\n\n```\w+\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^```bash\n(.*?)\n```", TEXT, flags=re.MULTILINE | re.DOTALL)
SNIPPETS = [
    snippet
    for snippet in re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
    if snippet not in FILES.values()
]


@pytest.fixture
def kitchen(tmp_path, monkeypatch):
    """A folder with the document's files, and a data set of a few images instead of thousands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("fagan_hf.data.avatars.TRAIN_SEEDS", range(32))
    monkeypatch.setattr("fagan_hf.hub.client.push", FolderHub("hub").push)
    registries = LAYER_SPECS, LAYERS, LOSSES, DISTORTIONS
    before = [dict(registry) for registry in registries]
    for name, content in FILES.items():
        Path(name).write_text(content)
    yield
    for registry, content in zip(registries, before, strict=True):
        registry.clear()
        registry.update(content)


def cook(command):
    words = shlex.split(command)
    assert words[:2] == ["python", "training/train.py"]
    return train(parse_recipe([*words[2:], "--cpu_threads", "1"]))


@pytest.mark.usefixtures("kitchen")
def test_everything_in_its_order():
    assert list(FILES) == ["mine.json", "mine.yaml", "mine.py"]
    plain, own = COMMANDS
    session = cook(plain)
    assert session.images_seen == 64
    namespace = {}
    for snippet in SNIPPETS:
        exec(compile(snippet, "cook-your-own.md", "exec"), namespace)
    assert Path("mine.png").exists()
    assert tuple(namespace["features"].shape) == (2, 64, 16, 16)
    assert namespace["inside"].item() == pytest.approx(1)
    assert namespace["captured"][""].weights.count_nonzero() == 16
    assert LOSSES["softer"].discriminator is namespace["judge"]
    assert DISTORTIONS["dim"] is namespace["dim"]
    assert Generator.from_pretrained("hub/you/mine").config == session.generator.config

    cook(own)
    labeled = FAGANPipeline.from_pretrained("runs/mine-too")
    assert len(labeled(seeds=[1], labels={"beard": True}).images) == 1
    del LAYER_SPECS["pixel_norm"]
    with pytest.raises(
        ValueError, match=r"type is 'pixel_norm', which is not a built-in layer.*must be registered first"
    ):
        FAGANPipeline.from_pretrained("runs/mine-too")


def test_every_layer_is_in_the_table():
    table = {}
    for types, classes in re.findall(r"^\| (`.*?) \| (`.*?) \|", TEXT, flags=re.MULTILINE):
        table |= dict(zip(re.findall(r"`(\w+)`", types), re.findall(r"`(\w+)`", classes), strict=True))
    assert table == {name: layer.__name__ for name, layer in LAYERS.items()}
