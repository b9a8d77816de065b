"""The documents are correct: their Python code runs, and their commands parse."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.gpu.__main__ import build_parser as gpu_parser
from benchmarks.gpu.prepare import build_parser as gpu_prepare_parser
from fagan_hf import cli
from fagan_hf.architectures.presets import PRESETS
from fagan_hf.data.image_source import ImageSource
from fagan_hf.data.prepare import prepare_images
from fagan_hf.hub.repository import DIRECTIONS, save_repository
from fagan_hf.latent_space.directions import Directions
from fagan_hf.metrics import features
from fagan_hf.models import Discriminator, Generator
from fagan_hf.training.flags import parse_recipe
from fagan_hf.training.recipe import FIELDS
from fagan_hf.training.run.transfer import fits
from tests.documents import blocks, commands
from tests.small import EXTRACTOR

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(Path("docs").glob("*.md"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_commands_parse(document, monkeypatch, tmp_path):
    monkeypatch.setattr("fagan_hf.training.flags.choose_recipe", lambda *_: None)  # would look at ~/pictures
    for snippet in blocks(document, "python"):
        if "GENERATOR, DISCRIMINATOR =" in snippet:
            (tmp_path / "mine-32.py").write_text(snippet)
    for line in commands(document):
        words = [str(tmp_path / word) if word == "mine-32.py" else word for word in line]
        if words[:2] == ["fagan-hf", "train"]:
            parse_recipe(words[2:])
        elif "fagan_hf.training" in words:
            parse_recipe(words[words.index("fagan_hf.training") + 1 :])
        elif words[0] == "fagan-hf":
            cli._parse([cli._with_dashes(word) for word in words[1:]])
        elif "training/train.py" in words:
            flags = words[words.index("training/train.py") + 1 :]
            if "--config" not in flags:  # its recipe is a model's; tests/hub has one
                assert {flag.removeprefix("--") for flag in flags[::2]} <= FIELDS
            elif Path(flags[flags.index("--config") + 1]).exists():  # mine.yaml is tried in test_cook_your_own.py
                parse_recipe(flags)
        elif words[0] in ("hf", "curl", "pip"):
            continue
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
        else:
            assert words[0] == "python", words
            if words[1] == "-m":
                assert find_spec(words[2]), words
                if words[2:4] == ["benchmarks.gpu", "prepare"]:
                    gpu_prepare_parser().parse_args(words[4:])
                elif words[2] == "benchmarks.gpu":
                    gpu_parser().parse_args(words[3:])
            else:
                assert Path(words[1]).exists(), words


@pytest.fixture
def trained(tmp_path, monkeypatch):
    networks = Generator(PRESETS["fagan-32"][0]).eval(), Discriminator(PRESETS["fagan-32"][1]).eval()
    save_repository(tmp_path / "runs/avatars-32", *networks)
    directions = Directions(("beard",), torch.eye(networks[0].config.latent_dim)[:1], (0.5,))
    directions.save(tmp_path / "runs/avatars-32" / DIRECTIONS)
    monkeypatch.chdir(tmp_path)


def run(document, **arguments):
    """Run a document's Python, with other values for arguments of these names."""
    namespace = {}
    for snippet in blocks(document, "python"):
        for name, value in arguments.items():
            snippet = re.sub(rf"\b{name}=\w+", f"{name}={value}", snippet)
        exec(compile(snippet, document.name, "exec"), namespace)
    return namespace


def test_the_python_of_the_page_about_attention():
    namespace = run(ROOT / "docs/attention.md")
    assert namespace["layer"].weights.shape == (2, 1, 2, 8, 8)
    assert namespace["images"].shape == namespace["without"].shape == (2, 3, 64, 64)
    attentive = [report.name for report in namespace["reports"] if report.gate is not None]
    assert attentive == ["layers.0", "layers.3", "layers.6", "layers.9", "layers.12", "layers.15"]


