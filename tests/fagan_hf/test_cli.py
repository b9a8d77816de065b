import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fagan_hf import FAGANPipeline
from fagan_hf.architectures.conditioning import with_labels
from fagan_hf.architectures.specs import LAYER_SPECS
from fagan_hf.cli import main
from fagan_hf.hub.repository import save_repository
from fagan_hf.layers import LAYERS
from fagan_hf.models import Generator
from fagan_hf.sampling import images as sampling
from fagan_hf.sampling import standing_statistics
from fagan_hf.sampling.standing_statistics import measure_batch_statistics
from tests.small import DISCRIMINATOR, GENERATOR, with_gates


@pytest.fixture
def model(tmp_path):
    save_repository(tmp_path / "model", Generator(GENERATOR).eval())
    return str(tmp_path / "model")


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_a_grid(model, tmp_path, capsys):
    out = tmp_path / "new" / "grid.png"
    assert main(["generate", "--model", model, "--seeds", "0-5", "--columns", "3", "--out", str(out)]) == 0
    grid = pixels(out)
    assert grid.shape == (16, 24, 3)
    fourth = FAGANPipeline.from_pretrained(model)(seeds=[4]).images[0]
    assert np.array_equal(grid[8:, 8:16], np.asarray(fourth))
    assert f"6 pictures in {out}" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".PNG"])
def test_other_formats(model, tmp_path, suffix):
    assert main(["generate", "--model", model, "--out", str(tmp_path / f"grid{suffix}")]) == 0
    assert pixels(tmp_path / f"grid{suffix}").shape == (32, 32, 3)


def test_single_files(model, tmp_path):
    arguments = ["--seeds", "7,3", "--truncation", "0.5", "--batch_size", "1", "--out", str(tmp_path / "folder")]
    assert main(["generate", "--model", model, *arguments]) == 0
    names = sorted(path.name for path in (tmp_path / "folder").iterdir())
    assert names == ["seed-00000003.png", "seed-00000007.png"]
    expected = FAGANPipeline.from_pretrained(model)(seeds=[7], truncation=0.5).images[0]
    assert np.array_equal(pixels(tmp_path / "folder" / names[1]), np.asarray(expected))


@pytest.fixture
def wide_model(tmp_path):
    """A model wide enough that memory layouts change the last digits, whose images have contrast."""
    generator = with_gates(Generator.from_preset("fagan-plain-32"))
    measure_batch_statistics(generator, [(torch.randn(64, 64), None)])
    save_repository(tmp_path / "wide", generator)
    return str(tmp_path / "wide")


@pytest.mark.parametrize("truncation", [1.0, 0.7])
def test_pictures_are_the_pipelines_to_the_pixel(wide_model, tmp_path, monkeypatch, truncation):
    """Even though weights are folded."""
    monkeypatch.setattr(standing_statistics, "BATCHES", 2)
    folder = tmp_path / "folder"
    flags = ["--truncation", str(truncation), "--alpha", "layers.3=0.8", "--out", str(folder)]
    assert main(["generate", "--model", wide_model, "--seeds", "0-9", *flags]) == 0
    pipe = FAGANPipeline.from_pretrained(wide_model)
    expected = pipe(seeds=range(10), truncation=truncation, alpha={"layers.3": 0.8}).images
    for path, image in zip(sorted(folder.iterdir()), expected, strict=True):
        assert np.array_equal(pixels(path), np.asarray(image))


def test_what_draws_is_folded_and_lies_channels_last(wide_model, tmp_path, monkeypatch):
    drawn = []

    def sample(generator, *arguments, **options):
        drawn.append(generator)
        return sampling_sample(generator, *arguments, **options)

    sampling_sample = sampling.sample
    monkeypatch.setattr(sampling, "sample", sample)
    film = ["interpolate", "--frames", "1", "--seeds", "0,1", "--out", str(tmp_path / "film.gif")]
    for command in (["generate", "--seeds", "0", "--out", str(tmp_path / "x.png")], film):
        assert main([*command, "--model", wide_model]) == 0
    for generator in drawn:
        assert not [name for name in generator.state_dict() if "parametrizations" in name]
        for layer in generator.layers:
            assert layer.value.weight.is_contiguous(memory_format=torch.channels_last)
    assert len(drawn) == 2


def test_half_precision(wide_model, tmp_path, monkeypatch):
    """Images are within a few levels of those in single precision, and no float32 weight is used."""
    dtypes = []

    def sample(generator, *arguments, **options):
        dtypes.extend(parameter.dtype for parameter in generator.parameters())
        for images in sampling_sample(generator, *arguments, **options):
            assert images.dtype == torch.float32
            yield images

    sampling_sample = sampling.sample
    expected = np.stack(FAGANPipeline.from_pretrained(wide_model)(seeds=range(4)).images)
    monkeypatch.setattr(sampling, "sample", sample)
    arguments = ["generate", "--model", wide_model, "--seeds", "0-3", "--columns", "1", "--dtype", "bfloat16"]
    assert main([*arguments, "--out", str(tmp_path / "x.png")]) == 0
    assert set(dtypes) == {torch.bfloat16}
    difference = abs(pixels(tmp_path / "x.png").reshape(expected.shape).astype(int) - expected)
    assert expected.std() > 20
    assert 0 < difference.mean() < 1
    assert difference.max() <= 10
    with pytest.raises(SystemExit, match="2"):
        main([*arguments[:-1], "int8", "--out", str(tmp_path / "x.png")])


