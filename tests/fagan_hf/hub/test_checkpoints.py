import json
import re

import pytest
import torch

from fagan_hf.hub.checkpoints import best_images, best_model, checkpoint_at, not_measured, saved_weights, snapshots_in
from fagan_hf.hub.repository import save_repository
from fagan_hf.models import Discriminator, Generator
from fagan_hf.pipeline import FAGANPipeline
from fagan_hf.training.run.checkpoint import Checkpoints
from fagan_hf.utils.files import save_tensors
from tests.small import DISCRIMINATOR, GENERATOR


@pytest.fixture
def past(tmp_path):
    """A run folder with snapshots at 8 and 16 images, and checkpoints at 16 and 24; returns the networks of each."""
    networks = {}
    (tmp_path / "snapshots").mkdir()
    for images in (8, 16, 24):
        names = {"generator": Generator, "averaged_generator": Generator, "discriminator": Discriminator}
        networks[images] = {
            name: each(DISCRIMINATOR if each is Discriminator else GENERATOR) for name, each in names.items()
        }
        if images > 8:
            Checkpoints(tmp_path / "checkpoints", networks[images], {}, 2).save(images, {"images_seen": images})
        if images < 24:
            weights = networks[images]["averaged_generator"].state_dict()
            save_tensors(weights, tmp_path / f"snapshots/images-{images:08d}.safetensors")
    save_repository(tmp_path, networks[24]["averaged_generator"], networks[24]["discriminator"])
    (tmp_path / "snapshots/.images-00000032.safetensors.123").touch()  # of a killed process
    return tmp_path, networks


def equal(network, other):
    return all(map(torch.equal, network.state_dict().values(), other.state_dict().values()))


@pytest.mark.parametrize("images", [8, 16, 24])
def test_the_averaged_generator_of_any_checkpoint_or_snapshot_is_loaded(past, images):
    folder, networks = past
    wanted = networks[images]["averaged_generator"]
    for loaded in (
        Generator.from_pretrained(folder, checkpoint=images),
        FAGANPipeline.from_pretrained(folder, checkpoint=images).generator,
    ):
        assert equal(loaded, wanted)
        assert not loaded.training


def test_a_discriminator_is_loaded_from_a_checkpoint(past):
    folder, networks = past
    assert equal(Discriminator.from_pretrained(str(folder), checkpoint=16), networks[16]["discriminator"])
    with pytest.raises(FileNotFoundError, match=r"has no checkpoint at 8 images; there are 16, 24\. The nearest is 16"):
        Discriminator.from_pretrained(folder, checkpoint=8)


def test_a_checkpoint_is_loaded_in_another_dtype(past):
    assert Generator.from_pretrained(past[0], checkpoint=8, dtype="bfloat16").dtype == torch.bfloat16


def test_what_is_not_there_is_named_with_what_is(past, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"has no checkpoint at 21 images; there are 8, 16, 24\. The nearest is 24\."
    ):
        Generator.from_pretrained(past[0], checkpoint=21)
    save_repository(tmp_path / "bare", Generator(GENERATOR))
    with pytest.raises(FileNotFoundError, match=r"bare has no checkpoint at 21 images, and no other one"):
        Generator.from_pretrained(tmp_path / "bare", checkpoint=21)


def test_a_repository_on_the_hub_has_no_checkpoints():
    """The Hub is not asked."""
    with pytest.raises(ValueError, match=r"checkpoint is 8, but 'user/name' is not a local folder\. Only run folders"):
        Generator.from_pretrained("user/name", checkpoint=8)


@pytest.mark.parametrize("checkpoint", ["16", 16.0, True])
def test_a_checkpoint_is_a_number_of_images(past, checkpoint):
    with pytest.raises(ValueError, match=rf"checkpoint is {checkpoint!r}; it must be the number of images seen"):
        Generator.from_pretrained(past[0], checkpoint=checkpoint)


def test_a_corrupt_checkpoint_is_not_loaded(past):
    path = past[0] / "checkpoints/images-00000024/averaged_generator.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"averaged_generator\.safetensors is corrupt: it does not match its hash"):
        Generator.from_pretrained(past[0], checkpoint=24)


def test_which_there_are(past):
    folder, _ = past
    assert list(snapshots_in(folder)) == [8, 16]
    generators = saved_weights(folder, "generator")
    assert {images: path.parent.name for images, path in generators.items()} == {
        8: "snapshots",
        16: "images-00000016",
        24: "images-00000024",
    }
    assert list(saved_weights(folder, "discriminator")) == [16, 24]


def test_training_resumes_from_full_checkpoints_only(past):
    folder, _ = past
    assert checkpoint_at(str(folder), 16).name == "images-00000016"
    with pytest.raises(
        FileNotFoundError, match=r"there are 16, 24\. .* A snapshot of these images holds the generator"
    ):
        checkpoint_at(str(folder), 8)


def test_the_best_is_known_once_measured(past):
    folder, _ = past
    assert best_images(folder) == set()
    with pytest.raises(FileNotFoundError, match=rf"run `fagan-hf evaluate {re.escape(str(folder))} --all`"):
        best_model(folder)
    save_repository(folder / "best", Generator(GENERATOR), facts={"training": {"images_seen": 16}})
    assert best_model(folder) == (folder / "best", None)
    (folder / "evaluations.json").write_text(json.dumps({"best": 8}))
    assert best_model(folder) == (folder, 8)
    assert best_images(folder) == {8, 16}


def test_weights_saved_after_a_measurement_are_not_measured(past):
    folder, _ = past
    assert not_measured(folder) == []
    (folder / "evaluations.json").write_text(json.dumps({"best": 8, "checkpoints": [{"images": 8}, {"images": 16}]}))
    assert not_measured(folder) == [24]
