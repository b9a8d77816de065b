"""Runs that start from a model; those from the Hub are in tests/hub."""

import dataclasses
import hashlib
import json
import shutil

import pytest
import torch
import yaml
from PIL import Image

from fagan_hf.architectures.load import load_architecture, save_architecture
from fagan_hf.hub.publishing import portable_recipe
from fagan_hf.hub.repository import save_repository
from fagan_hf.models import Discriminator, Generator
from fagan_hf.training.flags import parse_recipe
from fagan_hf.training.run import resume
from fagan_hf.training.run.origin import base_recipe, find_origin
from fagan_hf.training.run.session import setup
from tests.sessions import train
from tests.small import DISCRIMINATOR, GENERATOR


@pytest.fixture(autouse=True)
def _fresh():
    find_origin.cache_clear()


@pytest.fixture
def published(make_recipe, tmp_path):
    """A run as published on the Hub: no checkpoints, and a portable recipe."""
    recipe = make_recipe(name="first", max_images=16)
    train(recipe)
    folder = tmp_path / "published"
    shutil.copytree(recipe.run_dir, folder, ignore=shutil.ignore_patterns("checkpoints", "samples"))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(portable_recipe(recipe.run_dir)))
    return folder


def with_training_state(folder, run_dir):
    shutil.copytree(run_dir / "checkpoints/images-00000016", folder / "training_state")


def facts(recipe):
    return json.loads((recipe.run_dir / "facts.json").read_text())["training"]


def test_without_a_training_state_it_goes_on_counting_and_says_what_is_new(published, make_recipe, capfd):
    recipe = make_recipe(name="again", max_images=20, resume_from=str(published))
    session = setup(recipe)
    resume.restore(session)
    told = capfd.readouterr().out
    assert "has no training state. Starting from the weights of" in told
    assert "optimizers are reinitialized" in told
    assert session.images_seen == 16
    saved = Generator.from_pretrained(published).state_dict()
    for network in (session.generator, session.averaged.model):
        assert all(torch.equal(tensor, saved[name]) for name, tensor in network.state_dict().items())
    assert not session.trainer.generator.optimizer.state
    session.lock.release()
    session = train(recipe)
    assert session.images_seen == 20
    assert facts(recipe)["resumed_from"] == "published"


def test_with_a_training_state_it_ends_as_the_run_that_was_never_interrupted(published, make_recipe):
    with_training_state(published, make_recipe(name="first").run_dir)
    train(make_recipe(name="again", max_images=32, resume_from=str(published)))
    train(make_recipe(name="whole", max_images=32))
    ends = [Generator.from_pretrained(make_recipe(name=name).run_dir).state_dict() for name in ("again", "whole")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("generator.safetensors", ""),
        ("state.json", "[]"),
        ("manifest.json", '{"/dev/zero": "0"}'),
        ("manifest.json", '{"../elsewhere": "0"}'),
    ],
)
def test_a_broken_training_state_is_refused_and_a_mended_one_taken(published, make_recipe, name, content):
    with_training_state(published, make_recipe(name="first").run_dir)
    broken = published / "training_state" / name
    whole = broken.read_bytes()
    broken.write_text(content)
    if name == "state.json":  # as it was pushed, and still no training state
        manifest = published / "training_state/manifest.json"
        hashes = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(hashes | {name: hashlib.sha256(content.encode()).hexdigest()}))
    recipe = make_recipe(name="again", max_images=20, resume_from=str(published))
    with pytest.raises(ValueError, match=r"the training state of .*published is corrupt \(.*push it again"):
        train(recipe)
    if name == "generator.safetensors":
        broken.write_bytes(whole)
        assert train(recipe).images_seen == 20


def test_a_training_state_of_another_architecture_is_refused_before_it_is_laid_down(published, make_recipe):
    with_training_state(published, make_recipe(name="first").run_dir)
    recipe = make_recipe(name="again", model="fagan-32", upscale=True, resume_from=str(published))
    with pytest.raises(ValueError, match="has another architecture"):
        train(recipe)
    assert not (recipe.run_dir / "checkpoints").exists()


def test_a_folder_that_is_behind_the_model_is_not_gone_on_with(published, make_recipe):
    train(make_recipe(name="again", max_images=8))
    with pytest.raises(ValueError, match=r"has seen 8 images, but .*published 16: to resume from the latter remove"):
        train(make_recipe(name="again", max_images=32, resume_from=str(published)))


