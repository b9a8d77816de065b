import json
import logging
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from fagan_hf import export
from fagan_hf.architectures.conditioning import with_labels
from fagan_hf.architectures.configs import GeneratorConfig
from fagan_hf.architectures.presets import flagship
from fagan_hf.cli import main
from fagan_hf.export import METADATA_FILE, export_onnx, export_torch, generator_file, tracing
from fagan_hf.layers import override_alpha
from fagan_hf.layers.functional import attention_kernel
from fagan_hf.models import Generator
from tests.small import DISCRIMINATOR, GENERATOR, WITHOUT_ATTENTION, with_gates

LABELS = ("beard", "hair=red", "hair=black")
CONFIGS = {
    "small": GENERATOR,
    "projection": with_labels((GENERATOR, DISCRIMINATOR), LABELS, "projection")[0],
    "concatenation": with_labels((GENERATOR, DISCRIMINATOR), LABELS, "concatenation")[0],
    "flagship": flagship(image_size=16, latent_dim=8, generator=(16, 16, 8), discriminator=(8, 8))[0],
    # Traced in a tenth of the time.
    "no attention": WITHOUT_ATTENTION,
    "no attention, labels": with_labels((WITHOUT_ATTENTION, DISCRIMINATOR), LABELS, "concatenation")[0],
}
BATCHES = (1, 2, 5, 7)


def build(name):
    """Make a generator in which every part has an effect."""
    generator = with_gates(Generator(CONFIGS[name]))
    for parameter in generator.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return generator


def inputs_of(generator, batch):
    latents, labels = torch.randn(batch, generator.config.latent_dim), torch.rand(batch, len(LABELS))
    return (latents, labels) if generator.config.num_labels else (latents,)


def run_onnx(path):
    session = onnxruntime.InferenceSession(path)
    names = [each.name for each in session.get_inputs()]
    return lambda *inputs: torch.from_numpy(
        session.run(["images"], dict(zip(names, (each.numpy() for each in inputs), strict=True)))[0]
    )


@torch.no_grad()
def assert_same(generator, exported):
    for batch in BATCHES:
        inputs = inputs_of(generator, batch)
        torch.testing.assert_close(exported(*inputs), generator(*inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["small", "projection", "flagship"])
def test_onnx_gives_the_generators_images_at_any_batch_size(name, tmp_path, recwarn, capfd, caplog):
    generator = build(name)
    path = tmp_path / "new" / "generator.onnx"
    result = export_onnx(generator, str(path))
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert [each.name for each in path.parent.iterdir()] == ["generator.onnx"]  # weights inside
    assert (result.path, result.opset, result.num_bytes) == (path, 18, path.stat().st_size)
    assert 0 <= result.max_difference <= 1e-5
    assert_same(generator, run_onnx(path))

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    size = generator.config.image_size
    shapes = {
        each.name: [dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim]
        for each in (*model.graph.input, *model.graph.output)
    }
    labels = {"labels": ["batch", 3]} if generator.config.num_labels else {}
    expected = {"latents": ["batch", generator.config.latent_dim], **labels, "images": ["batch", 3, size, size]}
    assert shapes == expected
    operators = {node.op_type for node in model.graph.node}
    if name == "flagship":  # its normalization divides by square roots
        operators -= {"ReduceMean", "ReduceSum", "Sqrt", "Div"}
    assert not {each for each in operators if each.startswith("Reduce") or "Norm" in each or each in ("Div", "Sqrt")}
    assert not [each.name for each in model.graph.initializer if "parametrizations" in each.name]
    assert not any(path in model.SerializeToString() for path in (b"site-packages", b".py"))  # paths of this machine

    assert model.producer_name == "fagan_hf"
    metadata = {each.key: each.value for each in model.metadata_props}
    assert GeneratorConfig.from_dict(json.loads(metadata["config"])) == generator.config
    assert json.loads(metadata["label_frequencies"]) == ([0.5, 0.5, 0.5] if labels else None)
    assert "clamp(round(127.5 * x + 127.5), 0, 255)" in metadata["images"]


@pytest.mark.parametrize("name", ["concatenation", "flagship"])
def test_torch_gives_the_generators_images_at_any_batch_size(name, tmp_path, recwarn, capfd, caplog):
    generator = build(name)
    path = tmp_path / "generator.pt2"
    result = export_torch(generator, path)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert (result.path, result.opset, result.num_bytes) == (path, None, path.stat().st_size)
    program, metadata = load_torch(path)
    assert_same(generator, program.module())
    assert not [key for key in program.state_dict if "parametrizations" in key]
    assert GeneratorConfig.from_dict(metadata["config"]) == generator.config
    assert str(generator_file.__file__).encode() not in path.read_bytes()


def load_torch(path):
    extra = {METADATA_FILE: ""}
    with tracing.quiet(), path.open("rb") as file:  # torch warns about its own code
        program = torch.export.load(file, extra_files=extra)
    return program, json.loads(extra[METADATA_FILE])


def test_attention_holds_few_weights_at_a_time(tmp_path, monkeypatch):
    generator = build("small")
    positions = generator.config.image_size**2
    monkeypatch.setattr(tracing, "_WEIGHTS_PER_CHUNK", 24 * positions)
    export_onnx(generator, tmp_path / "generator.onnx")
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "generator.onnx"))
    weights = {node.output[0] for node in model.graph.node if node.op_type == "Softmax"}
    shapes = [
        [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
        for value in model.graph.value_info
        if value.name in weights
    ]
    assert shapes == [[1, 16, 16], [1, 16, 16], [1, 24, 64], [1, 24, 64], [1, 16, 64]]
    assert_same(generator, run_onnx(tmp_path / "generator.onnx"))


@pytest.mark.parametrize("kernel", ["fused", "chunked"])
def test_attention_is_one_operation_whatever_is_fastest_here(kernel, tmp_path):
    generator = build("small")
    with attention_kernel(kernel):
        export_torch(generator, tmp_path / "generator.pt2")
    program, _ = load_torch(tmp_path / "generator.pt2")
    operations = [str(node.target) for node in program.graph.nodes]
    assert len([each for each in operations if "scaled_dot_product_attention" in each]) == 3
    assert not [each for each in operations if "bmm" in each or "softmax" in each]
    assert_same(generator, program.module())


def test_half_precision_training_mode_and_turned_gates(tmp_path):
    generator = build("small").bfloat16().train()
    with override_alpha(generator, 0.8):
        export_torch(generator, tmp_path / "generator.pt2")
    assert generator.training
    assert generator.dtype == torch.bfloat16
    reference = generator.float().eval()
    with override_alpha(reference, 0.8):
        assert_same(reference, load_torch(tmp_path / "generator.pt2")[0].module())


@pytest.mark.parametrize("write", [export_onnx, export_torch])
def test_a_mismatch_is_refused_and_leaves_no_file(write, tmp_path, monkeypatch):
    fold = Generator.fold

    def fold_wrongly(self):
        folded = fold(self)
        next(folded.layers[0].parameters()).data += 0.01
        return folded

    monkeypatch.setattr(Generator, "fold", fold_wrongly)
    (tmp_path / "before").write_text("of before")
    path = tmp_path / ("new" if write is export_onnx else "before")
    with pytest.raises(
        ValueError, match=r"images differ from the generator's by up to .*rounding explains at most 0\.0001"
    ):
        write(build("no attention"), path)
    assert [each.name for each in tmp_path.iterdir()] == ["before"]
    assert (tmp_path / "before").read_text() == "of before"


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'need {package} .*pip install "fagan-hf\[export\]"'):
        export_onnx(build("small"), tmp_path / "generator.onnx")
    assert not list(tmp_path.iterdir())


