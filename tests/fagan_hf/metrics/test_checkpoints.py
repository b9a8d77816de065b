import json
from importlib import import_module

import numpy as np
import pytest
from PIL import Image
from torch import nn

from fagan_hf import cli
from fagan_hf.data.image_source import ImageSource
from fagan_hf.data.prepare import prepare_images
from fagan_hf.hub.repository import save_repository
from fagan_hf.metrics import checkpoints, evaluate, features
from fagan_hf.metrics.features import FeatureExtractor
from fagan_hf.models import Generator
from fagan_hf.training.run.snapshots import save_snapshot
from tests.small import EXTRACTOR, GENERATOR, with_gates

COUNT = 20


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder with snapshots at 8, 16 and 24 images; that at 16 has seen the light."""
    monkeypatch.setenv("FAGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(features.FEATURES, "means", lambda: EXTRACTOR)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index, color in enumerate(np.random.default_rng(0).integers(100, 156, (50, 3), dtype=np.uint8)):
        Image.new("RGB", (8, 8), tuple(map(int, color))).save(pictures / f"{index}.png")
    folder = tmp_path / "run"
    generators = {images: with_gates(Generator(GENERATOR)) for images in (8, 16, 24)}
    for images, generator in generators.items():
        generator.layers[-1].residual.bias.data.fill_(0.0 if images == 16 else 3.0)
        save_snapshot(folder, images, generator, 10**9)
    save_repository(folder, generators[24])
    (folder / "recipe.yaml").write_text(json.dumps({"name": "run", "model": "x", "dataset": str(pictures)}))
    return folder


def images_of(run):
    return prepare_images(ImageSource(str(run.parent / "pictures"), resolution=8), progress=False)


def test_each_is_measured_as_if_alone_and_the_real_images_once(run, monkeypatch):
    calls, module = [], import_module("fagan_hf.metrics.evaluate")
    look = module.real_features
    monkeypatch.setattr(module, "real_features", lambda *given, **more: calls.append(1) or look(*given, **more))
    found = checkpoints.evaluate_checkpoints(run, images_of(run), features=EXTRACTOR, num_images=COUNT, progress=False)
    assert len(calls) == 1
    assert list(found.metrics) == [8, 16, 24]
    assert found.best == 16
    for images, metrics in found.metrics.items():
        generator = Generator.from_pretrained(run, checkpoint=images)
        alone = evaluate(generator, images_of(run), features=EXTRACTOR, num_images=COUNT, progress=False)
        assert [each.value for each in metrics] == [each.value for each in alone.metrics()]


def test_one_that_vanishes_meanwhile_is_left_out(run, monkeypatch):
    saved = checkpoints.saved_weights(run, "generator")
    (run / "snapshots/images-00000008.safetensors").unlink()
    monkeypatch.setattr(checkpoints, "saved_weights", lambda *_: saved)
    found = checkpoints.evaluate_checkpoints(run, images_of(run), features=EXTRACTOR, num_images=COUNT, progress=False)
    assert list(found.metrics) == [16, 24]


def test_the_command_prints_keeps_and_finds_the_best(run, capsys, tmp_path):
    command = ["evaluate", str(run), "--all", "--features", "means", "--num_images", str(COUNT), "--device", "cpu"]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    kept = json.loads((run / "evaluations.json").read_text())
    assert (kept["best"], kept["best_by"]) == (16, f"fd_means_{COUNT}")
    assert [each["images"] for each in kept["checkpoints"]] == [8, 16, 24]
    [line] = [line for line in said.splitlines() if line.endswith("  best")]
    assert line.split()[:2] == ["16", f"{kept['checkpoints'][1][f'fd_means_{COUNT}']:.4g}"]
    assert f"Best: 16 images, Fréchet distance {kept['checkpoints'][1][f'fd_means_{COUNT}']:.4g}" in said
    assert not (run / "metrics.json").exists()

    for name in ("best", "16"):
        out = ["--out", str(tmp_path / f"{name}.png"), "--device", "cpu"]
        assert cli.main(["generate", "--model", str(run), "--seeds", "0-3", "--checkpoint", name, *out]) == 0
    assert (tmp_path / "best.png").read_bytes() == (tmp_path / "16.png").read_bytes()


def test_with_few_images_the_kernel_distance_decides(run):
    many = FeatureExtractor("pixels", nn.Flatten(), "all pixels")
    found = checkpoints.evaluate_checkpoints(run, images_of(run), features=many, num_images=COUNT, progress=False)
    assert found.best_by.type == f"kid_pixels_{COUNT}"
    assert found.table().split()[:2] == ["images", "kid"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["user/name"], "--all measures the checkpoints of a run folder, but 'user/name' is no local folder"),
        (["{run}", "--picture", "near.png"], "--picture shows a single model; leave out --all"),
        (["{bare}"], "has neither checkpoints nor snapshots to measure"),
    ],
    ids=["hub", "picture", "nothing"],
)
def test_mistakes(run, tmp_path, capsys, arguments, message):
    save_repository(tmp_path / "bare", Generator(GENERATOR))
    named = [each.format(run=run, bare=tmp_path / "bare") for each in arguments]
    data = ["--dataset", str(tmp_path / "pictures"), "--num_images", str(COUNT), "--device", "cpu"]
    assert cli.main(["evaluate", *named, "--all", "--features", "means", *data]) == 2
    assert message in capsys.readouterr().err
