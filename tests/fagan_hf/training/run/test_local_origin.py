"""Runs that resume the checkpoints of a local run in a folder of their own."""

import json

import pytest
import torch
import yaml

from fagan_hf.models import Discriminator, Generator
from fagan_hf.training.flags import parse_recipe
from fagan_hf.training.run import resume
from fagan_hf.training.run.origin import find_origin
from fagan_hf.training.run.session import setup
from tests.sessions import train


@pytest.fixture(autouse=True)
def _fresh():
    find_origin.cache_clear()


@pytest.fixture
def first(make_recipe):
    """The folder of a run with checkpoints at 8 and 16 images."""
    recipe = make_recipe(name="first", max_images=16)
    train(recipe)
    return recipe.run_dir


def weights(recipe):
    networks = Generator, Discriminator
    return [each.from_pretrained(recipe.run_dir).state_dict() for each in networks]


def are_equal(one, other):
    return all(torch.equal(mine[name], theirs[name]) for mine, theirs in zip(one, other, strict=True) for name in mine)


def events(recipe):
    lines = (recipe.run_dir / "metrics.jsonl").read_text().splitlines()
    return [event for line in lines for event in json.loads(line).get("events", [])]


@pytest.mark.parametrize("checkpoint", [None, 8], ids=["newest", "chosen"])
def test_it_ends_as_the_run_that_was_never_interrupted(first, make_recipe, capfd, checkpoint):
    recipe, whole = make_recipe(name="again", resume_from=str(first), checkpoint=checkpoint), make_recipe(name="whole")
    train(recipe)
    told = capfd.readouterr().out
    assert f"Continuing {first}: weights, averaged generator, and the optimizers' moments of" in told
    assert f"Resuming at {checkpoint or 16} images." in told
    train(whole)
    assert are_equal(weights(recipe), weights(whole))
    lines = [json.loads(line) for line in (recipe.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [4, 8, 12, 16, 20, 24]
    assert json.loads((recipe.run_dir / "facts.json").read_text())["training"]["resumed_from"] == "first"
    assert not events(recipe)


def test_moments_are_kept_and_counted(first, make_recipe, capfd):
    session = setup(make_recipe(name="again", resume_from=str(first), betas=(0.5, 0.9)))
    resume.restore(session)
    session.close()
    optimizers = session.trainer.generator.optimizer, session.trainer.discriminator.optimizer
    total = sum(len(optimizer.state) for optimizer in optimizers)
    assert total == sum(len(list(each.parameters())) for each in (session.generator, session.discriminator))
    assert all(optimizer.param_groups[0]["betas"] == (0.5, 0.9) for optimizer in optimizers)
    told = capfd.readouterr().out
    assert f"the optimizers' moments of {total} of {total} parameters." in told
    assert "Resuming with another recipe: betas was [0.0, 0.9], is [0.5, 0.9] now." in told


def test_moments_that_are_missing_are_counted(first, make_recipe, capfd):
    tuned = make_recipe(name="tuned", finetune_from=str(first), freeze_discriminator_layers=1, max_images=8)
    train(tuned)
    capfd.readouterr()
    find_origin.cache_clear()
    session = train(make_recipe(name="on", resume_from=str(tuned.run_dir), max_images=12))
    frozen = len(list(session.discriminator.layers[0].parameters()))
    total = sum(len(list(each.parameters())) for each in (session.generator, session.discriminator))
    told = capfd.readouterr().out
    assert f"moments of {total - frozen} of {total} parameters; the other {frozen} start without." in told
    assert "freeze_discriminator_layers was 1, is 0 now" in told


def test_the_same_command_resumes_the_new_folder(first, make_recipe):
    """Although the first run has dropped the checkpoint meanwhile."""
    fields = {"name": "again", "resume_from": str(first), "checkpoint": 8}
    train(make_recipe(**fields, max_images=12))
    train(make_recipe(name="first"))
    assert not (first / "checkpoints/images-00000008").exists()
    session = train(make_recipe(**fields))
    assert session.images_seen == 24
    assert are_equal(weights(session.recipe), weights(make_recipe(name="first")))


def test_a_corrupt_checkpoint_is_passed_over_but_not_if_chosen(first, make_recipe):
    (first / "checkpoints/images-00000016/generator.safetensors").write_text("")
    with pytest.raises(ValueError, match=r"first is corrupt \(.*\): choose another with --checkpoint"):
        train(make_recipe(name="chosen", resume_from=str(first), checkpoint=16))
    session = setup(make_recipe(name="again", resume_from=str(first)))
    resume.restore(session)
    session.close()
    assert session.images_seen == 8


def test_mistakes(first, make_recipe):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at 9 images; there are 0?.*8, 16\. The nearest is 8\."):
        train(make_recipe(name="again", resume_from=str(first), checkpoint=9))
    with pytest.raises(ValueError, match=r"can't be resumed there in its own folder.* Choose another --name"):
        setup(make_recipe(name="first", resume_from=str(first), checkpoint=8))
    with pytest.raises(ValueError, match=r"checkpoint is 8, but resume_from is not set"):
        make_recipe(checkpoint=8)
    with pytest.raises(ValueError, match=r"nothing left to do: .*first has seen 16 images"):
        train(make_recipe(name="again", resume_from=str(first), max_images=16))
    assert not make_recipe(name="again").run_dir.exists()


def test_a_branch_gets_a_name_of_its_own(first):
    """So that the command as written does not meet the run's own folder."""
    recipe = parse_recipe(["--resume_from", str(first), "--checkpoint", "8"])
    assert (recipe.name, recipe.checkpoint) == ("first-from-8", 8)
    assert parse_recipe(["--resume_from", str(first), "--checkpoint", "8", "--name", "mine"]).name == "mine"
    assert parse_recipe(["--resume_from", str(first)]).name == "first"
    (first / "recipe.yaml").write_text(
        yaml.safe_dump(yaml.safe_load((first / "recipe.yaml").read_text()) | {"checkpoint": 8})
    )
    find_origin.cache_clear()
    assert parse_recipe(["--resume_from", str(first)]).checkpoint is None
