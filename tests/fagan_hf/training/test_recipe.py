from pathlib import Path

import pytest
import yaml

from fagan_hf.architectures.load import save_architecture
from fagan_hf.architectures.presets import PRESETS
from fagan_hf.augmentations import AUGMENTATIONS
from fagan_hf.losses import LOSSES
from fagan_hf.training.flags import build_recipe, parse_recipe
from fagan_hf.training.recipe import FIELDS, Recipe

RECIPES = sorted(Path("training/recipes").glob("*.yaml"))
AVATARS = "training/recipes/avatars-32.yaml"


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_every_recipe_reads_and_is_named_after_its_file(path):
    recipe = parse_recipe(["--config", str(path)])
    assert recipe.name == path.stem
    assert recipe.source().resolution == recipe.networks()[0].image_size


def test_the_recipes_that_are_promised_are_there():
    avatars = {"avatars-32", "avatars-32-labels", "avatars-64", "avatars-64-gpu"}
    others = {"celeba-64", "celeba-128", "celeba-256", "celeba-64-classic"}
    others |= {"folder-32", "folder-64", "folder-128", "folder-256"}
    assert {path.stem for path in RECIPES} == avatars | others


def test_the_classic_recipe_has_the_originals_settings():
    recipe = parse_recipe(["--config", "training/recipes/celeba-64-classic.yaml"])
    rates = recipe.generator_learning_rate, recipe.discriminator_learning_rate
    assert (rates, recipe.betas, recipe.batch_size) == ((1e-4, 4e-4), (0.0, 0.9), 32)
    assert (recipe.loss, recipe.max_images) == ("relativistic_hinge", 12 * 202_599)
    assert recipe.crop == 178


def test_a_flag_beats_the_file_wherever_it_stands():
    flag, files = ["--batch_size", "8"], (["--config", AVATARS], [f"--config={AVATARS}"])
    for arguments in [flag + file for file in files] + [file + flag for file in files]:
        recipe = parse_recipe([*arguments, "--augment", "[color,cutout]", "--betas", "[0.5,0.99]"])
        assert (recipe.batch_size, recipe.augment, recipe.betas) == (8, ("color", "cutout"), (0.5, 0.99))
        assert recipe.model == "fagan-32"


