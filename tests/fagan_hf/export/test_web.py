import json
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from fagan_hf.architectures.conditioning import with_labels
from fagan_hf.attention_maps import capture_attention
from fagan_hf.attention_maps.pictures import weights_of
from fagan_hf.cli import main
from fagan_hf.export import export_web, half_precision, web
from fagan_hf.hub.repository import save_repository
from fagan_hf.latent_space import Directions
from fagan_hf.layers import AttentionLayer, FullAttention, SelfAttention, override_alpha
from fagan_hf.models import Generator
from fagan_hf.sampling.images import to_uint8
from fagan_hf.utils.files import sha256
from tests.small import DISCRIMINATOR, GENERATOR, WITHOUT_ATTENTION, with_gates
from tests.traces import keep_traces

LABELS = ("beard", "hair=red", "hair=black")
CONDITIONAL = with_labels((GENERATOR, DISCRIMINATOR), LABELS, "projection")[0]
CONCATENATED = with_labels((GENERATOR, DISCRIMINATOR), LABELS, "concatenation")[0]
CORNERS = [(0, 0), (0, 7), (7, 0), (7, 7)]


def build(config=GENERATOR):
    """Make a generator in which every part has an effect."""
    torch.manual_seed(0)
    generator = with_gates(Generator(config))
    for parameter in generator.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return generator


def with_last_layer(config, **options):
    *others, last = config.layers
    return replace(config, layers=(*others, replace(last, **options)))