def test_generate_imports_nothing_that_it_does_not_use(model, tmp_path):
    """Each of these would add a second, or as much as importing torch."""
    unused = "diffusers accelerate datasets transformers matplotlib scipy onnx torch._dynamo torch._inductor sympy"
    code = (
        "import sys; from fagan_hf.cli import main\n"
        f"status = main(['generate', '--model', {model!r}, '--out', {str(tmp_path / 'x.png')!r}])\n"
        f"print(status, [name for name in {unused.split()} if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.endswith("\n0 []\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--model", "./nowhere"], "'./nowhere' is not a local folder"),
        (["--out", "grid.gif"], "--out is 'grid.gif'; it must end in .png"),
        (["--truncation", "-1"], "truncation is -1.0; it must be above 0"),
        (["--batch_size", "0"], "batch_size is 0"),
        (["--columns", "0"], "in 0 columns"),
        (["--device", "warp"], "device is 'warp', which can't be used here"),
    ],
)
def test_errors_are_words_and_a_status(model, tmp_path, monkeypatch, capsys, changes, message):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "--model", model, "--out", "grid.png", *changes]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fagan-hf: error: ")
    assert message in error
    assert not (tmp_path / "grid.png").exists()


@pytest.mark.parametrize("seeds", ["abc", "5-1", "0-9999999"])
def test_seeds_are_checked_before_anything_is_loaded(seeds, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["generate", "--model", "x", "--out", "y.png", "--seeds", seeds])
    assert f"seeds are '{seeds}'" in capsys.readouterr().err


