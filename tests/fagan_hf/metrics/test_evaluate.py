import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fagan_hf import cli
from fagan_hf.architectures.conditioning import with_labels
from fagan_hf.data.image_source import ImageSource
from fagan_hf.data.prepare import prepare_images
from fagan_hf.hub.measurements import read_measurements
from fagan_hf.hub.repository import save_repository, weights_hash
from fagan_hf.metrics import features as features_module
from fagan_hf.metrics import references
from fagan_hf.metrics.evaluate import FIRST_SEED, compare_images, default_count, evaluate, generated_features
from fagan_hf.metrics.features import FeatureExtractor
from fagan_hf.metrics.references import real_features
from fagan_hf.models import Discriminator, Generator
from fagan_hf.sampling.images import generate_images, latents_from_seeds
from tests.small import DISCRIMINATOR, GENERATOR, with_gates

COUNT = 60


class Corners(nn.Module):
    """Twelve features: the colors at four positions."""

    calls = 0

    def forward(self, images):
        type(self).calls += len(images)
        return images[:, :, ::4, ::4].float().flatten(1) / 255


EXTRACTOR = FeatureExtractor("corners", Corners(), "the colors of four places")


@pytest.fixture
def generator():
    return with_gates(Generator(GENERATOR))


def write_pictures(folder, images, classes=("",)):
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / classes[index % len(classes)] / f"{index:03d}.png")
    return folder


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    return write_pictures(tmp_path / "pictures", random.integers(0, 256, (150, 8, 8, 3), dtype=np.uint8))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FAGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def images(folder, cache):
    return prepare_images(ImageSource(str(folder), resolution=8), progress=False)


def measure(generator, images, **options):
    return evaluate(generator, images, **{"features": EXTRACTOR, "num_images": COUNT, "progress": False} | options)


def test_each_metric_has_features_and_number_in_its_name(generator, images):
    found = measure(generator, images)
    names = ["fd", "kid", "precision", "recall", "density", "coverage", "nearest", "copied"]
    assert [each.type for each in found.metrics()] == [f"{name}_corners_{COUNT}" for name in names]
    measurements = found.measurements("abc")
    assert [each.type for each in measurements] == [f"{name}_corners_{COUNT}" for name in names]
    assert [each.lower_is_better for each in measurements] == [True, True, *[False] * 4, None, True]
    assert measurements[1].error > 0
    assert all(each.floor is not None for each in measurements)
    assert "60 of 150 real images" in measurements[0].reference
    assert "all 150 real images" in measurements[-1].reference
    assert found.images_per_second > 0
    for each in (
        *names,
        "60 generated images against as many of 150 real ones",
        "colors of four places",
        "biased upward",
    ):
        assert each in found.table()


def test_a_generator_that_draws_the_data_is_at_the_floor(generator, folder, cache):
    """The real images are twice as many images of the generator itself, from other seeds."""
    seeds = range(1000, 1000 + 2 * COUNT)
    own = generate_images(generator, latents_from_seeds(seeds, 8), progress=False)
    same = prepare_images(ImageSource(str(write_pictures(folder.parent / "own", own)), resolution=8), progress=False)
    found = measure(generator, same)
    assert found.found.frechet < 2 * found.floor.frechet
    assert abs(found.found.kernel.value) < 4 * found.found.kernel.error
    assert found.found.neighborhoods.precision > 0.6
    assert found.found.neighborhoods.recall > 0.6
    other = measure(generator, prepare_images(ImageSource(str(folder), resolution=8), progress=False))
    assert other.found.frechet > 10 * found.found.frechet


def test_a_memory_is_found(generator, images, folder):
    """A data set that contains images of the generator: those seeds are the nearest, and their images are shown."""
    latents = latents_from_seeds([FIRST_SEED + 7, FIRST_SEED + 33], 8)
    learned = generate_images(generator, latents, progress=False)
    for index, pixels in enumerate(learned):
        Image.fromarray(pixels).save(folder / f"learned-{index}.png")
    found = measure(generator, prepare_images(ImageSource(str(folder), resolution=8), progress=False))
    assert sorted(found.closest[:2]) == [FIRST_SEED + 7, FIRST_SEED + 33]
    picture = np.asarray(found.nearest_picture())
    assert picture.shape == (8 * 16, 8 * 16, 3), "eight rows of twice one generated and three real ones, enlarged"
    generated, real, other = (picture[:16:2, column : column + 16 : 2] for column in (0, 16, 32))
    assert np.array_equal(generated, real), "the generated one beside the real one that it is"
    assert any(np.array_equal(generated, each) for each in learned)
    assert not np.array_equal(real, other)