def test_started_again_it_remembers_where_it_came_from(published, make_recipe, tmp_path):
    train(make_recipe(name="fine", max_images=8, finetune_from=str(published)))
    fine = tmp_path / "fine-published"
    shutil.copytree(make_recipe(name="fine").run_dir, fine)
    recipe = make_recipe(name="fine-again", max_images=16, resume_from=str(fine))
    train(recipe)
    shutil.rmtree(fine)  # a changed repository would have a different commit
    shutil.copytree(published, fine)
    find_origin.cache_clear()
    train(make_recipe(name="fine-again", max_images=24, resume_from=str(fine)))
    assert facts(recipe)["finetuned_from"] == "published"
    assert facts(recipe)["resumed_from"] == "fine-published"
    assert facts(recipe)["images_seen"] == 24


def test_fine_tuning_needs_the_same_networks(published, make_recipe):
    with pytest.raises(ValueError, match=r"has another architecture than this recipe .*; use --model"):
        train(make_recipe(name="fine", model="fagan-32", upscale=True, finetune_from=str(published)))


def test_a_run_folder_is_started_from_without_its_intentions(make_recipe):
    """Its push target and its own origin must not be inherited, least of all by fine-tuning."""
    recipe = make_recipe(name="first", max_images=4)
    train(recipe)
    fields = yaml.safe_load((recipe.run_dir / "recipe.yaml").read_text())
    own = {"push_to_hub": "alice/first", "push_training_state": True, "hub_private": True, "weights_license": "mit"}
    (recipe.run_dir / "recipe.yaml").write_text(yaml.safe_dump(fields | own | {"finetune_from": "alice/base"}))
    for flag, name in (("--finetune_from", "second"), ("--resume_from", "first")):
        find_origin.cache_clear()
        parsed = parse_recipe([flag, str(recipe.run_dir), "--name", name])
        assert (parsed.push_to_hub, parsed.push_training_state, parsed.hub_private) == (None, False, False)
        assert parsed.dataset == recipe.dataset
        assert parsed.weights_license == (None if flag == "--finetune_from" else "mit")
        assert (parsed.resume_from is None) == (flag == "--finetune_from")


def test_other_data_has_other_frequencies_of_labels(make_recipe, classes):
    """Otherwise labels would be sampled as in the earlier data."""
    labels = {"label_columns": ("class",), "conditioning": "projection", "upscale": True}
    train(make_recipe(name="first", dataset=str(classes), max_images=4, **labels))
    for extra in range(20):
        Image.new("RGB", (10, 10), (0, 0, 255 - extra)).save(classes / "blue" / f"more-{extra}.png")
    first = str(make_recipe(name="first").run_dir)
    session = train(make_recipe(name="second", dataset=str(classes), max_images=4, finetune_from=first, **labels))
    assert session.averaged.model.label_frequencies.tolist() == pytest.approx([28 / 40, 12 / 40])


def test_earlier_data_is_remembered(published, make_recipe, classes, tmp_path):
    train(make_recipe(name="fine", max_images=4, dataset=str(classes), finetune_from=str(published)))
    first = json.loads((published / "facts.json").read_text())["data"]
    assert json.loads((make_recipe(name="fine").run_dir / "facts.json").read_text())["earlier_data"] == [first]
    save_repository(tmp_path / "bare", Generator(GENERATOR), Discriminator(DISCRIMINATOR))
    train(make_recipe(name="fine-too", max_images=4, finetune_from=str(tmp_path / "bare")))
    assert json.loads((make_recipe(name="fine-too").run_dir / "facts.json").read_text())["earlier_data"] == [None]


def test_a_model_without_a_discriminator(make_recipe, tmp_path, capfd):
    save_repository(tmp_path / "bare", Generator(GENERATOR))
    train(make_recipe(name="fine", max_images=4, finetune_from=str(tmp_path / "bare")))
    assert "which has no discriminator" in capfd.readouterr().out
    with pytest.raises(FileNotFoundError, match=r"has no discriminator/config.json; use a preset"):
        load_architecture(str(tmp_path / "bare"))


def test_a_recipe_is_taken_over_but_for_a_name_of_its_own(published, tmp_path):
    assert base_recipe(str(published), is_resumed=True)["name"] == "first"
    assert "name" not in base_recipe(str(published), is_resumed=False)
    save_repository(tmp_path / "converted", Generator(GENERATOR), Discriminator(DISCRIMINATOR))
    assert base_recipe(str(tmp_path / "converted"), is_resumed=False) == {"model": str(tmp_path / "converted")}
    assert load_architecture(str(tmp_path / "converted")) == (GENERATOR, DISCRIMINATOR)


