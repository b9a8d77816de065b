import itertools

import pytest
import torch

from fagan_hf.hub.checkpoints import snapshots_in
from fagan_hf.hub.repository import published_files
from fagan_hf.models import Generator
from fagan_hf.training.run import loop, resume
from fagan_hf.training.run.session import setup
from fagan_hf.training.run.snapshots import save_snapshot, thinned
from tests.sessions import train
from tests.small import GENERATOR


def equal(generator, other):
    return all(map(torch.equal, generator.state_dict().values(), other.state_dict().values()))


def test_within_the_budget_nothing_is_removed():
    assert thinned({8: 10, 16: 10, 24: 10}, 30, ()) == []


@pytest.mark.parametrize("count", [30, 100, 333])
def test_those_that_stay_are_spread_over_the_whole_run(count):
    kept = []
    for images in range(1, count + 1):
        sizes = dict.fromkeys([*kept, images], 10)
        kept = sorted(sizes.keys() - set(thinned(sizes, 105, {17})))
    assert len(kept) == 10
    assert {1, 17, count} <= set(kept)
    gaps = [after - before for before, after in itertools.pairwise(kept)]
    assert max(gaps) <= 2 * count / 9


def test_first_newest_and_best_stay_whatever_their_size():
    assert sorted(thinned({8: 10, 16: 10, 24: 10, 32: 10}, 1, {24})) == [16]


def test_snapshots_are_written_whole_and_thinned(tmp_path, monkeypatch):
    generators = {images: Generator(GENERATOR) for images in (8, 16, 24)}
    save_snapshot(tmp_path, 8, generators[8], 10**9)
    size = snapshots_in(tmp_path)[8].stat().st_size
    for images in (16, 24):
        save_snapshot(tmp_path, images, generators[images], 2 * size)
    assert list(snapshots_in(tmp_path)) == [8, 24]

    def fail(*_, **__):
        raise OSError("full")

    monkeypatch.setattr("fagan_hf.training.run.snapshots.save_tensors", fail)
    with pytest.raises(OSError, match="full"):
        save_snapshot(tmp_path, 32, generators[8], 2 * size)
    assert [path.name for path in sorted((tmp_path / "snapshots").iterdir())] == [
        "images-00000008.safetensors",
        "images-00000024.safetensors",
    ]


def test_a_run_keeps_snapshots_of_what_it_saved(make_recipe):
    """Also where the full checkpoint is gone; they are not published."""
    recipe = make_recipe(keep_checkpoints=1)
    train(recipe)
    folder = recipe.run_dir
    assert list(snapshots_in(folder)) == [8, 16, 24]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["images-00000024"]
    saved = Generator.from_pretrained(folder)
    assert equal(Generator.from_pretrained(folder, checkpoint=24), saved)
    assert not equal(Generator.from_pretrained(folder, checkpoint=8), saved)
    assert not any("snapshots" in name for name in published_files(folder))


def test_a_run_without_snapshots(make_recipe):
    recipe = make_recipe(snapshot_bytes=0, max_images=8)
    train(recipe)
    assert not (recipe.run_dir / "snapshots").exists()


def test_an_interrupted_run_has_the_same_snapshots(make_recipe):
    """Those written after the checkpoint, whole or half, are written again."""
    whole, halves = make_recipe(name="whole"), make_recipe(name="halves")
    train(whole)
    train(make_recipe(name="halves", max_images=16))
    folder = halves.run_dir
    late = folder / "snapshots/images-00000020.safetensors"
    late.write_bytes((folder / "snapshots/images-00000016.safetensors").read_bytes())
    (folder / "snapshots/.images-00000024.safetensors.2147483647").touch()  # no process has this id
    session = setup(halves)
    resume.restore(session)
    assert [path.name for path in sorted((folder / "snapshots").iterdir())] == [
        "images-00000008.safetensors",
        "images-00000016.safetensors",
    ]
    session.close()
    loop.train(setup(halves))
    assert list(snapshots_in(folder)) == [8, 16, 24]
    for images in (8, 16, 24):
        one, other = (Generator.from_pretrained(each.run_dir, checkpoint=images) for each in (whole, halves))
        assert equal(one, other)


def test_a_rollback_forgets_later_snapshots(make_recipe):
    recipe = make_recipe(max_images=8)
    session = setup(recipe)
    loop.train(session)
    session.progress.images_seen = 12
    save_snapshot(recipe.run_dir, 12, session.averaged.model, 10**9)
    session.last_line = {"images": 12, "discriminator_skipped_steps": 10, "generator_skipped_steps": 10}
    resume.roll_back(session)
    assert list(snapshots_in(recipe.run_dir)) == [8]


@pytest.mark.parametrize(
    ("name", "text"),
    [("best/facts.json", '{"training": {"images_seen": 16}}'), ("evaluations.json", '{"best": 16}')],
    ids=["measured in training", "measured afterward"],
)
def test_the_best_is_not_thinned_away(tmp_path, name, text):
    (tmp_path / "best").mkdir()
    (tmp_path / name).write_text(text)
    for images in (8, 16, 24, 32, 40):
        save_snapshot(tmp_path, images, Generator(GENERATOR), 1)
    assert list(snapshots_in(tmp_path)) == [8, 16, 40]