def test_yaml_and_back(tmp_path):
    recipe = parse_recipe(["--config", AVATARS, "--augment", "[cutout]"])
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert parse_recipe(["--config", str(tmp_path / "recipe.yaml")]) == recipe
    assert set(yaml.safe_load(recipe.to_yaml())) == FIELDS


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ("batch_sise: 8", [], "has the unknown field 'batch_sise'; did you mean 'batch_size'?"),
        ("", ["--batch_sise", "8"], "unknown flag 'batch_sise'; did you mean 'batch_size'?"),
        ("", ["--batch_size", "many"], "batch_size"),
        ("batch_size: many", [], "batch_size"),
        ("", ["--batch_size", "0"], "batch_size is 0; it must be above 0"),
        ("", ["--batch_size", "10", "--gradient_accumulation", "3"], "must be a multiple of the second"),
        ("", ["--generator_learning_rate", "-1"], "generator_learning_rate is -1.0; it must be above 0"),
        ("", ["--warmup_images", "-1"], "warmup_images is -1; it must be 0 or more"),
        ("", ["--betas", "[0.5, 1]"], "each must be at least 0 and below 1"),
        ("", ["--loss", "hing"], "loss is 'hing'; did you mean 'hinge'?"),
        ("", ["--loss=hing"], "loss is 'hing'; did you mean 'hinge'?"),
        ("", ["--augment", "[colr]"], "color"),
        ("", ["--name", ""], "name is ''; it must be the name of a folder"),
        ("model: fagan-33", [], "model is 'fagan-33', which is neither a preset nor a file"),
        ("", ["--model", "nowhere.json"], "model is 'nowhere.json', which is neither a preset nor a file"),
        ("", ["--matching_aware", "true"], "matching_aware is true, but it needs labels; set label_columns"),
        ("", ["--conditioning", "concat"], "conditioning is 'concat'; did you mean 'concatenation'?"),
        ("loss: wgan", [], "loss is 'wgan'; There are: hinge, least_squares"),
        ("", ["--approximate_penalties", "true"], "approximate_penalties is true, but r1_gamma and r2_gamma are 0"),
        ("", ["--r1_gamma", "-1"], "r1_gamma is -1.0; it must be 0 or more"),
        ("", ["--penalty_every_steps", "0"], "penalty_every_steps is 0; it must be above 0"),
        ("", ["--augment_probability", "0"], "augment_probability is 0.0; it must be above 0"),
        ("", ["--augment_probability", "1.5", "--augment", "color"], "is 1.5; it must be above 0 and at most 1"),
        ("", ["--augment_probability", "0.5"], "augment_probability is 0.5, but augment is empty; try --augment color"),
        ("", ["--augment_target", "0.6"], "augment_target is 0.6, but augment is empty; try --augment color"),
        ("", ["--augment_target", "1", "--augment", "color"], "augment_target is 1.0; it must be above 0 and below 1"),
        ("", ["--augment_target", "0", "--augment", "color"], "augment_target is 0.0; it must be above 0"),
        (
            "",
            ["--augment_target", "0.6", "--augment_probability", "0.5", "--augment", "color"],
            "the first adapts the probability, the second keeps it constant",
        ),
        ("", ["--augment_adjust_images", "0"], "augment_adjust_images is 0; it must be above 0"),
        ("", ["--freeze_discriminator_layers", "-1"], "freeze_discriminator_layers is -1; it must be 0 or more"),
        ("", ["--freeze_discriminator_layers", "4"], "the discriminator of fagan-32 has 4 layers, of which"),
        ("", ["--freeze_discriminator_layers", "3"], "the run starts from random weights, which are not worth keeping"),
        ("", ["--name", "../x"], "name is '../x'; it must be the name of a folder"),
        ("- 1", [], "it must be a mapping of fields to values"),
        ("a: [", [], "is not a YAML file"),
    ],
)
def test_mistakes_are_named(tmp_path, capsys, content, flags, message):
    base = {"name": "x", "model": "fagan-32"} if not content.startswith(("-", "a:")) else {}
    path = tmp_path / "mine.yaml"
    path.write_text((yaml.safe_dump(base) if base else "") + content)
    if content.startswith("model"):
        path.write_text("name: x\n" + content)
    with pytest.raises(SystemExit, match="2"):
        parse_recipe(["--config", str(path), *flags])
    assert message in capsys.readouterr().err


