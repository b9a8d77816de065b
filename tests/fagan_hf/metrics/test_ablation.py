import json
from importlib import import_module

import numpy as np
import pytest
from PIL import Image

from fagan_hf import cli
from fagan_hf.data.image_source import ImageSource
from fagan_hf.data.prepare import prepare_images
from fagan_hf.hub.repository import save_repository
from fagan_hf.layers import gates, override_alpha
from fagan_hf.metrics import features
from fagan_hf.metrics.ablation import ablate
from fagan_hf.metrics.evaluate import evaluate
from fagan_hf.models import Generator
from tests.small import EXTRACTOR, GENERATOR, with_gates

OPTIONS = {"features": EXTRACTOR, "num_images": 20, "progress": False}


@pytest.fixture
def generator():
    """A generator whose three gates differ."""
    generator = with_gates(Generator(GENERATOR))
    for index, gate in enumerate(gates(generator).values()):
        gate.data.fill_(0.3 + 0.2 * index)
    return generator


@pytest.fixture
def run(tmp_path, monkeypatch, generator):
    monkeypatch.setenv("FAGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(features.FEATURES, "effnetlite0", lambda: EXTRACTOR)
    (tmp_path / "pictures").mkdir()
    for index, color in enumerate(np.random.default_rng(0).integers(0, 256, (50, 3), dtype=np.uint8)):
        Image.new("RGB", (8, 8), tuple(map(int, color))).save(tmp_path / f"pictures/{index}.png")
    save_repository(tmp_path / "run", generator)
    recipe = {"name": "run", "model": "x", "dataset": str(tmp_path / "pictures")}
    (tmp_path / "run/recipe.yaml").write_text(json.dumps(recipe))
    return tmp_path / "run"


@pytest.fixture
def images(run):
    return prepare_images(ImageSource(str(run.parent / "pictures"), resolution=8), progress=False)


def values(metrics):
    return [each.value for each in metrics]


def test_every_gate_is_closed_by_itself_and_the_real_images_are_looked_at_once(generator, images, monkeypatch):
    calls, module = [], import_module("fagan_hf.metrics.evaluate")
    look = module.real_features
    monkeypatch.setattr(module, "real_features", lambda *given, **more: calls.append(1) or look(*given, **more))
    found = ablate(generator, images, alone=True, **OPTIONS)
    assert len(calls) == 1
    names = list(gates(generator))
    assert list(found.without) == list(found.alone) == names
    assert found.values == pytest.approx(dict(zip(names, (0.3, 0.5, 0.7), strict=True)))
    assert values(found.trained) == values(evaluate(generator, images, **OPTIONS).metrics())

    def measured(setting):
        with override_alpha(generator, setting):
            return values(evaluate(generator, images, **OPTIONS).metrics())

    assert values(found.closed) == measured(0.0)
    for name in names:
        assert values(found.without[name]) == measured({name: 0.0})
        assert values(found.alone[name]) == measured({other: 0.0 for other in names if other != name})
    every = [found.trained, found.closed, *found.without.values(), *found.alone.values()]
    assert len({tuple(values(each)) for each in every}) == len(every)


def test_sufficiency_is_measured_if_asked_for(generator, images):
    assert ablate(generator, images, **OPTIONS).alone == {}


def test_an_error_leaves_no_gate_closed(generator, images):
    with pytest.raises(ValueError, match="num_images is 1,000"):
        ablate(generator, images, features=EXTRACTOR, num_images=1000, progress=False)
    assert generator.layers[0].gate is generator.layers[0].alpha


def test_a_generator_without_gates(images):
    with pytest.raises(ValueError, match="no attention layer, so there is no gate to close"):
        ablate(Generator.from_preset("dcgan-64"), images, **OPTIONS)


def test_inspect_prints_what_the_gates_are_worth(run, generator, images, capsys):
    assert cli.main(["inspect", str(run), "--necessity", "--num-images", "20", "--seeds", "0"]) in (0, None)
    out = capsys.readouterr().out
    assert ablate(generator, images, **OPTIONS).table() in out
    for words in ("without layers.0.alpha", "+0.300", "all at 0"):
        assert words in out


def test_inspect_needs_to_be_asked_for_it(run, capsys):
    assert cli.main(["inspect", str(run), "--num-images", "20"]) == 2
    assert "--num-images requires --necessity" in capsys.readouterr().err


def test_evaluate_with_other_gates_is_not_saved(run, generator, images, capsys):
    (run / "facts.json").write_text("{}")
    command = ["evaluate", str(run), "--num-images", "20", "--features", "effnetlite0", "--device", "cpu"]
    assert cli.main([*command, "--alpha", "0"]) in (0, None)
    out = capsys.readouterr().out
    with override_alpha(generator, 0.0):
        closed = evaluate(generator, images, **OPTIONS).metrics()
    for each in closed:
        assert f"{each.value:.4g}" in out
    assert "not saved with the model" in out
    assert not (run / "metrics.json").exists()
    assert cli.main(command) in (0, None)
    assert (run / "metrics.json").exists()


def test_gates_of_one_model_only(run, capsys):
    assert cli.main(["evaluate", str(run), "--all", "--alpha", "0"]) == 2
    assert "--alpha overrides the gates of one model" in capsys.readouterr().err
