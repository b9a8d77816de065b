import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fagan_hf import FAGANPipeline
from fagan_hf.cli import main
from fagan_hf.hub.repository import save_repository
from fagan_hf.models import Discriminator, Generator
from fagan_hf.sampling.images import generate_images, latents_from_seeds
from tests.fagan_hf.latent_space.test_walks import conditional_generator, lively_generator
from tests.small import DISCRIMINATOR, GENERATOR


@pytest.fixture
def model(tmp_path):
    save_repository(tmp_path / "model", lively_generator(), Discriminator(DISCRIMINATOR).eval())
    return str(tmp_path / "model")


@pytest.fixture
def picture(model, tmp_path):
    [pixels] = generate_images(Generator.from_pretrained(model), latents_from_seeds([99], 8))
    Image.fromarray(pixels).save(tmp_path / "given.png")
    return tmp_path / "given.png"


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_picture_of_its_own_comes_back(model, picture, tmp_path, capsys):
    out = tmp_path / "new" / "found"
    assert main(["project", str(picture), "--model", model, "--steps", "60", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"latent.safetensors", "reconstruction.png", "comparison.png"}
    latents = load_file(out / "latent.safetensors")
    assert {name: list(tensor.shape) for name, tensor in latents.items()} == {"latents": [1, 8]}
    [again] = FAGANPipeline.from_pretrained(model)(**latents).images
    assert np.array_equal(pixels(out / "reconstruction.png"), np.asarray(again))
    assert np.abs(np.asarray(again).astype(int) - pixels(picture)).max() <= 8
    comparison = pixels(out / "comparison.png")
    assert comparison.shape == (256, 512, 3)
    assert np.array_equal(comparison[::32, :256:32], pixels(picture))
    assert np.array_equal(comparison[::32, 256::32], np.asarray(again))
    printed = capsys.readouterr().out
    assert "Mean squared error 0.0" in printed
    assert f'pipe(**load_file("{out / "latent.safetensors"}"))' in printed
    assert "discriminator" not in printed


def test_without_a_discriminator_pixels_are_compared(picture, tmp_path, capsys):
    save_repository(tmp_path / "bare", Generator(GENERATOR).eval())
    arguments = ["--model", str(tmp_path / "bare"), "--steps", "2", "--out", str(tmp_path / "found")]
    assert main(["project", str(picture), *arguments]) == 0
    assert "has no discriminator: only pixels are compared" in capsys.readouterr().out


def test_any_picture_is_cut_and_resized(model, tmp_path):
    wide = np.zeros((30, 60, 3), np.uint8)
    wide[:, 15:45] = (255, 128, 0)
    Image.fromarray(wide).save(tmp_path / "wide.webp", lossless=True)
    arguments = ["--model", model, "--steps", "0", "--out", str(tmp_path / "found")]
    assert main(["project", str(tmp_path / "wide.webp"), *arguments]) == 0
    assert (pixels(tmp_path / "found" / "comparison.png")[:, :256] == (255, 128, 0)).all()
    Image.fromarray(wide[:2, 20:22]).save(tmp_path / "tiny.png")
    assert main(["project", str(tmp_path / "tiny.png"), *arguments]) == 0


def test_labels(picture, tmp_path, capsys):
    save_repository(tmp_path / "labeled", conditional_generator())
    arguments = ["--model", str(tmp_path / "labeled"), "--steps", "2", "--label", "hair=red", "--out"]
    assert main(["project", str(picture), *arguments, str(tmp_path / "found")]) == 0
    found = load_file(tmp_path / "found" / "latent.safetensors")
    assert found["labels"][0, 1:].tolist() == [1, 0]
    assert found["labels"][0, 0] in (0, 1)
    held = "beard, hair=red" if found["labels"][0, 0] else "hair=red"
    assert f"With the labels {held}; choose others with --label" in capsys.readouterr().out
    [again] = FAGANPipeline.from_pretrained(tmp_path / "labeled")(**found).images
    assert np.array_equal(pixels(tmp_path / "found" / "reconstruction.png"), np.asarray(again))


def test_the_seed_reaches_the_search(model, picture, tmp_path):
    found = []
    for seed in ("1", "1", "2"):
        arguments = ["--seed", seed, "--steps", "0", "--out", str(tmp_path / "found")]
        assert main(["project", str(picture), "--model", model, *arguments]) == 0
        found.append(load_file(tmp_path / "found" / "latent.safetensors")["latents"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("nowhere.png", [], "nowhere.png' is not a file; give an image"),
        ("text.png", [], "text.png' is not an image; give an image"),
        ("cut.png", [], "cut.png' can't be decoded"),
        ("given.png", ["--out", "text.png"], "--out is 'text.png', which is a file; it must be a folder"),
        ("given.png", ["--steps", "-1"], "steps is -1"),
        ("given.png", ["--label", "beard=1"], "labels are {'beard': '1'}, but this generator is unconditional"),
        ("given.png", ["--model", "./nowhere"], "'./nowhere' is not a local folder"),
    ],
)
def test_errors_are_words_and_a_status(model, picture, tmp_path, monkeypatch, capsys, name, changes, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:100])
    assert main(["project", str(tmp_path / name), "--model", model, "--out", "found", *changes]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fagan-hf: error: ")
    assert message in error
    assert not (tmp_path / "found").exists()
