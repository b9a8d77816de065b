import numpy as np
import pytest
import torch
from PIL import Image

from fagan_hf.architectures.configs import GeneratorConfig
from fagan_hf.architectures.specs import ConvTransposeSpec
from fagan_hf.cli import main
from fagan_hf.hub.repository import DIRECTIONS, published_files, save_repository
from fagan_hf.latent_space.directions import Directions, directions_picture, find_directions
from fagan_hf.models import Generator

NAMES = ("bright", "striped", "chance")


@pytest.fixture
def generator():
    """A generator whose first latent dimension controls brightness, the second stripes."""
    layer = ConvTransposeSpec(in_channels=4, out_channels=3, kernel_size=8, spectral_norm=False)
    generator = Generator(GeneratorConfig(latent_dim=4, image_size=8, layers=(layer,)))
    [weight, bias] = generator.parameters()
    weight.data.zero_()
    bias.data.zero_()
    weight.data[0] = 0.2
    weight.data[1] = 0.2 * torch.tensor([1.0, -1.0]).repeat(4)[:, None]
    return generator.eval()


@pytest.fixture
def real():
    """Images, bright or dark, striped or not, and a label that is independent of both."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (400, 3)).astype(np.float32)
    stripes = np.tile([1.0, -1.0], 4)[:, None]
    numbers = 100 + 60 * labels[:, 0, None, None] + 30 * labels[:, 1, None, None] * stripes
    images = np.broadcast_to(numbers[:, None], (400, 3, 8, 8)) + random.normal(0, 5, (400, 3, 8, 8))
    return images.clip(0, 255).astype(np.uint8), labels


def test_a_direction_is_the_one_along_which_the_label_rises(generator, real):
    found = find_directions(generator, *real, NAMES, num_images=1000, progress=False)
    assert found.names == NAMES
    assert found.vectors.norm(dim=1).tolist() == pytest.approx([1, 1, 1])
    assert found.vectors[0, 0] > 0.99
    assert found.vectors[1, 1] > 0.99
    assert min(found.correlations[:2]) > 0.95


def test_moved_latents_show_more_of_the_label_and_keep_their_length(generator):
    directions = Directions(("bright",), torch.eye(4)[:1], (1.0,))
    latents = torch.randn(5, 4)
    moved = directions.move(latents, {"bright": 2.0})
    assert torch.allclose(moved.norm(dim=1), latents.norm(dim=1))
    assert (generator(moved).mean((1, 2, 3)) > generator(latents).mean((1, 2, 3))).all()
    assert torch.allclose(directions.move(latents, {}), latents)
    with pytest.raises(ValueError, match="unknown direction 'dark'; there are: bright"):
        directions.move(latents, {"dark": 1.0})


def test_they_are_kept(tmp_path):
    directions = Directions(("beard", "hair=red"), torch.randn(2, 4), (0.5, 0.25))
    directions.save(tmp_path / "new" / DIRECTIONS)
    loaded = Directions.load(tmp_path / "new" / DIRECTIONS)
    assert (loaded.names, loaded.correlations) == (directions.names, directions.correlations)
    assert torch.equal(loaded.vectors, directions.vectors)
    (tmp_path / "broken").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"does not contain directions .*create it with `fagan-hf directions`"):
        Directions.load(tmp_path / "broken")
    Directions(("beard",), torch.randn(2, 4), (0.5, 0.25)).save(tmp_path / "short")
    with pytest.raises(ValueError, match=r"1 names for vectors \[2, 4\]"):
        Directions.load(tmp_path / "short")


def test_a_picture_has_a_row_for_each_and_the_latent_itself_in_the_middle(generator):
    directions = Directions(("bright", "striped"), torch.eye(4)[:2], (1.0, 1.0))
    picture = np.asarray(directions_picture(generator, directions, seed=3, strengths=(-2, 0, 2)))
    rows = picture[:, -24:].reshape(2, 8, 3, 8, 3).transpose(0, 2, 1, 3, 4).astype(float)
    assert np.array_equal(rows[0, 1], rows[1, 1])
    means = rows[0].mean((1, 2, 3))
    assert means[0] < means[1] < means[2]


def test_what_does_not_fit_is_refused(generator, real):
    images, labels = real
    with pytest.raises(ValueError, match=r"2 names for labels \[400, 3\]"):
        find_directions(generator, images, labels, NAMES[:2])
    with pytest.raises(ValueError, match=r"this generator's are \[3, 8, 8\]"):
        find_directions(generator, images[:, :, :4, :4], labels, NAMES)


def test_the_command_keeps_them_in_the_run_folder(generator, real, tmp_path, capsys):
    images, labels = real
    for index, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "pictures" / ("bright" if label[0] else "dark")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"{index}.png")
    model = tmp_path / "model"
    save_repository(model, generator)
    flags = ["directions", str(model), "--dataset", str(tmp_path / "pictures"), "--label-columns", "class"]
    picture = tmp_path / "picture.png"
    assert main([*flags, "--num-images", "500", "--picture", str(picture)]) == 0
    found = Directions.load(model / DIRECTIONS)
    assert found.names == ("class=bright", "class=dark")
    assert found.vectors[0, 0] > 0.99
    assert DIRECTIONS in published_files(model)
    assert "2 directions" in capsys.readouterr().out
    assert picture.is_file()
    # Other weights have other directions.
    save_repository(model, Generator(generator.config))
    assert not (model / DIRECTIONS).exists()


def test_the_command_says_what_is_missing(generator, tmp_path, capsys):
    save_repository(tmp_path / "model", generator)
    model = str(tmp_path / "model")
    (tmp_path / "bare").mkdir()
    generator.save_pretrained(tmp_path / "bare")
    for flags, words in (
        ([model, "--dataset", "avatars"], "--label-columns"),
        ([model, "--dataset", "avatars", "--out", "x.npy"], "must end in .safetensors"),
        ([model, "--dataset", "avatars", "--picture", "x.txt"], "must end in .png"),
        ([str(tmp_path / "bare"), "--dataset", "avatars"], "is not a run folder to save the directions in"),
    ):
        assert main(["directions", *flags]) == 2
        assert words in capsys.readouterr().err


def test_what_a_direction_drags_along():
    vectors = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [-0.8, 0.6, 0.0], [0.1, 0.0, 0.99], [0.9, 0.1, 0.4]])
    names = ("beard", "hair=bald", "clothes=dress", "mouth=sad", "beard=full")
    directions = Directions(names, vectors / vectors.norm(dim=1, keepdim=True), (1.0,) * 5)
    dragged = directions.dragged("beard")
    assert list(dragged) == ["clothes=dress", "hair=bald"]  # the strongest first; not its own label, nothing faint
    assert dragged == pytest.approx({"clothes=dress": -0.8, "hair=bald": 0.6})
    with pytest.raises(ValueError, match="unknown direction 'teeth'"):
        directions.dragged("teeth")
