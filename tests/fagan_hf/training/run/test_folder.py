import dataclasses
import re

import pytest

from fagan_hf.architectures.load import save_architecture
from fagan_hf.training.run.folder import (
    architecture_changes,
    check_architecture,
    check_folder,
    check_same_recipe,
    hold_folder,
)
from tests.small import DISCRIMINATOR, GENERATOR


def test_a_held_folder_is_refused_and_free_when_released(make_recipe):
    recipe = make_recipe()
    lock = hold_folder(recipe)
    with pytest.raises(ValueError, match=rf"another process is training in {re.escape(str(recipe.run_dir))}.*--name"):
        hold_folder(recipe)
    other = hold_folder(make_recipe(name="other"))
    other.release()
    lock.release()
    hold_folder(recipe).release()


def test_a_lock_file_that_lies_there_is_no_lock(make_recipe):
    """Its holder was killed."""
    recipe = make_recipe()
    recipe.run_dir.parent.mkdir(parents=True)
    (recipe.run_dir.parent / ".try.lock").write_text("12345")
    hold_folder(recipe).release()


def test_holding_makes_no_run_folder(make_recipe):
    recipe = make_recipe()
    hold_folder(recipe).release()
    assert not recipe.run_dir.exists()


@pytest.mark.parametrize("place", ["/proc/runs", "/sys/runs", "/dev/null/runs"])
def test_a_place_that_takes_nothing_is_named(make_recipe, place):
    said = rf"can't create a run folder in {place} \(.+\); choose another --output_dir"
    with pytest.raises(OSError, match=said) as caught:
        hold_folder(make_recipe(output_dir=place))
    assert caught.value.errno


def test_a_file_where_the_folder_should_be(make_recipe, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"can't create a run folder in .*choose another --output_dir"):
        hold_folder(make_recipe(output_dir=str(tmp_path / "file")))
    assert (tmp_path / "file").read_text() == "mine"


def test_processes_must_be_given_the_same_recipe(make_recipe):
    of_main = make_recipe().to_yaml()
    check_same_recipe(make_recipe(output_dir="elsewhere", cpu_threads=3, dataset="/mnt/pictures"), of_main)
    with pytest.raises(
        ValueError, match=r"differs from the main process's: warmup_images is 8 here and 0 there; seed is 1 here and 0"
    ):
        check_same_recipe(make_recipe(seed=1, warmup_images=8), of_main)


def test_architectures_are_compared_field_by_field(make_recipe):
    recipe = make_recipe()
    check_architecture(recipe, (GENERATOR, DISCRIMINATOR))  # nothing there yet
    recipe.run_dir.mkdir(parents=True)
    save_architecture(recipe.run_dir / "architecture.json", (GENERATOR, DISCRIMINATOR))
    check_architecture(recipe, (GENERATOR, DISCRIMINATOR))
    wider = dataclasses.replace(GENERATOR, latent_dim=4, layers=(
        dataclasses.replace(GENERATOR.layers[0], in_channels=4, squeeze_factor=4), *GENERATOR.layers[1:],
    ))  # fmt: skip
    changes = architecture_changes((GENERATOR, DISCRIMINATOR), (wider, DISCRIMINATOR))
    assert "generator.latent_dim was 8, is 4 now" in changes
    assert "generator.layers[0].in_channels was 8, is 4 now" in changes
    with pytest.raises(ValueError, match=r"started with another architecture.*latent_dim was 8, is 4"):
        check_architecture(recipe, (wider, DISCRIMINATOR))


def begun(make_recipe, **changes):
    recipe = make_recipe(**changes)
    recipe.run_dir.mkdir(parents=True)
    (recipe.run_dir / "recipe.yaml").write_text(recipe.to_yaml())


def test_a_run_follows_its_owner(make_recipe):
    """Where the images are, and how a step is computed, may change: pixels and labels are compared themselves."""
    begun(make_recipe)
    assert check_folder(make_recipe()) == []
    moved = make_recipe(dataset="/mnt/photos", gradient_accumulation=2, mixed_precision="bf16", cpu_threads=7)
    assert check_folder(moved) == [
        f"dataset was {make_recipe().dataset!r}, is '/mnt/photos' now",
        "gradient_accumulation was 1, is 2 now",
        "mixed_precision was 'no', is 'bf16' now",
    ]


def test_learning_rates_change_on_request(make_recipe):
    begun(make_recipe)
    slower = {"generator_learning_rate": 1e-5}
    with pytest.raises(ValueError, match=r"or resume with the new values: --accept_changes generator_learning_rate"):
        check_folder(make_recipe(**slower))
    accepted = make_recipe(**slower, accept_changes=("generator_learning_rate",))
    assert check_folder(accepted) == ["generator_learning_rate was 0.0001, is 1e-05 now"]
    with pytest.raises(ValueError, match=r"another recipe: loss was .* start over\.$"):
        check_folder(make_recipe(**slower, loss="hinge", accept_changes=("generator_learning_rate",)))


def test_only_what_changes_no_shape_is_accepted(make_recipe):
    with pytest.raises(ValueError, match="accept_changes names 'model'; There are: augment_probability"):
        make_recipe(accept_changes=("model",))