def test_help_needs_no_torch():
    code = (
        "import sys; from fagan_hf.cli import main\ntry: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    assert "generate" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def conditional_model(tmp_path):
    generator = Generator(with_labels((GENERATOR, DISCRIMINATOR), ("beard", "hair=red", "hair=black"), "projection")[0])
    torch.nn.init.normal_(generator.layers[0].batch_norm.scale.weight)
    save_repository(tmp_path / "conditional", generator.eval())
    return str(tmp_path / "conditional")


def test_labels_and_gates(conditional_model, tmp_path):
    labels = ["--label", "beard=1", "--label", "hair=red"]
    out = tmp_path / "out.png"
    assert main(["generate", "--model", conditional_model, "--seeds", "3", "--out", str(out), *labels]) == 0
    pipe = FAGANPipeline.from_pretrained(conditional_model)
    assert np.array_equal(pixels(out), np.asarray(pipe(seeds=[3], labels={"beard": 1, "hair": "red"}).images[0]))

    dial = ["--alpha", "0.2", "--alpha", "layers.2=0.9"]
    assert main(["generate", "--model", conditional_model, "--seeds", "3", "--out", str(out), *labels, *dial]) == 0
    alpha = {"layers.0": 0.2, "layers.1": 0.2, "layers.2": 0.9}
    expected = pipe(seeds=[3], labels={"beard": 1, "hair": "red"}, alpha=alpha).images[0]
    assert np.array_equal(pixels(out), np.asarray(expected))


def test_a_row_for_each_label(conditional_model, tmp_path):
    out = tmp_path / "labels.png"
    flags = ["--by-label", "--seeds", "0-2", "--scale", "2"]
    assert main(["generate", "--model", conditional_model, "--out", str(out), *flags]) == 0
    grid = pixels(out)
    assert grid.shape[0] == 4 * 16  # beard no and yes, two colors
    pictures = grid[:, -3 * 16 :]
    expected = FAGANPipeline.from_pretrained(conditional_model)(seeds=[2], labels={"hair": "black"}).images[0]
    assert np.array_equal(pictures[-16::2, -16::2], np.asarray(expected))
    assert (grid[:, : -3 * 16] < 128).any()  # captions


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--label", "hair=red", "--label", "hair=black"], "--label gives hair twice, 'red' and 'black'"),
        (["--label", "beart=1"], "unknown label 'beart'; did you mean 'beard'? There are: beard, hair"),
        (["--label", "beard=3"], "label beard is '3'; it must be true, false, or a number from 0 to 1"),
        (["--alpha", "nan"], "alpha of layers.0.alpha is nan; it must be a finite number"),
        (["--alpha", "layers.7=1"], "unknown attention layer 'layers.7'; did you mean 'layers.2'?"),
        (["--by-label", "--label", "beard=1"], "don't combine it with --label, --columns"),
        (["--scale", "0"], "scale is 0"),
    ],
)
def test_labels_and_gates_that_are_none(conditional_model, tmp_path, capsys, flags, message):
    assert main(["generate", "--model", conditional_model, "--out", str(tmp_path / "x.png"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("flags", [["--label", "beard"], ["--alpha", "much"]])
def test_flags_are_checked_before_anything_is_loaded(flags, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["generate", "--model", "x", "--out", "y.png", *flags])
    assert f"is '{flags[1]}'; write it like" in capsys.readouterr().err


def test_labels_of_an_unconditional_model(model, tmp_path, capsys):
    for flags in (["--label", "beard=1"], ["--by-label"]):
        assert main(["generate", "--model", model, "--out", str(tmp_path / "x.png"), *flags]) == 2
        assert "this generator is unconditional" in capsys.readouterr().err


def test_negative_numbers_are_no_flags(model, tmp_path):
    folder = str(tmp_path / "out")
    sweep = ["--seeds", "1", "--alpha-sweep", "--pixels", "0,0", "--out", folder]
    assert main(["inspect", model, *sweep, "--alphas", "-0.5,0,0.5"]) == 0
    assert main(["generate", "--model", model, "--out", str(tmp_path / "x.png"), "--alpha", "-0.5"]) == 0


def test_layers_of_ones_own(model, tmp_path, capsys):
    (tmp_path / "own.py").write_text(
        "from dataclasses import dataclass\n"
        "from typing import ClassVar\n"
        "import torch\n"
        "from fagan_hf.architectures.configs import LayerSpec\n"
        "from fagan_hf.layers import register_layer\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class OwnSpec(LayerSpec):\n"
        "    type: ClassVar[str] = 'test_own'\n"
        "class Own(torch.nn.Identity):\n"
        "    pass\n"
        "register_layer(OwnSpec, Own)\n"
    )
    path = Path(model, "generator", "config.json")
    config = json.loads(path.read_text())
    config["layers"].append({"type": "test_own"})
    path.write_text(json.dumps(config))
    arguments = ["generate", "--model", model, "--seeds", "1", "--out", str(tmp_path / "x.png")]
    assert main(arguments) == 2
    assert "in the shell: --import" in capsys.readouterr().err
    try:
        assert main([*arguments, "--import", str(tmp_path / "own.py")]) == 0
        assert main(["inspect", model, "--seeds", "1", "--import", str(tmp_path / "own.py")]) == 0
        assert "test_own" in capsys.readouterr().out
        assert main([*arguments, "--import", "no_such_module"]) == 2
        assert "'no_such_module' is not a .py file and can't be imported" in capsys.readouterr().err
    finally:
        LAYER_SPECS.pop("test_own"), LAYERS.pop("test_own")


def test_a_mistyped_folder_and_a_file(model, tmp_path, capsys):
    (tmp_path / "GAN_GEN_10.pth").write_bytes(b"")
    out = str(tmp_path / "x.png")
    assert main(["generate", "--model", str(tmp_path / "modle"), "--out", out]) == 2
    assert f"is not a local folder (in {Path.cwd()}) (did you mean '{model}'?)" in capsys.readouterr().err
    assert main(["generate", "--model", str(tmp_path / "GAN_GEN_10.pth"), "--out", out]) == 2
    assert "is a file; give a run folder or a Hub id" in capsys.readouterr().err


def test_one_picture_is_one(model, tmp_path, capsys):
    assert main(["generate", "--model", model, "--seeds", "3", "--out", str(tmp_path / "x.png")]) == 0
    assert capsys.readouterr().out.startswith("1 picture in ")


def test_pictures_of_a_checkpoint_and_of_the_best(model, tmp_path, capsys):
    past = Generator(GENERATOR).eval()
    (tmp_path / "model/snapshots").mkdir()
    save_file(past.state_dict(), tmp_path / "model/snapshots/images-00000008.safetensors")
    (tmp_path / "model/evaluations.json").write_text('{"best": 8}')
    expected = FAGANPipeline(past)(seeds=[4]).images[0]
    for name in ("8", "best"):
        out = tmp_path / f"{name}.png"
        assert main(["generate", "--model", model, "--seeds", "4", "--checkpoint", name, "--out", str(out)]) == 0
        assert np.array_equal(pixels(out), np.asarray(expected))
    assert "best: 8 images" in capsys.readouterr().out
    assert main(["generate", "--model", model, "--checkpoint", "9", "--out", str(tmp_path / "9.png")]) == 2
    assert "has no checkpoint at 9 images; there are 8. The nearest is 8." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["generate", "--model", model, "--checkpoint", "newest", "--out", str(tmp_path / "9.png")])
    assert "checkpoint is 'newest'; write a number of images, like 81920, or best" in capsys.readouterr().err
