"""``fagan-hf data``."""

import numpy as np
import pytest
from PIL import Image

from fagan_hf.cli import main


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FAGAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    """Eight images in two classes, one wide, one broken, one copy, and a file that is no image."""
    random = np.random.default_rng(0)
    for index in range(8):
        path = tmp_path / "my set" / ("cat", "dog")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = (40, 80) if index == 3 else (64, 64)
        small = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        small.resize((width, height), Image.Resampling.BICUBIC).save(path)
    folder = tmp_path / "my set"
    (folder / "cat" / "copy.png").write_bytes((folder / "cat" / "0.png").read_bytes())
    (folder / "dog" / "broken.jpg").write_text("text")
    (folder / "notes.docx").touch()
    return folder


def test_a_folder(folder, capsys, tmp_path):
    assert main(["data", str(folder), "--preview", str(tmp_path / "preview.png")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("10 images; 1 file not read: 1 .docx\n")
    assert "can't be read: 1 images: is not an image 1" in out
    assert "broken.jpg is not an image" in out
    assert "Training leaves them out with --skip-broken." in out
    assert "formats: PNG 9" in out
    assert "sizes: from 80x40 to 64x64 pixels" in out
    assert "the center square cuts off 6% of the area on average, at most 50% (3.png)" in out
    assert "colors: 0% of the images are gray, 0% have transparent pixels" in out
    assert "duplicates: 1 exact copies, 0 near-duplicates, for example 0.png and copy.png" in out
    assert "label class: 2 values: cat 5, dog 5 (--label-columns class)" in out
    assert f"Train on them: fagan-hf train '{folder}'" in out
    with Image.open(tmp_path / "preview.png") as preview:
        assert preview.size == (8 * 96, 2 * 96)
        pixels = np.asarray(preview)
    last = pixels[96:, :96]  # the ninth, the wide one
    assert (last[:20] == 255).all(), "bars are white"
    assert last[30:66, :20].mean() < 0.6 * last[30:66, 30:66].mean(), "what is cut off is darker"


def test_nothing_usable(tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["data", str(empty)]) == 1
    assert "Nothing usable" in capsys.readouterr().out
    (empty / "a.png").write_text("text")
    assert main(["data", str(empty)]) == 1
    assert "none of the images can be read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data"], "give a place to look at"),
        (["data", "./missing"], "does not exist"),
        (["data", ".", "--cache"], "leave out the place"),
        (["data", ".", "--split", "test"], "has no splits|contains no images"),
        (["data", ".", "--preview", "a.txt"], "--preview|--picture is 'a.txt'"),
    ],
)
def test_wrong_input(arguments, words, capsys, monkeypatch, folder):
    monkeypatch.chdir(folder)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert any(each in said for each in words.split("|"))


def test_flags_of_the_data_are_passed_on(tmp_path, capsys):
    (tmp_path / "test").mkdir()
    Image.new("RGB", (70, 70)).save(tmp_path / "test" / "a.png")
    assert main(["data", str(tmp_path), "--split", "test"]) == 0
    assert f"fagan-hf train {tmp_path} --split=test" in capsys.readouterr().out


def test_avatars(capsys, monkeypatch):
    monkeypatch.setattr("fagan_hf.data.avatars.TRAIN_SEEDS", range(4))
    assert main(["data", "avatars"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("4 images\n")
    assert "fagan-hf train avatars" in out


def test_cache(folder, cache, capsys):
    main(["data", str(folder)])
    capsys.readouterr()
    assert main(["data", "--cache"]) == 0
    out = capsys.readouterr().out
    assert "in 1 entries" in out
    assert "which files were read, used today: files.sqlite" in out
    assert main(["data", "--clear"]) == 0
    assert "freed 0." in capsys.readouterr().out
    assert list(cache.iterdir()) == []