CONFIGS = {
    "small": GENERATOR,
    "projection": CONDITIONAL,
    "concatenation, gray": with_last_layer(CONCATENATED, out_channels=1),
    "pooled keys, transparent": with_last_layer(GENERATOR, out_channels=4, key_pooling=2),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Export each generator once, because tracing takes seconds."""

    @cache
    def export(name):
        generator = build(CONFIGS[name])
        folder = tmp_path_factory.mktemp("web")
        with pytest.MonkeyPatch.context() as monkeypatch:
            keep_traces(monkeypatch)
            return generator, folder, export_web(generator, folder)

    return export


def run(folder, **inputs):
    session = onnxruntime.InferenceSession(folder / "generator.onnx")
    names = [each.name for each in session.get_outputs()]
    outputs = session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
    return dict(zip(names, map(torch.from_numpy, outputs), strict=True))


def described(folder):
    return json.loads((folder / "web.json").read_text())


def inputs_of(generator, batch, positions, gates=None, terms=(1.0, 1.0)):
    latents, labels = torch.randn(batch, generator.config.latent_dim), torch.rand(batch, len(LABELS))
    layers = [each for each in generator.modules() if isinstance(each, AttentionLayer)]
    return {
        "latents": latents,
        **({"labels": labels} if generator.config.num_labels else {}),
        "gates": torch.tensor(gates or [float(each.gate) for each in layers]),
        "terms": torch.tensor([terms] * len(layers)),
        "positions": torch.tensor(positions),
    }


def assert_levels(images, expected, allowed=1):
    pixels, wanted = (to_uint8(each).astype(int) for each in (images, expected))
    assert abs(pixels - wanted).max() <= allowed


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_pixels_maps_and_branches_are_the_models(name, exported):
    generator, folder, result = exported(name)
    assert (result.max_levels <= 1, result.max_weight_difference <= 1e-3) == (True, True)
    for batch, positions in ((1, [(3, 5)]), (2, CORNERS), (5, [*CORNERS, (1, 6)])):
        inputs = inputs_of(generator, batch, positions)
        outputs = run(folder, **inputs)
        with capture_attention(generator, positions) as captured:
            images = generator(inputs["latents"], inputs.get("labels"))
        assert_levels(outputs["images"], images)
        assert len(captured) == 3
        for index, layer in enumerate(captured.values()):
            for place, position in enumerate(positions):
                expected = weights_of(layer, position, 8)
                np.testing.assert_allclose(outputs[f"attention_{index}"][:, place], expected, atol=1e-3)
            plain, gathered = layer.plain, layer.gate * layer.gathered
            if index != 1:  # SAGAN's adds to its input
                plain = (1 - layer.gate) * plain
            for kind, term in (("convolution", plain), ("gathered", gathered)):
                expected = term.square().mean(1).sqrt()
                torch.testing.assert_close(outputs[f"{kind}_{index}"], expected, rtol=0, atol=0.01 * expected.max())
    shapes = [(each["query_shape"], each["key_shape"]) for each in described(folder)["layers"]]
    last = [4, 4] if "pooled" in name else [8, 8]
    assert shapes == [([4, 4], [4, 4]), ([4, 4], [4, 4]), ([8, 8], last)]


@torch.no_grad()
def test_gates_and_terms_are_inputs(exported):
    _, folder, _ = exported("small")
    generator = build()
    for gates in ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [-0.4, 0.6, 0.9]):
        inputs = inputs_of(generator, 2, [(0, 0)], gates)
        with override_alpha(generator, dict(zip(("layers.0", "layers.1", "layers.2"), gates, strict=True))):
            assert_levels(run(folder, **inputs)["images"], generator(inputs["latents"]))
    # Without its attention a layer is its convolution times (1 - alpha), SAGAN's is its input.
    inputs = inputs_of(generator, 2, [(0, 0)], terms=(1.0, 0.0))

    def convolution_only(layer, args, output):
        plain, _ = layer.branches(*args)
        return plain if isinstance(layer, SelfAttention) else (1 - layer.gate) * plain

    for layer in generator.layers:
        layer.register_forward_hook(convolution_only)
    assert_levels(run(folder, **inputs)["images"], generator(inputs["latents"]))


@torch.no_grad()
def test_a_network_without_attention_has_no_inputs_for_it(tmp_path):
    generator = build(WITHOUT_ATTENTION)
    export_web(generator, tmp_path)
    latents = torch.randn(3, 8)
    outputs = run(tmp_path, latents=latents)
    assert list(outputs) == ["images"]
    assert_levels(outputs["images"], generator(latents))
    assert described(tmp_path)["layers"] == []


def test_the_description(tmp_path, monkeypatch):
    keep_traces(monkeypatch)
    generator = build(CONDITIONAL)
    generator.label_frequencies = torch.tensor([0.25, 0.1, 0.9])
    directions = Directions(("beard",), torch.randn(1, 8), (0.5,))
    result = export_web(generator, tmp_path, name="faces", directions=directions, facts={"license": "mit"})
    web_json = described(tmp_path)
    assert [each.name for each in sorted(tmp_path.iterdir())] == ["generator.onnx", "web.json"]
    assert (web_json["format"], web_json["version"], web_json["name"]) == ("fagan_hf.web", 1, "faces")
    assert web_json["num_bytes"] == result.num_bytes == (tmp_path / web_json["model"]).stat().st_size
    assert web_json["sha256"] == sha256(tmp_path / web_json["model"])
    assert (web_json["image_size"], web_json["channels"], web_json["latent_dim"]) == (8, 3, 8)
    assert [(each["name"], np.float32(each["frequency"])) for each in web_json["labels"]] == [
        ("beard", np.float32(0.25)),
        ("hair=red", np.float32(0.1)),
        ("hair=black", np.float32(0.9)),
    ]
    assert web_json["label_groups"] == [["beard"], ["hair=red", "hair=black"]]
    [direction] = web_json["directions"]
    assert (direction["name"], direction["correlation"]) == ("beard", 0.5)
    assert torch.equal(torch.tensor([direction["vector"]]), directions.vectors)
    first = web_json["layers"][0]
    assert (first["name"], first["gate_name"], np.float32(first["gate"])) == ("layers.0", "alpha", np.float32(0.3))
    assert web_json["layers"][1]["gate_name"] == "gamma"
    assert web_json["facts"] == {"license": "mit"}


def test_free_sizes_no_traces_of_this_machine_and_the_same_bytes_again(exported, tmp_path):
    _, folder, _ = exported("projection")
    export_web(build(CONDITIONAL), tmp_path)
    first = (folder / "generator.onnx").read_bytes()
    assert first == (tmp_path / "generator.onnx").read_bytes()
    assert not any(trace in first for trace in (b"site-packages", b".py"))
    model = onnx.load_from_string(first)
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        each.name: [dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim]
        for each in (*model.graph.input, *model.graph.output)
    }
    assert shapes["latents"] == ["batch", 8]
    assert shapes["labels"] == ["batch", 3]
    assert (shapes["gates"], shapes["terms"], shapes["positions"]) == ([3], [3, 2], ["count", 2])
    assert shapes["images"] == ["batch", 3, 8, 8]
    assert shapes["attention_2"] == ["batch", "count", 8, 8]
    assert shapes["gathered_2"] == ["batch", 8, 8]


def test_weights_are_halved_only_if_the_model_agrees(tmp_path, monkeypatch):
    keep_traces(monkeypatch)
    generator = build()
    monkeypatch.setattr(half_precision, "_FROM_ELEMENTS", 2)
    halved = export_web(generator, tmp_path / "halved")
    monkeypatch.setattr(web, "MAX_WEIGHT_DIFFERENCE", 1e-6)
    whole = export_web(generator, tmp_path / "whole")
    assert (halved.precision, whole.precision) == ("float16", "float32")
    assert described(tmp_path / "halved")["precision"] == "float16"
    assert halved.max_weight_difference > 1e-6 >= whole.max_weight_difference
    parameters = sum(parameter.nbytes for parameter in generator.parameters())
    assert whole.num_bytes - halved.num_bytes > 0.4 * parameters


class Windowed(FullAttention):
    """Attends to the upper half only, and does not say so."""

    def attend(self, query, key, value):
        rows = key.shape[2] // 2
        return super().attend(query, key[:, :, :rows], value[:, :, :rows])


class Branching(FullAttention):
    """Depends on a value in a way that no graph can hold."""

    def branches(self, feature_map, labels=None):
        plain, gathered = super().branches(feature_map, labels)
        return (plain, gathered) if feature_map.sum() > 1e6 else (plain + 0.01, gathered)


def with_first_layer(kind):
    generator = build()
    generator.layers[0].__class__ = kind
    return generator


def test_a_layer_that_hides_its_weights_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Generator, "fold", lambda self: self)
    with pytest.raises(ValueError, match=r"layers\.0: weights\(\) times the value differs .*Windowed"):
        export_web(with_first_layer(Windowed), tmp_path / "web")
    assert not (tmp_path / "web").exists()


def test_a_layer_that_no_graph_can_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Generator, "fold", lambda self: self)
    with pytest.raises(ValueError, match=r"can't be traced: .*torch operations only, and not branch on tensor values"):
        export_web(with_first_layer(Branching), tmp_path / "web")
    assert not (tmp_path / "web").exists()


def test_a_mismatch_is_refused_and_leaves_what_was_there(tmp_path, monkeypatch):
    fold = Generator.fold

    def fold_wrongly(self):
        folded = fold(self)
        next(folded.layers[0].parameters()).data += 0.1
        return folded

    monkeypatch.setattr(Generator, "fold", fold_wrongly)
    (tmp_path / "web.json").write_text("of before")
    with pytest.raises(ValueError, match=r"differs from the generator by \d+ of 256 levels .*Nothing was written"):
        export_web(build(WITHOUT_ATTENTION), tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["web.json"]
    assert (tmp_path / "web.json").read_text() == "of before"


def test_what_is_too_large_for_a_page_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(web, "MAX_BYTES", 10_000)
    with pytest.raises(ValueError, match=r"takes at least 0\.\d MB.*--format onnx"):
        export_web(build(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_directions_of_another_model_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"directions are \[1, 9\]; this generator's latents have 8 numbers"):
        export_web(build(), tmp_path, directions=Directions(("beard",), torch.randn(1, 9), (0.5,)))


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'need {package} .*pip install "fagan-hf\[export\]"'):
        export_web(build(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, capsys, monkeypatch):
    keep_traces(monkeypatch)
    folder = tmp_path / "faces"
    save_repository(folder, build(), facts={"training": {"images_seen": 640}, "weights_license": "mit"})
    Directions(("beard",), torch.randn(1, 8), (0.5,)).save(folder / "directions.safetensors")
    assert main(["export", str(folder), "--format", "web"]) == 0
    out = capsys.readouterr().out
    assert f"{folder / 'web'}: 0." in out
    assert "of 256 levels" in out
    web_json = described(folder / "web")
    assert (web_json["name"], web_json["directions"][0]["name"]) == ("faces", "beard")
    assert web_json["facts"] == {"license": "mit", "images_seen": 640}
    (tmp_path / "file").write_text("")
    assert main(["export", str(folder), "--format", "web", "--out", str(tmp_path / "file")]) == 2
    assert "is a file; use a folder, like" in capsys.readouterr().err
    save_repository(folder, with_gates(build(), 0.4))
    assert not (folder / "web").exists(), "it described other weights"