def test_the_tables_of_the_page_about_attention_are_printed(capsys):
    """Its lines about layers are those of the model; of the text for a terminal, the page leaves out some lines."""
    fenced = (ROOT / "docs/attention.md").read_text().split("```")[1::2]
    quoted = [text.strip() for text in fenced if text.startswith("\n")]  # in no language
    cli.main(["inspect", "model_cards/fagan-avatars-64", "--kernels"])
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    shown = [line.split() for text in quoted for line in text.splitlines()]
    assert len(shown) == 26
    assert [line for line in shown if not _is_close(line, printed)] == []


def _is_close(line, others):
    """Return whether a line is among the others, with numbers that differ by no more than the last digit."""
    return any(len(line) == len(other) and all(map(_is_alike, line, other)) for other in others)


def _is_alike(text, other):
    if text == other or not re.fullmatch(r"[+-]?[\d.]+", text) or not re.fullmatch(r"[+-]?[\d.]+", other):
        return text == other
    return abs(float(text) - float(other)) <= 1.01 * 10.0 ** -len(text.partition(".")[2])


def test_the_numbers_of_the_page_about_alphas_are_the_results():
    document = (ROOT / "docs/what-alphas-reveal.md").read_text()
    model = json.loads((ROOT / "benchmarks/results/alphas.json").read_text())["models/fagan-avatars-64"]
    worth = model["worth"]
    for name, gate in worth["gates"].items():
        differences = gate["without"] - worth["trained"], worth["closed"] - gate["alone"]
        numbers = f"{gate['alpha']:+.3f} | {differences[0]:.3f} | {differences[1]:.3f} |"
        assert f"| `{name.removesuffix('.alpha')}` | {numbers}" in document
    rows = dict.fromkeys(re.findall(r"\| (\d\.\d{3}) \|$", document, re.MULTILINE))
    found = [worth["trained"], worth["closed"], *model["controls"].values()]
    assert {f"{value:.3f}" for value in found} <= rows.keys()


def test_the_smaller_network_of_the_page_about_training_grows():
    [snippet] = [each for each in blocks(ROOT / "docs/training.md", "python") if "FLAGSHIP_64_SMALL" in each]
    namespace = {}
    exec(snippet, namespace)
    small = namespace["GENERATOR"], namespace["DISCRIMINATOR"]
    assert [config.image_size for config in small] == [32, 32]
    assert all(fits(one, other) for one, other in zip(small, PRESETS["fagan-64-small"], strict=True))


@pytest.mark.usefixtures("trained")
def test_the_python_of_the_page_about_research(tmp_path, monkeypatch):
    """With a few small images of one color, and three features, in place of the avatars."""
    line = {"images": 32, "generator.layers.3.alpha": 0.1}
    Path("runs/avatars-32/metrics.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "colors").mkdir()
    for index in range(20):
        Image.new("RGB", (32, 32), (index, 255 - index, 99)).save(tmp_path / f"colors/{index}.png")
    images = prepare_images(ImageSource(str(tmp_path / "colors"), resolution=32), progress=False)
    monkeypatch.setattr("fagan_hf.data.prepare.prepare_images", lambda source: {"avatars": images}[source.dataset])
    monkeypatch.setitem(features.FEATURES, "effnetlite0", lambda: EXTRACTOR)
    namespace = run(ROOT / "docs/research.md", num_images=8)
    assert namespace["history"].gates["generator.layers.3.alpha"].tolist() == [0.1]
    assert len(namespace["found"].without) == len(namespace["found"].alone) == 5
    assert namespace["masks"].keys() == {*namespace["PARTS"]}
    assert namespace["parts"].shape == (16, 32, 32)


@pytest.mark.usefixtures("trained")
def test_the_python_of_the_page_about_the_latent_space():
    namespace = run(ROOT / "docs/latent-space.md")
    assert len(namespace["frames"]) == 16
    assert torch.allclose(namespace["moved"].norm(dim=1), namespace["latents"].norm(dim=1))