def test_an_architecture_of_a_file_is_read_from_the_model(published, make_recipe, tmp_path):
    """The file is on another machine; `architecture.json` next to the recipe has the same content."""
    save_architecture(tmp_path / "mine.json", (GENERATOR, DISCRIMINATOR))
    train(make_recipe(name="mine", model=str(tmp_path / "mine.json"), max_images=4))
    assert portable_recipe(make_recipe(name="mine").run_dir)["model"] == "architecture.json"
    assert base_recipe(str(make_recipe(name="mine").run_dir), is_resumed=True)["model"].endswith("runs/mine")


def parsed(capsys, *arguments):
    with pytest.raises(SystemExit):
        parse_recipe([str(argument) for argument in arguments])
    return capsys.readouterr().err


def test_mistakes(published, make_recipe, tmp_path, capsys):
    both = parsed(
        capsys, "--resume_from", published, "--finetune_from", published, "--name", "x", "--model", "fagan-32"
    )
    assert "give only one of them" in both
    assert "starts a new run, which needs a name: give --name" in parsed(capsys, "--finetune_from", published)
    assert "is not a local folder" in parsed(capsys, "--resume_from", "nobody/nothing")
    assert "push_to_hub is not set" in parsed(
        capsys, "--name", "x", "--model", "fagan-32", "--push_training_state", "true"
    )
    (published / "recipe.yaml").write_text("- a\n")
    find_origin.cache_clear()
    assert "it must be a mapping" in parsed(capsys, "--resume_from", published)
    with pytest.raises(ValueError, match="must be a Hub license id"):
        make_recipe(weights_license="My License")


def test_a_model_at_its_end_is_not_gone_on_with(published, make_recipe):
    recipe = make_recipe(name="again", max_images=16, resume_from=str(published))
    with pytest.raises(ValueError, match=r"nothing left to do: .*published has seen 16 images .* raise --max_images"):
        train(recipe)
    assert not recipe.run_dir.exists()


def test_the_numbers_of_before_come_along_without_a_training_state_too(published, make_recipe):
    recipe = make_recipe(name="again", max_images=20, resume_from=str(published))
    train(recipe)
    lines = (recipe.run_dir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in lines] == [4, 8, 12, 16, 20]


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"does not contain a model: generator/config.json is missing"):
        find_origin(str(tmp_path))


def test_frozen_layers_of_a_fine_tuned_discriminator_are_those_of_the_model(published, make_recipe):
    fields = {"finetune_from": str(published), "freeze_discriminator_layers": 1, "r1_gamma": 1.0}
    whole, halves = (make_recipe(name=name, **fields) for name in ("whole", "halves"))
    train(whole)
    train(dataclasses.replace(halves, max_images=12))
    train(halves)
    ends = [Discriminator.from_pretrained(each.run_dir).state_dict() for each in (whole, halves)]
    start = Discriminator.from_pretrained(published).state_dict()
    for name, tensor in start.items():
        assert torch.equal(ends[0][name], ends[1][name]), name
        if name.startswith("layers.0."):
            assert torch.equal(ends[0][name], tensor), name
    assert any(not torch.equal(ends[0][name], tensor) for name, tensor in start.items())


def test_layers_that_nothing_was_learned_by_are_not_frozen(published, make_recipe):
    with pytest.raises(ValueError, match=r"was trained from scratch, and resume_from resumes it as it was"):
        setup(make_recipe(name="again", resume_from=str(published), freeze_discriminator_layers=1))
    shutil.rmtree(published / "discriminator")
    with pytest.raises(ValueError, match=r"published has no discriminator: its layers would stay random"):
        setup(make_recipe(name="tuned", finetune_from=str(published), freeze_discriminator_layers=1))


def test_a_fine_tuned_run_with_frozen_layers_is_resumed(published, make_recipe):
    fields = {"freeze_discriminator_layers": 1, "max_images": 8}
    tuned = make_recipe(name="tuned", finetune_from=str(published), **fields)
    train(tuned)
    shutil.rmtree(tuned.run_dir / "checkpoints")
    session = train(make_recipe(name="on", resume_from=str(tuned.run_dir), **fields | {"max_images": 16}))
    names = {name for name, each in session.discriminator.named_parameters() if not each.requires_grad}
    assert names
    assert all(name.startswith("layers.0.") for name in names)
