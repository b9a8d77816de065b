"""What `fagan-hf train PLACE` chooses."""

import numpy as np
import pytest
from PIL import Image

import fagan_hf
from fagan_hf.data.inspection import Inspection, Seen
from fagan_hf.data.listing import Listing
from fagan_hf.hub.repository import save_repository
from fagan_hf.models import Discriminator, Generator
from fagan_hf.training import choices
from fagan_hf.training.choices import Machine, budget, choose, choose_penalties, contrast, run_name
from fagan_hf.training.flags import build_recipe, parse_recipe

CPU = Machine("cpu", "2 CPU cores", precision="no")
GPU = Machine("cuda", "NVIDIA Example", precision="bf16")


def listing(count, name="My Photos.v2"):
    return Listing(count, str, lambda a, b: [], {}, "", lambda tell: np.zeros((count, 16), np.uint8), {"dataset": name})


def images(count, *, broken=0, **of_all):
    seen = [Seen(**{"width": 300, "height": 300, "format": "PNG", **of_all})] * count
    return Inspection([*seen, *[Seen(problem="is not an image")] * broken], np.zeros((count + broken, 16), np.uint8))


def chosen(count=1000, machine=CPU, model=None, broken=0, **of_all):
    return choose(listing(count + broken), images(count, broken=broken, **of_all), machine, model)


@pytest.mark.parametrize(
    ("machine", "count", "side", "model", "resolution"),
    [
        (CPU, 1000, 300, "fagan-64-small", 64),
        (CPU, 50_000, 300, "fagan-64-small", 64),
        (CPU, 1000, 63, "fagan-32", 32),
        (CPU, 1000, 20, "fagan-32", 32),
        (GPU, 1000, 300, "fagan-64", 64),
        (GPU, 50_000, 300, "fagan-128", 128),
        (GPU, 50_000, 100, "fagan-64", 64),
    ],
)
def test_size_and_network(machine, count, side, model, resolution):
    choice = chosen(count, machine, width=side, height=side)
    assert choice.fields["model"] == model
    assert choice.resolution == resolution
    assert choice.fields["name"] == f"my-photos-{resolution}"
    assert choice.fields["upscale"] == (side < resolution)
    assert choice.reasons[0].startswith(f"{resolution}x{resolution}: ")


def test_a_given_network_decides_the_size():
    choice = chosen(model="fagan-32")
    assert (choice.resolution, choice.fields["model"]) == (32, "fagan-32")


def test_channels():
    assert chosen().fields["channels"] == 3
    assert chosen(is_gray=True).fields["channels"] == 1
    assert chosen(is_transparent=True).fields["channels"] == 4
    mixed = Inspection([*images(60, is_transparent=True).seen, *images(40).seen], np.zeros((100, 16), np.uint8))
    assert choose(listing(100), mixed, CPU).fields["channels"] == 4
    mixed = Inspection([*images(40, is_transparent=True).seen, *images(60).seen], np.zeros((100, 16), np.uint8))
    choice = choose(listing(100), mixed, CPU)
    assert choice.fields["channels"] == 3
    assert "40% have transparency, shown on white" in choice.reasons[1]


def test_fit():
    assert chosen(width=400).fields["fit"] == "crop"
    assert "cuts off 25% of the area" in chosen(width=400).reasons[1]
    assert chosen(width=400, is_transparent=True).fields["fit"] == "pad"


def test_broken_images_are_left_out_and_counted():
    assert not chosen().fields["skip_broken"]
    choice = chosen(97, broken=3)
    assert choice.fields["skip_broken"]
    assert "3 that can't be read are left out" in choice.reasons[1]


def test_augmentation_follows_the_number_of_images():
    few, some, many = (chosen(count).fields for count in (100, 3000, 50_000))
    assert few["augment"] == some["augment"] == ["color", "translation", "cutout"]
    assert few["augment_target"] == some["augment_target"] == 0.6
    assert (many["augment"], many["augment_target"]) == ([], None)