def test_one_who_has_learned_by_heart_is_told_from_one_who_draws_alike(generator, tmp_path, cache):
    """The data are the generator's own images, four times as many as evaluated; then with a third of those included."""
    own = generate_images(generator, latents_from_seeds(range(1000, 1000 + 4 * COUNT), 8), progress=False)
    learned = generate_images(generator, latents_from_seeds(range(FIRST_SEED, FIRST_SEED + 20), 8), progress=False)
    found = [
        measure(generator, prepare_images(ImageSource(str(write_pictures(folder, data)), resolution=8), progress=False))
        for folder, data in ((tmp_path / "alike", own), (tmp_path / "learned", np.concatenate([own, learned])))
    ]
    assert found[0].nearness.copied < 0.15
    assert 20 / COUNT <= found[1].nearness.copied < 0.15 + 20 / COUNT
    for each in found:
        assert 0.4 < each.nearness.median / each.real_nearness.median < 1.5, "which the median does not show"
        assert 1 / COUNT <= each.real_nearness.copied < 0.05


def test_real_features_are_computed_once(images, cache, generator):
    Corners.calls = 0
    first = real_features(images, EXTRACTOR, progress=False)
    assert Corners.calls == 150
    again = real_features(images, EXTRACTOR, progress=False)
    assert Corners.calls == 154, "and tried with four images"
    assert torch.equal(first.features, again.features)
    for index in (0, 77, 149):
        expected = images.array[first.rows[index]][:, ::4, ::4].reshape(-1) / np.float32(255)
        assert first.features[index].tolist() == expected.tolist()
    assert sorted(first.rows) == list(range(150))
    assert list(first.rows) != list(range(150))


def test_other_features_and_other_images_are_not_taken_for_these(images, folder, cache):
    before = real_features(images, EXTRACTOR, progress=False)
    renamed = dataclasses.replace(EXTRACTOR, name="places")
    real_features(images, renamed, progress=False)
    (folder / "000.png").unlink()
    fewer = prepare_images(ImageSource(str(folder), resolution=8), progress=False)
    assert len(real_features(fewer, EXTRACTOR, progress=False).features) == 149 < len(before.features)
    assert len(list(cache.glob("features-*.safetensors"))) == 3


def test_code_that_has_changed_is_noticed(images, cache):
    """Neither weights nor layer names show that it computes something else."""

    class Other(nn.Module):
        def forward(self, images):
            return 1 - images[:, :, ::4, ::4].float().flatten(1) / 255

    Other.__name__ = "Corners"
    changed = FeatureExtractor("corners", Other(), "")
    assert changed.identity == EXTRACTOR.identity
    before = real_features(images, EXTRACTOR, progress=False).features
    torch.testing.assert_close(real_features(images, changed, progress=False).features, 1 - before)
    assert len(list(cache.glob("features-*.safetensors"))) == 1


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "other", "nan"])
def test_a_damaged_cache_is_made_anew(images, cache, damage, capsys):
    expected = real_features(images, EXTRACTOR, progress=False).features
    [path] = cache.glob("features-*.safetensors")
    data = path.read_bytes()
    if damage in ("other", "nan"):
        from safetensors import safe_open
        from safetensors.torch import save_file

        with safe_open(path, "pt") as file:
            about = file.metadata()
        wrong = expected[:10] if damage == "other" else expected.clone().fill_(torch.nan)
        save_file({"features": wrong.contiguous()}, path, about)
    else:
        path.write_bytes({"cut": data[:-100], "text": b"no tensors at all", "empty": b""}[damage])
    found = real_features(images, EXTRACTOR)
    assert torch.equal(found.features, expected)
    if damage in ("cut", "text", "empty"):
        assert "is damaged" in capsys.readouterr().err
    Corners.calls = 0
    real_features(images, EXTRACTOR, progress=False)
    assert Corners.calls == 4


def test_large_data_is_looked_at_in_part(images, cache, monkeypatch):
    monkeypatch.setattr(references, "MAX_IMAGES", 80)
    found = real_features(images, EXTRACTOR, progress=False)
    assert len(found.features) == 80
    assert found.total == 150
    assert len(set(found.rows)) == 80


def test_generated_pictures_are_what_a_png_holds(generator, images):
    """They are rounded to 8 bits, as in files, before features are extracted."""
    found, _ = generated_features(generator, EXTRACTOR, range(5), progress=False)
    pixels = generate_images(generator, latents_from_seeds(range(5), 8), progress=False).transpose(0, 3, 1, 2)
    assert found.tolist() == (pixels[:, :, ::4, ::4].reshape(5, -1) / np.float32(255)).tolist()