def test_a_missing_recipe_lists_those_beside_it(capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_recipe(["--config", "training/recipes/avatar.yaml"])
    assert "training/recipes/avatars-32.yaml" in capsys.readouterr().err


def test_help_explains_every_field(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse_recipe(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert all(f"--{name}" in text for name in FIELDS)
    assert "Half-life of the generator's moving average" in text


def test_help_names_every_loss_and_augmentation(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse_recipe(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert all(name in text for name in (*LOSSES, *AUGMENTATIONS))


@pytest.mark.parametrize(
    "flags",
    [
        ["--label_columns", "beard,hair_color"],
        ["--label_columns=beard,hair_color"],
        ["--label_columns", "[beard, hair_color]"],
    ],
)
def test_names_are_listed_with_commas(flags):
    recipe = parse_recipe(["--config", "training/recipes/avatars-32.yaml", *flags])
    assert recipe.label_columns == ("beard", "hair_color")
    assert recipe.source().label_columns == ("beard", "hair_color")


def test_an_architecture_beside_its_recipe(tmp_path, monkeypatch):
    save_architecture(tmp_path / "mine.json", PRESETS["dcgan-64"])
    (tmp_path / "mine.yaml").write_text("name: x\nmodel: mine.json")
    recipe = parse_recipe(["--config", str(tmp_path / "mine.yaml")])
    assert recipe.networks() == PRESETS["dcgan-64"]
    monkeypatch.chdir(tmp_path)
    assert parse_recipe(["--config", "mine.yaml"]).model == "mine.json"


def test_labels_widen_the_networks():
    recipe = parse_recipe(["--config", "training/recipes/avatars-32-labels.yaml"])
    generator, discriminator = recipe.networks(("beard", "hair=red"))
    assert generator.label_names == discriminator.label_names == ("beard", "hair=red")
    assert (generator.conditioning, discriminator.conditioning) == ("batch_norm", "projection")


RECIPE = ["--recipe", "avatars-32"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--max-images", "512"], {"max_images": 512}),
        (["--max_images=512"], {"max_images": 512}),
        (["--streaming"], {"streaming": True}),
        (["--streaming", "--max-images", "8"], {"streaming": True, "max_images": 8}),
        (["--streaming", "true"], {"streaming": True}),
        (["--streaming=false"], {"streaming": False}),
        (["--no-horizontal-flip"], {"horizontal_flip": False}),
        (["--no_horizontal_flip"], {"horizontal_flip": False}),
        (["--horizontal-flip"], {"horizontal_flip": True}),
        (["--no-streaming", "--streaming"], {"streaming": True}),
        (["--max-images", "8", "--max-images", "16"], {"max_images": 16}),
        (["--decay-after-images", "null"], {"decay_after_images": None}),
        (["--name", "12"], {"name": "12"}),
        (["--generator-learning-rate", "1e-3"], {"generator_learning_rate": 1e-3}),
    ],
)
def test_flags_have_one_style(flags, expected):
    recipe = parse_recipe([*RECIPE, *flags])
    assert {name: getattr(recipe, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["avatars-32", "avatars-64"], "'avatars-64' does not belong to any flag"),
        ([*RECIPE, "more"], "'more' does not belong to any flag"),
        ([*RECIPE, "--max-images"], "--max_images needs a value"),
        ([*RECIPE, "--no-streaming=true"], "--no_streaming takes no value"),
        ([*RECIPE, "--no-max-images"], "unknown flag 'no_max_images'"),
        ([*RECIPE, "--streaming", "maybe"], "streaming"),
        ([*RECIPE, "--config", "training/recipes/avatars-32.yaml"], "are the same flag; give only one of them"),
        (["--recipe", "avatars-33"], "there is no recipe 'avatars-33'; did you mean 'avatars-32'?"),
        (["--recipe", "training/recipes/avatars-3.yaml"], "did you mean 'training/recipes/avatars-32.yaml'?"),
    ],
)
def test_mistaken_flags_are_named(capsys, flags, message):
    with pytest.raises(SystemExit, match="2"):
        parse_recipe(flags)
    assert message in capsys.readouterr().err


def test_a_recipe_of_ours_by_name_is_the_file():
    assert (
        parse_recipe(RECIPE)
        == parse_recipe(["--config", "training/recipes/avatars-32.yaml"])
        == build_recipe("avatars-32")
    )


def test_numbers_of_a_file_are_read_as_numbers(tmp_path):
    """YAML 1.1, which some parsers follow, reads 1e-3 as text."""
    (tmp_path / "mine.yaml").write_text("name: x\nmodel: fagan-32\ngenerator_learning_rate: 1e-3\n")
    assert build_recipe(tmp_path / "mine.yaml").generator_learning_rate == 1e-3


def test_few_pictures():
    assert build_recipe("folder-64").augment_target == 0.6
    for flags in (["--augment_probability", "0.5"], ["--augment", ""], ["--augment", "[]"]):
        assert parse_recipe(["--recipe", "folder-64", *flags]).augment_target is None, flags
    assert build_recipe("folder-64", augment=()).augment_target is None
    assert build_recipe("folder-64", augment=("color",)).augment_target == 0.6
    flags = ["--augment", "color,rotation,scale", "--augment_target", "0.6"]
    recipe = parse_recipe([*RECIPE, *flags])
    assert (recipe.augment, recipe.augment_target) == (("color", "rotation", "scale"), 0.6)
    assert recipe.augments_by_chance
    assert not parse_recipe([*RECIPE, *flags[:2]]).augments_by_chance
    assert parse_recipe([*RECIPE, *flags[:2], "--augment_probability", "0.3"]).augments_by_chance
    for origin in ("finetune_from", "resume_from"):
        fields = {"model": "fagan-32", origin: "someone/faces", "freeze_discriminator_layers": 3}
        assert Recipe(name="x", **fields).freeze_discriminator_layers == 3


def test_a_bundled_recipe_may_be_named_without_a_flag(tmp_path, monkeypatch):
    assert parse_recipe(["avatars-32", "--max-images", "64"]) == parse_recipe(
        ["--recipe=avatars-32", "--max-images=64"]
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "avatars-32").mkdir()
    monkeypatch.setattr("fagan_hf.training.flags.choose_recipe", lambda parse, base, given, minutes: given)
    assert parse_recipe(["avatars-32"]) == {"dataset"}, "a folder of this name is meant"
