import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from benchmarks import quality, quality_plot
from benchmarks.quality_of import face_features, judging, work
from benchmarks.quality_of.arms import ARMS, RIVALS
from benchmarks.quality_of.judging import SHOWN, difference, table
from benchmarks.quality_of.work import Speed, images_of, relative_speeds
from benchmarks.quality_plot import draw, mean_curve
from fagan_hf.hub.repository import read_json
from fagan_hf.training.flags import build_recipe
from tests.hub import forked
from tests.small import EXTRACTOR


def run(arm, seed, value, **others):
    return {"arm": arm, "seed": seed, "images": 57472, "metrics": {"face": dict.fromkeys(SHOWN, value) | others}}


def runs_of(arm, values):
    return {f"{arm}-{seed}": run(arm, seed, value) for seed, value in enumerate(values)}


def test_a_difference_is_paired_by_seed():
    runs = runs_of("flagship", [100.0, 200.0, 300.0]) | runs_of("sagan", [110.0, 211.0, 312.0])
    found = difference(runs, "sagan", "face", "fd")
    assert found.mean == pytest.approx(11)
    assert found.error == pytest.approx(1 / 3**0.5), "whatever the seeds themselves differ by"
    assert found.seeds == 3
    assert found.verdict(lower_is_better=True) == "worse"
    assert found.verdict(lower_is_better=False) == "better"


@pytest.mark.parametrize(
    "values",
    [pytest.param([101.0, 199.0, 304.0], id="within two standard errors"), pytest.param([200.0], id="one seed")],
)
def test_what_is_not_separated_is_undecided(values):
    runs = runs_of("flagship", [100.0, 200.0, 300.0]) | runs_of("sagan", values)
    assert difference(runs, "sagan", "face", "fd").verdict(lower_is_better=True) == "undecided"


def test_seeds_of_one_arm_only_are_not_compared():
    runs = runs_of("flagship", [100.0]) | {"sagan-1": run("sagan", 1, 5.0)}
    assert difference(runs, "sagan", "face", "fd") is None


def test_the_table_has_mean_spread_and_difference():
    runs = runs_of("flagship", [3.0, 4.0, 5.0]) | runs_of("sagan", [1.0, 2.0, 3.0]) | runs_of("classic", [5.0])
    head, _, *rows = table(runs, ["flagship", "sagan", "classic", "convolution"], "face").splitlines()
    assert head.startswith("| face | seeds | images | fd ↓ | kid ↓ | precision ↑")
    assert rows[0] == f"| {ARMS['flagship'].about} | 3 | 57,472 |" + " 4 ± 1 |" * len(SHOWN) + "  |  |"
    assert rows[1] == f"| {ARMS['sagan'].about} | 3 | 57,472 |" + " 2 ± 1 |" * len(SHOWN) + " -2 ± 0 | better |"
    assert rows[2].endswith(" 5 | +2 | undecided |")
    assert len(rows) == 3


def test_few_images_are_judged_without_a_frechet_distance():
    runs = runs_of("flagship", [3.0, 4.0]) | runs_of("sagan", [1.0, 2.0])
    for each in runs.values():
        del each["metrics"]["face"]["fd"]
    assert judging.distance(runs["sagan-0"]["metrics"]["face"]) == "kid"
    head, *_, row = table(runs, ["flagship", "sagan"], "face").splitlines()
    assert "| kid ↓ |" in head
    assert "fd" not in head
    assert row.endswith(" -2 ± 0 | better |")


def in_turn(monkeypatch, **speeds):
    """Have each arm measured at these speeds, in turn."""
    each = {name: iter(values) for name, values in speeds.items()}
    monkeypatch.setattr(work, "_images_per_second", lambda recipe, cycles: next(each[recipe.name]))
    return {name: build_recipe("avatars-32", name=name) for name in speeds}


def test_a_speed_is_relative_to_that_of_the_flagship_just_before_and_after(monkeypatch):
    # The machine is half as fast in the third round, which changes neither ratio.
    flagship = [10.0] * 6 + [5.0] * 3
    recipes = in_turn(monkeypatch, flagship=flagship, a=[20.0, 20.0, 10.0], b=[5.0, 4.9, 2.5])
    found = relative_speeds(recipes, "flagship", rounds=3)
    assert found["flagship"].ratio == 1
    assert found["a"].ratio == 2
    assert found["b"].ratio == pytest.approx(0.5)
    assert found["b"].steps == 3 * work.CYCLES * 4
    assert images_of(found["a"], 1000, 16) == 2000
    assert images_of(found["b"], 1000, 16) == 496, "whole batches"


def test_a_speed_that_varies_is_not_measured(monkeypatch):
    recipes = in_turn(monkeypatch, flagship=[10.0] * 8, a=[20.0, 10.0, 5.0, 20.0])
    with pytest.raises(ValueError, match=r"the speed of a can't be measured: its ratio .* raise rounds"):
        relative_speeds(recipes, "flagship", rounds=4)


def test_too_few_steps_measure_no_speed(monkeypatch):
    recipes = in_turn(monkeypatch, flagship=[10.0] * 8, a=[20.0])
    with pytest.raises(ValueError, match=r"the speed of flagship, a can't be measured with 16 steps; at least 20"):
        relative_speeds(recipes, "flagship", rounds=1)