def test_no_floor_where_there_are_too_few(generator, images):
    found = measure(generator, images, num_images=100)
    assert found.floor is None
    assert [each.floor is None for each in found.measurements("a")] == [True] * 6 + [False] * 2
    assert "-" in found.table()


def test_conditional_generators_get_the_labels_of_the_data(tmp_path, cache):
    random = np.random.default_rng(0)
    folder = write_pictures(
        tmp_path / "two", random.integers(0, 256, (150, 8, 8, 3), dtype=np.uint8), classes=("cat", "dog")
    )
    source = ImageSource(str(folder), resolution=8, label_columns=("class",))
    images = prepare_images(source, progress=False)
    configs = with_labels((GENERATOR, DISCRIMINATOR), images.label_names, "projection")
    generator = Generator(configs[0]).eval()
    seen = []
    generator.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    measure(generator, images)
    rows = real_features(images, EXTRACTOR, progress=False).rows[:COUNT]
    assert torch.equal(torch.cat(seen)[:COUNT], torch.from_numpy(images.labels[rows]))
    unlabeled = prepare_images(ImageSource(str(folder), resolution=8), progress=False)
    with pytest.raises(ValueError, match=r"the real images none; use the label columns .*--label_columns"):
        measure(generator, unlabeled)


def test_more_images_than_there_are(generator, images):
    with pytest.raises(ValueError, match=r"num_images is 151, but there are 150 real images .*use 150 at most"):
        measure(generator, images, num_images=151)
    with pytest.raises(ValueError, match="num_images is 0"):
        measure(generator, images, num_images=0)


def test_no_more_than_are_looked_at(generator, images, monkeypatch):
    monkeypatch.setattr(sys.modules[evaluate.__module__], "MAX_IMAGES", 80)
    with pytest.raises(ValueError, match=r"of 150 at most 80 are used as real images .*use 80 at most"):
        measure(generator, images, num_images=81)


def test_half_of_few_images_so_that_the_others_are_a_floor(generator, images):
    evaluation = measure(generator, images, num_images=None)
    assert evaluation.num_images == 75
    assert evaluation.floor is not None
    assert [default_count(total, 100) for total in (1, 10, 40, 99, 100, 200)] == [1, 8, 20, 49, 100, 100]


def test_no_more_images_than_features(generator, images):
    """All metrics but the Fréchet distance, whose covariance would be singular."""
    evaluation = measure(generator, images, num_images=12)
    types = [each.type for each in evaluation.metrics()]
    assert types[0] == "kid_corners_12"
    assert len(types) == 7
    assert "No Fréchet distance: 12 images are not more than the features" in evaluation.table()
    enough = measure(generator, images, num_images=13)
    assert enough.metrics()[0].type == "fd_corners_13"
    assert "biased upward" in enough.table()


def test_too_few_images_to_compare(generator, images):
    """The error comes before any image is generated or all real images are processed."""
    Corners.calls = 0
    generator.register_forward_pre_hook(lambda *_: pytest.fail("it draws"))
    with pytest.raises(ValueError, match="num_images is 7; at least 8 are needed"):
        measure(generator, images, num_images=7)
    assert Corners.calls == 0


def test_images_of_another_size(generator, folder, cache):
    small = prepare_images(ImageSource(str(folder), resolution=4), progress=False)
    with pytest.raises(ValueError, match="4 pixels wide, the generator's 8"):
        measure(generator, small)


def test_a_diverged_generator(generator, images):
    generator.layers[0].alpha.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite: it has diverged"):
        measure(generator, images)


@pytest.fixture
def run_folder(tmp_path, generator, images, folder):
    path = tmp_path / "runs/try"
    facts = {"data": images.description, "training": {"images_seen": 5}}
    save_repository(path, generator, Discriminator(DISCRIMINATOR), facts)
    (path / "recipe.yaml").write_text(json.dumps({"name": "try", "model": "x", "dataset": str(folder), "crop": None}))
    return path


@pytest.fixture
def corners(monkeypatch):
    monkeypatch.setitem(features_module.FEATURES, "corners", lambda: EXTRACTOR)


def evaluate_command(*arguments):
    return cli.main(["evaluate", *map(str, arguments), "--features", "corners", "--device", "cpu"])


