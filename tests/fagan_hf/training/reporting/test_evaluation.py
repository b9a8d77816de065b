import json
import time
from typing import get_args

import pytest
import torch

from fagan_hf.data.prepare import prepare_images
from fagan_hf.hub.checkpoints import snapshots_in
from fagan_hf.hub.measurements import read_measurements
from fagan_hf.hub.repository import weights_hash
from fagan_hf.metrics import features
from fagan_hf.metrics.evaluate import evaluate
from fagan_hf.metrics.features import FEATURES
from fagan_hf.models import Generator
from fagan_hf.training.recipe import FeaturesName
from fagan_hf.training.reporting import evaluation
from fagan_hf.training.run import loop, outputs
from fagan_hf.training.run.session import setup
from tests.sessions import train
from tests.small import EXTRACTOR


@pytest.fixture
def measured(make_recipe, monkeypatch):
    """Recipes of runs that evaluate during training, with three features."""
    monkeypatch.setitem(features.FEATURES, "effnetlite0", lambda: EXTRACTOR)

    def make(**changes):
        return make_recipe(**{"eval_every_images": 8, "eval_num_images": 10} | changes)

    return make


def lines(recipe):
    return [json.loads(line) for line in (recipe.run_dir / "metrics.jsonl").read_text().splitlines()]


def test_features_have_the_names_that_recipes_know():
    assert set(FEATURES) == set(get_args(FeaturesName))


def test_a_run_measures_itself(measured):
    recipe = measured()
    train(recipe)
    distances = {line["images"]: line.get("fd_means_10") for line in lines(recipe)}
    assert [images for images, value in distances.items() if value is not None] == [8, 16, 24]
    assert {"kid_means_10", "recall_means_10", "coverage_means_10"} <= lines(recipe)[-1].keys()

    saved = Generator.from_pretrained(recipe.run_dir)
    found = evaluate(
        saved, prepare_images(recipe.source(), progress=False), features=EXTRACTOR, num_images=10, progress=False
    )
    assert distances[24] == pytest.approx(found.found.frechet, rel=1e-4), "as the command would measure it"
    kept = {each.type: each for each in read_measurements(recipe.run_dir)}
    assert kept["fd_means_10"].value == pytest.approx(distances[24], rel=1e-3)
    assert kept["fd_means_10"].generator == weights_hash(recipe.run_dir)
    assert "fd_means_10" in (recipe.run_dir / "README.md").read_text()


@pytest.fixture
def told_distances(monkeypatch):
    """Set the distances that evaluations return, in order; returns the weights at each evaluation."""

    def tell(*distances):
        left, weights = iter(distances), {}
        compare = evaluation.compare

        def compare_falsely(generator, *arguments):
            found = compare(generator, *arguments)
            object.__setattr__(found.found, "frechet", next(left))
            weights[found.found.frechet] = [tensor.clone() for tensor in generator.parameters()]
            return found

        monkeypatch.setattr(evaluation, "compare", compare_falsely)
        return weights

    return tell


def distance_of_best(recipe):
    return {each.type: each.value for each in read_measurements(recipe.run_dir / "best")}["fd_means_10"]


def test_the_best_model_is_kept(measured, told_distances):
    """Whatever follows it."""
    weights = told_distances(5.0, 2.0, 3.0)
    recipe = measured()
    train(recipe)
    best = recipe.run_dir / "best"
    assert all(map(torch.equal, Generator.from_pretrained(best).parameters(), weights[2.0]))
    assert all(map(torch.equal, Generator.from_pretrained(recipe.run_dir).parameters(), weights[3.0]))
    assert distance_of_best(recipe) == 2
    assert "fd_means_10" in (best / "README.md").read_text()
    assert (best / "nearest.png").is_file()


def test_the_best_is_remembered_over_a_restart(measured, told_distances):
    told_distances(2.0, 5.0, 6.0)
    recipe = measured(max_images=8)
    train(recipe)
    train(measured(max_images=24))
    assert distance_of_best(recipe) == 2