def test_what_is_too_large_for_one_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(generator_file, "_PROTOBUF_LIMIT", 1000)
    with pytest.raises(ValueError, match=r"at most .* GB \(protobuf limit\).*--format torch"):
        export_onnx(build("small"), tmp_path / "generator.onnx")


@pytest.fixture
def model(tmp_path):
    build("no attention, labels").save_pretrained(tmp_path / "model" / "generator")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("format_name", "file", "facts"),
    [("onnx", "onnx/generator.onnx", "opset 18"), ("torch", "torch_export/generator.pt2", " MB")],
)
def test_the_command(format_name, file, facts, model, capsys):
    assert main(["export", str(model), "--format", format_name]) == 0
    out = capsys.readouterr().out
    assert f"{model / file}: 0." in out
    assert facts in out
    assert "at most" in out
    assert f"each from 0 to 1: {', '.join(LABELS)}" in out
    lines = out[out.index("import ") :]
    names = {}
    with tracing.quiet():
        exec(lines, names)
    assert np.shape(names["images"]) == (4, 3, 8, 8)


def test_the_command_writes_where_it_is_told(model, tmp_path, monkeypatch, capsys):
    written = []

    def write(generator, path):
        written.append(path)
        return export.Export(path, 1, 0.0, None)

    monkeypatch.setattr(export, "export_torch", write)
    monkeypatch.setattr("fagan_hf.commands.export.load_generator", lambda options: build("small"))
    for arguments in (["--out", str(tmp_path / "mine.pt2")], []):
        assert main(["export", "user/name", "--format", "torch", *arguments]) == 0
    assert [str(path) for path in written] == [str(tmp_path / "mine.pt2"), "generator.pt2"]
    assert main(["export", str(model), "--format", "torch", "--out", str(tmp_path)]) == 2
    assert "is a folder; use a file, like" in capsys.readouterr().err


def test_the_commands_format_is_checked(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["export", "x", "--format", "tflite"])
    assert "invalid choice: 'tflite' (choose from " in capsys.readouterr().err