def test_a_run_folder_keeps_its_numbers(run_folder, corners, capsys):
    """The data set is the recipe's; metrics, image and card agree with the table."""
    assert evaluate_command(run_folder, "--num_images", COUNT) == 0
    said = capsys.readouterr().out
    measured = read_measurements(run_folder)
    assert [each.type for each in measured][:2] == [f"fd_corners_{COUNT}", f"kid_corners_{COUNT}"]
    assert len(measured) == 8
    card = (run_folder / "README.md").read_text()
    for each in measured:
        assert f"{each.value:.4g}" in said
        assert each.type in card
        assert f"{each.value:g}" in card
        assert each.generator == weights_hash(run_folder)
        assert str(run_folder.parent) not in each.command
    assert "nearest.png" in card
    with Image.open(run_folder / "nearest.png") as picture:
        assert picture.size == (128, 128)
    assert evaluate_command(run_folder, "--num_images", COUNT) == 0
    assert read_measurements(run_folder) == measured, "the same again, and not twice"


def test_other_data_takes_nobodys_place(run_folder, corners, tmp_path):
    """Metrics of several data sets are kept; the image of nearest neighbors is for the run's own data set."""
    evaluate_command(run_folder, "--num_images", COUNT)
    picture = (run_folder / "nearest.png").read_bytes()
    random = np.random.default_rng(1)
    other = write_pictures(tmp_path / "others", random.integers(0, 256, (150, 8, 8, 3), dtype=np.uint8))
    assert evaluate_command(run_folder, "--num_images", COUNT, "--dataset", other, "--crop", 8) == 0
    measured = read_measurements(run_folder)
    assert [each.dataset for each in measured] == ["pictures"] * 8 + ["others"] * 8
    assert "--crop" not in measured[0].command
    assert "--dataset others --crop 8 --num_images 60" in measured[-1].command
    assert (run_folder / "nearest.png").read_bytes() == picture
    card = (run_folder / "README.md").read_text()
    assert f"`fd_corners_{COUNT}` on `pictures`)" in card
    assert f"`fd_corners_{COUNT}` on `others`)" in card


def test_what_people_wrote_on_the_card_stays(run_folder, corners):
    evaluate_command(run_folder, "--num_images", COUNT)
    card = run_folder / "README.md"
    card.write_text(card.read_text() + "\nMy own words.\n")
    evaluate_command(run_folder, "--num_images", COUNT)
    assert "My own words." in card.read_text()


def test_a_bare_generator_is_measured_but_nothing_is_written(tmp_path, generator, folder, cache, corners, capsys):
    bare = tmp_path / "bare"
    generator.save_pretrained(bare)
    files = sorted(bare.iterdir())
    picture = tmp_path / "near.png"
    assert evaluate_command(bare, "--dataset", folder, "--num-images", COUNT, "--picture", picture) == 0
    assert f"fd_corners_{COUNT}" in capsys.readouterr().out
    assert sorted(bare.iterdir()) == files
    assert picture.is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--num_images", "500"), "use 150 at most"),
        (("--picture", "x.txt"), "must end in .png"),
        (("--dataset", "/nowhere/at/all"), "/nowhere/at/all"),
    ],
)
def test_bad_input_is_told_in_words(run_folder, corners, capsys, arguments, told):
    assert evaluate_command(run_folder, *arguments) == 2
    assert told in capsys.readouterr().err
    assert not (run_folder / "metrics.json").exists()


def test_without_a_recipe_the_data_must_be_named(tmp_path, generator, corners, capsys):
    generator.save_pretrained(tmp_path / "bare")
    assert evaluate_command(tmp_path / "bare") == 2
    assert "choose the images to compare with: --dataset" in capsys.readouterr().err


def test_two_folders_are_compared(folder, images, corners, capsys, tmp_path):
    same = compare_images(images, images, features=EXTRACTOR, num_images=70, progress=False)
    assert same.found.frechet == pytest.approx(0, abs=1e-6)
    assert same.nearness.copied == 1
    assert same.real_nearness.copied < 0.2
    noise = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    (tmp_path / "noise").mkdir()
    for index, pixels in enumerate(noise):
        Image.fromarray(pixels).save(tmp_path / "noise" / f"{index}.png")
    assert evaluate_command(tmp_path / "noise", "--dataset", folder, "--size", 8) == 0
    out = capsys.readouterr().out
    assert "20 given images against as many of 150 real ones." in out
    assert "fd_corners_20" in out
    assert "images a second" not in out
    assert evaluate_command(tmp_path / "noise", "--size", 8) == 2
    assert "contains images and no model; choose the real images: --dataset" in capsys.readouterr().err


def test_sets_of_other_sizes_are_not_compared(folder, images):
    small = prepare_images(ImageSource(str(folder), resolution=4), progress=False)
    with pytest.raises(ValueError, match="the images are 4 pixels wide, the real ones 8"):
        compare_images(small, images, features=EXTRACTOR, progress=False)