def test_precision_and_machine():
    assert chosen(machine=GPU).fields["mixed_precision"] == "bf16"
    assert chosen().fields["mixed_precision"] == "no"
    assert "on 2 CPU cores" in chosen().reasons[-1]
    assert Machine.here().name


def recipe():
    return build_recipe("folder-64", name="x", dataset="avatars")


def test_time_for_everything():
    plan = budget(recipe(), 50.0, CPU, minutes=30, spent=2.0)
    assert plan.fields["max_minutes"] == pytest.approx(28 * 0.86)
    expected = 28 * 0.86 * 60 * 50
    assert plan.fields["max_images"] > expected, "a faster machine than measured is not stopped early"
    assert f"about {int(expected):,} images at 50 a second" in plan.reasons[0]
    assert all(value % 16 == 0 for name, value in plan.fields.items() if name.endswith("every_images"))
    assert 0 < plan.fields["eval_every_images"] < expected


def test_without_a_time():
    plan = budget(recipe(), 50.0, CPU, None, spent=2.0)
    assert plan.fields["max_minutes"] == 60
    assert "60 minutes of training" in plan.reasons[0]
    plan = budget(recipe(), 5000.0, GPU, None, spent=2.0)
    assert (plan.fields["max_minutes"], plan.fields["max_images"]) == (None, 3_000_000)


def test_a_time_that_is_too_short():
    with pytest.raises(ValueError, match=r"preparation took 0\.5 and 50 steps take 1\.3; give at least 3"):
        budget(recipe(), 10.0, CPU, minutes=0.6, spent=0.5)
    assert budget(recipe(), 10.0, CPU, minutes=3, spent=0.5).fields["eval_every_images"] == 0


def test_contrast_is_the_variance_between_images():
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (2000, 3, 4, 4), dtype=np.uint8)
    assert contrast(noise) == pytest.approx(3 * 4 / 12, rel=0.05), "of uniform values in [-1, 1], in three channels"
    assert contrast(noise[:, :1]) == pytest.approx(contrast(noise) / 3, rel=0.1)
    halved = noise // 2 + 64
    assert contrast(halved) == pytest.approx(contrast(noise) / 4, rel=0.01)
    assert contrast(np.repeat(noise[:1], 50, axis=0)) < 1e-9, "one picture, many times"
    assert contrast(noise[:1]) == 0


@pytest.mark.parametrize(
    ("share", "weight"),
    [(0.2, 0.08), (0.5, 0.5), (0.0, 0.05), (0.95, None), (1.05, None), (1.5, 3), (2.8, 5.6), (9, 6)],
)
def test_penalties_suit_the_contrast(share, weight):
    choice = choose_penalties(
        build_recipe("folder-64"), share * choices._TUNED_CONTRAST, {"r1_gamma": 2, "r2_gamma": 2}
    )
    assert choice.fields == ({} if weight is None else {"r1_gamma": weight, "r2_gamma": weight})
    words = f"{'Weaker' if share < 1 else 'Stronger'} penalties, r1_gamma {weight} and r2_gamma {weight}"
    said = f"{words}: pixels vary {share:g} times as much as in avatars."
    assert choice.reasons == ([] if weight is None else [said])


def test_a_recipe_without_penalties_stays_without():
    recipe = build_recipe("folder-64", loss="hinge", r1_gamma=0, r2_gamma=0)
    assert choose_penalties(recipe, 0.01, {"r1_gamma": 2, "r2_gamma": 2}).fields == {}


