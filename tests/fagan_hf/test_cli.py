import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fagan_hf import FAGANPipeline
from fagan_hf.cli import main
from fagan_hf.models import Generator
from fagan_hf.repository import save_repository
from tests.small import GENERATOR


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--model", "./nowhere"], "'./nowhere' is no folder here"),
        (["--out", "grid.gif"], "--out is 'grid.gif'; it must end in .png"),
        (["--truncation", "-1"], "truncation is -1.0; it must be above 0"),
        (["--batch_size", "0"], "batch_size is 0"),
        (["--columns", "0"], "in 0 columns"),
        (["--device", "warp"], "--device is 'warp', which can't be used here"),
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
