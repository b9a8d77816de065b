import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fagan_hf.architectures.conditioning import with_labels
from fagan_hf.attention_maps.report import inspect_layers
from fagan_hf.cli import main
from fagan_hf.hub.repository import save_repository
from fagan_hf.layers import override_alpha
from fagan_hf.layers.functional import attention_kernel
from fagan_hf.models import Discriminator, Generator
from fagan_hf.sampling.images import generate_images, latents_from_seeds
from tests.small import DISCRIMINATOR, GENERATOR, with_gates


@pytest.fixture
def generator():
    return with_gates(Generator(GENERATOR))


@pytest.fixture
def model(tmp_path, generator):
    """A run folder with both networks and metrics."""
    save_repository(tmp_path / "model", generator, Discriminator(DISCRIMINATOR).eval())
    lines = [{"images": images, "generator.layers.0.alpha": 0.001 * images} for images in (32, 64)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "model" / "metrics.jsonl").write_text(text)
    return str(tmp_path / "model")


@pytest.fixture
def generator_only(tmp_path, generator):
    save_repository(tmp_path / "alone", generator)
    return str(tmp_path / "alone")


@pytest.fixture
def without_attention(tmp_path):
    networks = Generator.from_preset("dcgan-64").eval(), Discriminator.from_preset("dcgan-64").eval()
    save_repository(tmp_path / "dcgan", *networks)
    return str(tmp_path / "dcgan")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_table(model, generator, capsys):
    assert main(["inspect", model, "--seeds", "0-4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    report = inspect_layers(generator, latents_from_seeds(range(5), 8))
    assert lines[0].startswith(f"generator: {sum(layer.parameters for layer in report):,} parameters, ")
    assert lines[1].split()[:5] == ["layer", "type", "size", "positions", "parameters"]
    assert len({len(line) for line in lines[1:5]}) == 1  # aligned
    third = report[2]
    assert lines[4].split() == [
        "layers.2", "full_attention", "8x8", "64", f"{third.parameters:,}", f"{third.flops / 1e6:.3f}", "+0.300",
        f"{100 * third.attention_energy:.1f}", f"{third.distance:.2f}", f"{third.uniform_distance:.2f}",
        f"{third.entropy:.3f}",
    ]  # fmt: skip
    assert lines[6].startswith("discriminator: ")
    assert lines[9].split()[:2] == ["layers.1", "conv"]
    assert lines[9].split()[6:] == ["-"] * 5
    assert "means over 5 seeds" in lines[-1]


def test_kernels(model, tmp_path, capsys):
    arguments = ["inspect", model, "--seeds", "0", "--kernels", "--pixels", "0,0", "--out", str(tmp_path / "out")]
    for dtype in ("float32", "bfloat16"):
        with attention_kernel("fused"):
            assert main([*arguments, "--dtype", dtype]) == 0
        lines = capsys.readouterr().out.splitlines()
        start = lines.index(f"generator's attention on cpu in {dtype}")
        assert lines[start + 1].split() == (
            ["layer", "kernel", "positions", "heads", "key", "size", "value", "size", "weights", "held"]
        )
        rows = [" ".join(line.split()) for line in lines[start + 2 : start + 5]]
        assert rows == [
            "layers.0 fused (flash) 16 1 1 -> 16 16 none",
            "layers.1 fused (flash) 16 1 2 -> 16 16 none",
            "layers.2 fused (flash) 64 1 2 -> 16 3 -> 16 none",
        ]
        start = lines.index(f"discriminator's attention on cpu in {dtype}")
        assert lines[start + 2].split()[:2] == ["layers.0", "fused"]
        assert not lines[start + 3]  # the other layer has no attention
        table = json.loads((tmp_path / "out" / "layers.json").read_text())
        assert table["generator"][2]["kernel"]["dtype"] == dtype
        assert table["discriminator"][0]["kernel"]["kernel_key_size"] == 16
        assert table["discriminator"][1]["kernel"] is None


def test_kernels_of_a_model_without_attention(without_attention, capsys):
    assert main(["inspect", without_attention, "--seeds", "0", "--kernels"]) == 0
    assert "'s attention" not in capsys.readouterr().out


def test_alpha_turns_the_gates_of_the_generator(model, capsys):
    assert main(["inspect", model, "--seeds", "0", "--alpha", "layers.1=-0.5"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("layers.")]
    assert [row[6] for row in rows] == ["+0.300", "-0.500", "+0.300", "+0.000", "-"]


def test_pictures(model, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    arguments = ["--seeds", "3,9,4", "--pictures", "2", "--pixels", "0,7 5,2", "--out", str(out)]
    assert main(["inspect", model, *arguments]) == 0
    pictures = [f"attention-{seed}-{pixel}.png" for seed in (3, 9) for pixel in ("0-7", "5-2")]
    assert names(out) == sorted([*pictures, "alpha.png", "layers.json"])
    printed = capsys.readouterr().out
    assert all(f"wrote {out / name}" in printed for name in names(out))
    shown = []
    for name in pictures:
        with Image.open(out / name) as image:
            shown.append(np.asarray(image))
    assert len({picture.shape for picture in shown}) == 1
    assert shown[0].shape[0] == 8 + 4 * (192 + 18 + 8)  # the generator has three layers, the image one more row
    assert len({picture.tobytes() for picture in shown}) == 4


def test_pictures_show_the_seeds_own_image(model, generator, tmp_path):
    assert main(["inspect", model, "--seeds", "3,9", "--pixels", "0,0", "--out", str(tmp_path / "out")]) == 0
    expected = generate_images(generator, latents_from_seeds([9], 8))[0]
    with Image.open(tmp_path / "out" / "attention-9-0-0.png") as image:
        pixels = np.asarray(image)
    color = expected[4, 4]
    at = (pixels[8 + 4 * 24 + 12] == color).all(-1)
    assert at.sum() >= 2 * 24  # in the generator's panel and in the discriminator's


def test_places_spread_over_the_image_are_the_default(generator_only, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["inspect", generator_only, "--seeds", "1", "--out", str(out)]) == 0
    pixels = ["2-2", "2-6", "4-4", "6-2", "6-6"]
    assert names(out) == [*(f"attention-1-{pixel}.png" for pixel in pixels), "layers.json"]
    printed = capsys.readouterr().out
    assert f"{generator_only} has no discriminator: only the generator is inspected" in printed
    assert "discriminator:" not in printed.replace("no discriminator:", "")


def test_the_table_as_json(model, generator, tmp_path):
    assert main(["inspect", model, "--seeds", "0-2", "--pixels", "0,0", "--out", str(tmp_path / "out")]) == 0
    table = json.loads((tmp_path / "out" / "layers.json").read_text())
    assert {name: len(layers) for name, layers in table.items()} == {"generator": 3, "discriminator": 2}
    expected = inspect_layers(generator, latents_from_seeds(range(3), 8))[1]
    assert table["generator"][1]["entropy"] == pytest.approx(expected.entropy)
    assert table["generator"][1]["flops"] == expected.flops
    assert table["discriminator"][1]["gate"] is None


def test_the_sweep(model, generator, tmp_path):
    arguments = ["--seeds", "5,6", "--alpha-sweep", "--alphas", "0,0.5", "--layer", "layers.2", "--pixels", "0,0"]
    assert main(["inspect", model, *arguments, "--out", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "alpha-sweep.png") as image:
        strip = np.asarray(image)
    assert strip.shape[0] == 26 + 2 * 98 + 8
    with override_alpha(generator, {"layers.2": 0.5}):
        last = generate_images(generator, latents_from_seeds([6], 8))[0]
    right, bottom = strip.shape[1] - 10, 26 + 98 + 96
    assert np.array_equal(strip[bottom - 96 : bottom : 12, right - 96 : right : 12], last)


def test_the_sweep_has_five_alphas_by_default(model, tmp_path):
    arguments = ["--seeds", "5", "--alpha_sweep", "--pixels", "0,0", "--out", str(tmp_path / "out")]
    assert main(["inspect", model, *arguments]) == 0
    with Image.open(tmp_path / "out" / "alpha-sweep.png") as image:
        assert 6 * 98 < image.width < 7 * 98


def test_a_relative_sweep(model, generator, tmp_path):
    arguments = ["--seeds", "5", "--alpha-sweep", "--relative", "--pixels", "0,0", "--out", str(tmp_path / "out")]
    assert main(["inspect", model, *arguments]) == 0
    with Image.open(tmp_path / "out" / "alpha-sweep-relative.png") as image:
        strip = np.asarray(image)
    with override_alpha(generator, 0.6):  # all gates are 0.3, the last column has them twice
        [last] = generate_images(generator, latents_from_seeds([5], 8))
    assert np.array_equal(strip[26 : 26 + 96 : 12, -106:-10:12], last)


def test_without_matplotlib_all_else_is_drawn(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    out = tmp_path / "out"
    assert main(["inspect", model, "--seeds", "1", "--pixels", "0,0", "--out", str(out)]) == 0
    assert names(out) == ["attention-1-0-0.png", "layers.json"]
    assert f"skipped {out / 'alpha.png'}: " in capsys.readouterr().out


def test_a_model_without_attention_has_a_table_and_no_pictures(without_attention, tmp_path, capsys):
    assert main(["inspect", without_attention, "--seeds", "0"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("layers.")]
    assert len(rows) == 10
    assert all(row[6:] == ["-"] * 5 and row[3] == "-" for row in rows)
    assert main(["inspect", without_attention, "--seeds", "0", "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("generator: ")
    assert f"{without_attention} has no attention layers, so there are no attention maps" in captured.err
    assert names(tmp_path / "out") == ["layers.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--pixels", "40,3"], "position is (40, 3); it must be (row, column), whole numbers from (0, 0) to (7, 7)"),
        (["--alpha-sweep", "--layer", "layers.9"], "unknown attention layer 'layers.9'; did you mean"),
        (["--alpha-sweep", "--alphas", "0,nan"], "is nan; it must be a finite number"),
        (["--alphas", "0,1"], "--alphas requires --alpha-sweep"),
        (["--layer", "layers.0"], "--layer requires --alpha-sweep"),
        (["--relative"], "--relative requires --alpha-sweep"),
        (["--pictures", "0"], "--pictures is 0"),
        (["--alpha", "layers.7=1"], "unknown attention layer 'layers.7'"),
    ],
)
def test_errors_are_words_and_nothing_is_written(model, tmp_path, capsys, changes, message):
    out = tmp_path / "out"
    assert main(["inspect", model, "--seeds", "0", "--out", str(out), *changes]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_pictures_need_a_folder(model, tmp_path, capsys):
    for flags in (["--alpha-sweep"], ["--pixels", "0,0"]):
        assert main(["inspect", model, *flags]) == 2
        assert f"{flags[0]} saves images; choose a folder" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["inspect", model, "--out", str(tmp_path / "file")]) == 2
    assert "which is a file; it must be a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--pixels", "12;16", "write them as row,column, like '12,16 20,9'"),
        ("--pixels", "12,16,20", "write them as row,column"),
        ("--pixels", "", "write them as row,column"),
        ("--alphas", "0,x", "write them like '0,0.5,1'"),
    ],
)
def test_malformed_flags_are_answered_before_anything_is_loaded(capsys, flag, value, message):
    with pytest.raises(SystemExit, match="2"):
        main(["inspect", "nowhere", flag, value])
    assert message in capsys.readouterr().err


def test_many_seeds_are_the_mean_of_all(model, generator, capsys):
    """More than one batch; each image as if generated alone."""
    assert main(["inspect", model, "--seeds", "0-17"]) == 0
    row = capsys.readouterr().out.splitlines()[2].split()
    alone = [inspect_layers(generator, latents_from_seeds([seed], 8))[0].entropy for seed in range(18)]
    assert float(row[-1]) == pytest.approx(torch.tensor(alone).mean().item(), abs=6e-4)


def test_a_conditional_pair_is_counted_with_its_projection(tmp_path, capsys):
    configs = with_labels((GENERATOR, DISCRIMINATOR), ("a", "b"), "projection")
    networks = Generator(configs[0]).eval(), Discriminator(configs[1]).eval()
    save_repository(tmp_path / "conditional", *networks)
    assert main(["inspect", str(tmp_path / "conditional"), "--seeds", "1", "--label", "a=1"]) == 0
    printed = capsys.readouterr().out
    for name, network in zip(("generator", "discriminator"), networks, strict=True):
        assert f"{name}: {sum(each.numel() for each in network.parameters()):,} parameters" in printed
