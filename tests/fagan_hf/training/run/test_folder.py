import dataclasses
import re

import pytest

from fagan_hf.architectures.load import save_architecture
from fagan_hf.training.run.folder import architecture_changes, check_architecture, check_same_recipe, hold_folder
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