@pytest.mark.parametrize(("before", "kept"), [(1.5, 1.5), (2.5, 2.0)], ids=["better", "worse"])
def test_what_is_there_decides_which_is_the_best(measured, told_distances, before, kept):
    """A run that was rolled back to a checkpoint has lost the evaluations since."""
    told_distances(before, 2.0)
    recipe = measured(max_images=8)
    session = setup(recipe)
    loop.train(session)
    outputs.measure(session)
    assert distance_of_best(recipe) == kept


@pytest.mark.parametrize("damage", ["other weights", "other measure", "text", "nothing"])
def test_a_best_that_does_not_compare_gives_way(measured, damage):
    recipe = measured(max_images=8)
    session = setup(recipe)
    loop.train(session)
    path = recipe.run_dir / "best/metrics.json"
    first = json.loads(path.read_text())
    least = [each | {"value": 0.0} for each in first]
    wrong = {
        "other weights": json.dumps([each | {"generator": "0" * 64} for each in least]),
        "other measure": json.dumps([each | {"type": each["type"].replace("10", "11")} for each in least]),
        "text": "no numbers at all",
        "nothing": None,
    }[damage]
    path.unlink() if wrong is None else path.write_text(wrong)
    outputs.measure(session)
    assert distance_of_best(recipe) > 0


def test_measuring_is_not_training(measured, make_recipe):
    """It changes neither the training nor its time limit."""
    plain = make_recipe(name="plain")
    train(plain)
    recipe = measured()
    session = setup(recipe)
    measure = session.evaluator.measure

    def slowly(generator):
        time.sleep(1)
        return measure(generator)

    session.evaluator.measure = slowly
    started = time.monotonic()
    loop.train(session)
    assert time.monotonic() - started - session.seconds > 3, "three times a second"
    for one, other in zip(
        Generator.from_pretrained(plain.run_dir).state_dict().values(),
        Generator.from_pretrained(recipe.run_dir).state_dict().values(),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_few_images_are_compared_with_half_of_them(measured):
    session = setup(measured(eval_num_images=21))
    assert session.evaluator is not None
    assert session.evaluator.num_images == 10
    session.close()


def test_too_few_images_are_reported_before_training(measured):
    with pytest.raises(ValueError, match="num_images is 7; at least 8 are needed"):
        setup(measured(eval_num_images=7))
    assert not measured().run_dir.joinpath("metrics.jsonl").exists()


def test_a_stream_is_not_compared_with(measured):
    with pytest.raises(ValueError, match="leave out either eval_every_images or streaming"):
        measured(streaming=True)


def test_rising_copies_are_warned_about_once_and_the_best_is_kept(measured, told_distances, monkeypatch, capfd):
    """In the log and in the history, also if the run is interrupted."""
    told_distances(2.0, 1.0, 0.5, 0.25)  # lower and lower, in the end by copying
    shares, compare = iter((0.0, 0.1, 0.9, 1.0)), evaluation.compare

    def copying(*arguments):
        found = compare(*arguments)
        object.__setattr__(found.nearness, "copied", next(shares))
        object.__setattr__(found.real_nearness, "copied", 0.1)
        return found

    monkeypatch.setattr(evaluation, "compare", copying)
    train(measured(max_images=16, snapshot_bytes=1))
    recipe = measured(max_images=32, snapshot_bytes=1)
    train(recipe)
    warnings = [
        (line["images"], event) for line in lines(recipe) for event in line.get("events", []) if "copy" in event
    ]
    [(images, event)] = warnings
    assert images == 24
    assert "90.0% of its images are near copies, 10.0% at 16 images; of real images 10.0%" in event
    assert capfd.readouterr().out.count(event) == 1
    assert distance_of_best(recipe) == 1
    assert list(snapshots_in(recipe.run_dir)) == [8, 16, 32], "the first, the best and the newest"
