"""The README is correct: its snippets run, its commands parse, its table and images exist."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from fagan_hf.architectures.conditioning import with_labels
from fagan_hf.architectures.presets import PRESETS
from fagan_hf.cli import main
from fagan_hf.hub.repository import save_repository
from fagan_hf.models import Discriminator, Generator
from fagan_hf.training.flags import parse_recipe
from fagan_hf.training.recipe import FIELDS
from tests.documents import blocks, commands
from tests.folder_hub import FolderHub
from tests.small import DISCRIMINATOR, GENERATOR, with_gates
from tests.traces import keep_registry, keep_traces

README = Path("README.md").resolve()
TEXT = README.read_text(encoding="utf-8")
# Commands that set up a machine; the others are run or parsed.
SETTING_UP = (["git", "clone"], ["pip", "install"], ["hf", "auth"])


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A folder in which `make train` could have been run."""
    networks = with_gates(Generator(GENERATOR)).eval(), Discriminator(DISCRIMINATOR).eval()
    for folder in ("runs/avatars-32", "model_cards/fagan-avatars-64"):
        save_repository(tmp_path / folder, *networks)
    labels = (GENERATOR, DISCRIMINATOR), ("beard", "hair_color=black", "hair_color=red"), "projection"
    save_repository(tmp_path / "model_cards/fagan-avatars-64-labels", Generator(with_labels(*labels)[0]).eval())
    Image.new("RGB", (40, 40), "teal").save(tmp_path / "portrait.png")
    save_legacy_files(tmp_path)
    monkeypatch.chdir(tmp_path)


def save_legacy_files(folder):
    """Write the files that the original saves for a small network."""
    layer = {"name": "conv_transpose", "channels": "(8, 3)", "kernel_dims": "(4, 4)", "stride": "(1, 1)"}
    layer |= {"padding": "(0, 0)", "bias": True, "batch_norm": False, "activation": "tanh"}
    (folder / "gen.conf").write_text(yaml.safe_dump({"architecture": [layer]}))
    weights = {"model.0.0.weight": torch.randn(8, 3, 4, 4), "model.0.0.bias": torch.zeros(3)}
    torch.save(weights, folder / "GAN_GEN_10.pth")


@pytest.mark.usefixtures("trained")
def test_python_snippets_run_one_after_the_other():
    namespace = {}
    assert len(blocks(README, "python")) >= 6
    for snippet in blocks(README, "python"):
        exec(compile(snippet, "README.md", "exec"), namespace)
    assert Path("portrait.png").exists()
    assert namespace["logits"].shape == (4,)
    assert len(namespace["pipe"](num_images=2).images) == 2


@pytest.mark.usefixtures("trained")
def test_commands_of_the_shell(monkeypatch):
    keep_registry(monkeypatch)
    keep_traces(monkeypatch)
    monkeypatch.setattr("fagan_hf.hub.client.push", FolderHub("hub").push)
    monkeypatch.setattr("fagan_hf.training.choices.measure", lambda recipe: 50.0)
    monkeypatch.setenv("HOME", str(Path.cwd()))
    monkeypatch.setattr("fagan_hf.hub.live_page._PAGES", (Path("page"),))  # as `make live` builds it
    Path("page").mkdir()
    Path("page/index.html").write_text("<!doctype html>")
    Path("pictures").mkdir()
    Image.new("RGB", (80, 80)).save("pictures/a.png")
    root = Path(__file__).parents[1]
    targets = re.findall(r"^(\w+):", (root / "Makefile").read_text(), flags=re.MULTILINE)
    kinds = set()
    for words in commands(README):
        kinds.add(words[0])
        if words[0] == "make":
            assert words[1] in targets
        elif words[:2] == ["fagan-hf", "train"]:
            parse_recipe(words[2:])
        elif words[0] == "fagan-hf":
            assert main(words[1:]) == 0
        elif "training/train.py" in words:
            flags = words[words.index("training/train.py") + 1 :]
            if flags[0] == "--config":
                parse_recipe(["--config", str(root / flags[1]), *flags[2:]])
            else:  # its recipe is a model's; tests/hub has one
                assert {flag.removeprefix("--") for flag in flags[::2]} <= FIELDS
        else:
            assert words[:2] in SETTING_UP, words
    assert kinds >= {"make", "fagan-hf", "accelerate"}
    assert Path("hub/you/avatars-32/README.md").exists()
    assert Path("hub/spaces/you/page/model/web.json").exists()


def test_the_table_of_presets():
    rows = re.findall(r"^\| `([\w-]+)` \| ([\d.]+) M \| ([\d.]+) M \|", TEXT, flags=re.MULTILINE)
    assert {row[0] for row in rows} == set(PRESETS)
    for name, *millions in rows:
        for network, stated in zip((Generator, Discriminator), millions, strict=True):
            counted = sum(each.numel() for each in network.from_preset(name).parameters())
            assert f"{counted / 1e6:.2f}" == stated, (name, network)


@pytest.mark.parametrize("document", [README, *sorted(Path("docs").resolve().glob("*.md"))], ids=lambda path: path.stem)
def test_links_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL))
    for link in links:
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document.resolve()
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], link