def run_forked(command, cwd, stdout, stderr, check):
    """Do what ``subprocess.run`` does, without importing torch again."""
    assert (stderr, check) == (subprocess.STDOUT, True)
    assert forked.popen(command, {**os.environ}, cwd, stdout, stderr).wait() == 0


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (24, 32, 32, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def test_the_command_trains_each_arm_for_its_work_and_evaluates_it_with_both_networks(
    tmp_path, monkeypatch, capsys, pictures
):
    monkeypatch.setattr(quality, "NUM_IMAGES", 8)
    monkeypatch.setattr(quality, "_EVALUATIONS", 1)
    monkeypatch.setattr(quality, "face_features", lambda folder: EXTRACTOR)
    monkeypatch.setattr(quality, "subprocess", SimpleNamespace(run=run_forked, STDOUT=subprocess.STDOUT))
    speeds = {"flagship": Speed(1.0, 0.0, 20, 40.0), "convolution": Speed(2.0, 0.0, 20, 80.0)}
    measured = []

    def relative(recipes, reference, rounds):
        measured.append([*recipes])
        return speeds

    monkeypatch.setattr(quality, "relative_speeds", relative)
    results = tmp_path / "results.json"
    command = ["quality.py", "--data", "noise", "--place", str(pictures), "--seeds", "1", "--images", "16"]
    command += ["--face-network", "unused", "--output-dir", str(tmp_path / "runs"), "--results", str(results)]
    monkeypatch.setattr(sys, "argv", [*command, "--arms", "flagship", "convolution"])
    quality.main()
    found = read_json(results)["noise-32"]
    assert {name: each["images"] for name, each in found["runs"].items()} == {"flagship-0": 16, "convolution-0": 32}
    flagship = found["runs"]["flagship-0"]
    assert set(flagship["metrics"]) == {"effnetlite0", "means"}
    assert flagship["metrics"]["effnetlite0"]["kid"] > 0
    assert set(flagship["gates_at_0"]) == {"effnetlite0", "means"}
    assert [point["images"] for point in flagship["curve"]] == [16]
    assert len(flagship["weights"]) == 64
    assert "gates" not in found["runs"]["convolution-0"]
    assert found["speeds"]["convolution"]["ratio"] == 2
    assert ARMS["convolution"].about in capsys.readouterr().out

    quality.main()
    assert measured == [["flagship", "convolution"]], "speeds and runs are not repeated"
    monkeypatch.setattr(sys, "argv", [*command, "--images", "32"])
    with pytest.raises(SystemExit, match=r"has runs of 16 images of noise-32, not 32"):
        quality.main()
    stale = read_json(results)
    stale["noise-32"]["runs"]["flagship-0"]["identity"] = "other"
    results.write_text(json.dumps(stale))
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match=r"network or recipe has changed since: flagship-0"):
        quality.main()


def test_a_run_that_was_stopped_is_not_evaluated(tmp_path):
    recipe = build_recipe("avatars-32", name="flagship-0", output_dir=str(tmp_path), max_images=32)
    recipe.run_dir.mkdir()
    (recipe.run_dir / "metrics.jsonl").write_text('{"images": 16}\n')
    with pytest.raises(KeyboardInterrupt, match=r"flagship-0 stopped after 16 of 32 images"):
        quality.measure(recipe, [], is_swept=False)


def curve(arm, seed, points):
    return {"arm": arm, "seed": seed, "curve": [{"images": images, "fd": value} for images, value in points]}


def test_a_plot_of_images_that_were_not_compared_is_refused_in_words(tmp_path, monkeypatch, capsys):
    (tmp_path / "results.json").write_text('{"emoji-64": {}}')
    monkeypatch.setattr(sys, "argv", ["quality_plot.py", "--results", str(tmp_path / "results.json")])
    with pytest.raises(SystemExit, match="2"):
        quality_plot.main()
    assert "has no comparison 'avatars-32'; There are: emoji-64" in capsys.readouterr().err


def test_a_curve_is_over_work_where_all_runs_were_measured():
    runs = [curve("sagan", 0, [(100, 4.0), (300, 2.0)]), curve("sagan", 1, [(200, 5.0), (400, 1.0)])]
    images, mean, least, most = mean_curve(runs, "fd", ratio=0.5)
    assert (images[0], images[-1]) == (400, 600), "half as fast: twice the work for as many images"
    assert (mean[0], least[0], most[0]) == (4.0, 3.0, 5.0)
    assert mean[-1] == pytest.approx((2.0 + 3.0) / 2)


def test_rivals_are_drawn_left_and_variants_right():
    points = [(60, 4.0), (180, 2.0)]
    arms = "sagan", "flagship", "hinge"
    comparison = {
        "runs": {arm: curve(arm, 0, points) for arm in arms},
        "speeds": {arm: {"ratio": 1.0} for arm in arms},
    }
    left, right = draw(comparison, "fd").axes
    named = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in (left, right)]
    assert named == [["SAGAN", "flagship"], ["flagship", ARMS["hinge"].about]]
    assert set(RIVALS) < set(ARMS)


def test_the_face_network_says_where_its_weights_are(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no face_recognition_model.bin .* npm pack @vladmandic/face-api"):
        face_features.face_features(tmp_path)


def test_other_weights_of_the_face_network_are_refused(tmp_path):
    for name in face_features._FILES:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"otherwise features are not comparable"):
        face_features.face_features(tmp_path)


def test_a_missing_face_network_ends_in_a_message(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["quality.py", "--face-network", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="they are in the folder model of an npm package") as ended:
        quality.main()
    assert isinstance(ended.value.code, str)  # printed, with exit status 1, without a traceback