@pytest.mark.parametrize("minutes", ["0", "-1", "soon", "inf", "nan"])
def test_a_time_that_is_none(minutes, tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse_recipe([str(tmp_path), "--minutes", minutes])
    assert "minutes is" in capsys.readouterr().err


def test_names():
    assert run_name(listing(1, "avatars:toon-head")) == "avatars-toon-head"
    assert run_name(listing(1, "alice/Celeb_A")) == "celeb_a"
    assert run_name(listing(1, "…")) == "run"


# The whole way


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FAGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    (tmp_path / "icons").mkdir()
    for index in range(40):
        small = np.dstack([random.integers(0, 256, (6, 6, 3), dtype=np.uint8), np.full((6, 6), 255, np.uint8)])
        small[:2, :, 3] = 0
        Image.fromarray(small).resize((40, 40), Image.Resampling.NEAREST).save(tmp_path / "icons" / f"{index}.png")
    (tmp_path / "icons" / "broken.png").write_text("text")
    return tmp_path / "icons"


def test_a_folder_is_all_that_is_needed(folder, monkeypatch, capsys):
    monkeypatch.setattr(choices, "MEASURED_STEPS", 2)
    monkeypatch.setattr(choices, "_WARMUP_STEPS", 1)
    run = fagan_hf.train(dataset=str(folder), max_images=64, cpu_threads=1, batch_size=8)
    out = capsys.readouterr()
    assert run.folder.name == "icons-32"
    assert (
        "With transparency: 100% of the images have some. They are square. 1 that can't be read are left out."
        in out.out
    )
    assert "Augmentation as soon as the discriminator begins to memorize the 40 images." in out.out
    assert out.err.count("41 images; 1 of them can't be used") == 1
    assert run.generator.config.image_channels == run.discriminator.config.image_channels == 4
    [image] = fagan_hf.FAGANPipeline(run.generator)(seeds=[3]).images
    assert (image.mode, image.size) == ("RGBA", (32, 32))
    card = (run.folder / "README.md").read_text()
    assert "Generates 32x32 transparent images" in card
    assert "1 images: is not an image" in card
    assert "upright RGBA with premultiplied alpha, largest center square" in card
    again = parse_recipe([str(folder), "--max-images", "128", "--cpu-threads=1", "--batch_size=8"])
    assert "exists: resuming with its recipe" in capsys.readouterr().out
    monkeypatch.setattr(choices, "measure", lambda recipe: 50.0)
    longer = parse_recipe([str(folder), "--minutes", "90", "--cpu-threads=1", "--batch_size=8"])
    assert longer.max_minutes == pytest.approx(90 * 0.86, rel=0.02)
    assert longer.max_images > 90 * 0.8 * 60 * 50
    assert longer.sample_every_images == again.sample_every_images
    assert (again.run_dir, again.max_images, again.channels) == (run.folder.relative_to(run.folder.parents[1]), 128, 4)


def test_a_named_run_is_chosen_as_well(folder, monkeypatch):
    monkeypatch.setattr(choices, "measure", lambda recipe: 50.0)
    recipe = parse_recipe([str(folder), "--name", "cats"])
    assert (recipe.name, recipe.model, recipe.channels) == ("cats", "fagan-32", 4)
    assert parse_recipe([str(folder), "--name", "cats", "--model", "fagan-64"]).channels == 3, "all is said"


def test_penalties_are_chosen_unless_they_are_given(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choices, "measure", lambda recipe: 50.0)
    (tmp_path / "gray").mkdir()
    for index, values in enumerate(np.random.default_rng(0).integers(100, 156, (40, 40, 40), dtype=np.uint8)):
        Image.fromarray(values).save(tmp_path / "gray" / f"{index}.png")
    recipe = parse_recipe(["gray"])
    assert 0 < recipe.r1_gamma == recipe.r2_gamma < 0.1 * build_recipe("folder-32").r1_gamma
    assert f"Weaker penalties, r1_gamma {recipe.r1_gamma:g} and" in capsys.readouterr().out
    assert parse_recipe(["gray", "--r1-gamma", "0.3"]).r1_gamma == 0.3
    assert f"Weaker penalties, r2_gamma {recipe.r2_gamma:g}: " in capsys.readouterr().out
    parse_recipe(["gray", "--r1-gamma", "0.3", "--r2-gamma", "0.3"])
    assert "penalties" not in capsys.readouterr().out


def test_channels_are_found_for_any_recipe(folder, monkeypatch, capsys):
    flags = ["--recipe", "folder-32", "--dataset", str(folder), "--name", "x", "--skip-broken"]
    assert parse_recipe(flags).channels == 3
    assert parse_recipe([*flags, "--channels", "auto"]).channels == 4
    assert build_recipe("avatars-32", num_avatars=20, channels="auto").channels == 3
    monkeypatch.setattr(choices, "measure", lambda recipe: 50.0)
    assert parse_recipe([str(folder), "--channels=auto"]).channels == 4
    with pytest.raises(SystemExit):
        parse_recipe([*flags, "--channels", "auto", "--streaming"])
    assert "streamed images can't be looked at before training; give 1, 3 or 4" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse_recipe([*flags, "--channels", "two"])
    assert "channels is 'two'" in capsys.readouterr().err


def test_several_processes_do_not_choose(folder, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit):
        parse_recipe([str(folder)])
    assert "give --recipe, and --name" in capsys.readouterr().err


def test_nothing_to_choose_from(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FAGAN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_text("text")
    with pytest.raises(SystemExit):
        parse_recipe([str(tmp_path / "set")])
    assert "none of the 1 images of" in capsys.readouterr().err


def test_a_model_is_fine_tuned_on_a_place(folder, monkeypatch, tmp_path):
    """Its recipe is kept, but not what it says about its data."""
    save_repository(tmp_path / "first", Generator.from_preset("fagan-32"), Discriminator.from_preset("fagan-32"))
    base = build_recipe(
        "avatars-32", num_avatars=50, label_columns=["beard"], r1_gamma=0.75, batch_size=48, compile="cuda_graphs"
    )
    (tmp_path / "first" / "recipe.yaml").write_text(base.to_yaml())
    monkeypatch.setattr(choices, "measure", lambda recipe: 50.0)
    monkeypatch.setattr(choices, "contrast", lambda array: choices._TUNED_CONTRAST)
    recipe = parse_recipe([str(folder), "--finetune-from", str(tmp_path / "first")])
    assert (recipe.name, recipe.model, recipe.r1_gamma) == ("icons-32", "fagan-32", 0.75)
    assert (recipe.dataset, recipe.label_columns, recipe.num_avatars) == (str(folder), (), None)
    assert recipe.channels == 4
    bundled = build_recipe("folder-32")
    assert (recipe.batch_size, recipe.compile, recipe.horizontal_flip) == (bundled.batch_size, "no", True)
    assert recipe.generator_learning_rate == bundled.generator_learning_rate / 2
    assert recipe.discriminator_learning_rate == bundled.discriminator_learning_rate / 2
    assert recipe.max_minutes == 60
    assert parse_recipe([str(folder), "--finetune-from", str(tmp_path / "first"), "--batch-size", "8"]).batch_size == 8


def test_a_model_with_another_loss_is_fine_tuned_by_its_own_recipe(folder, monkeypatch, tmp_path):
    networks = [each.from_preset("fagan-plain-32") for each in (Generator, Discriminator)]
    save_repository(tmp_path / "first", *networks)
    base = build_recipe("avatars-32", num_avatars=50, model="fagan-plain-32", loss="hinge", r1_gamma=0, r2_gamma=0)
    (tmp_path / "first" / "recipe.yaml").write_text(base.to_yaml())
    monkeypatch.setattr(choices, "measure", lambda recipe: 50.0)
    recipe = parse_recipe([str(folder), "--finetune-from", str(tmp_path / "first")])
    assert (recipe.loss, recipe.r1_gamma, recipe.r2_gamma) == ("hinge", 0, 0)
    assert recipe.generator_learning_rate == base.generator_learning_rate
