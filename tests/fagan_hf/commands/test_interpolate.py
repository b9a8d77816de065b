import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fagan_hf.cli import main
from fagan_hf.hub.repository import save_repository
from fagan_hf.latent_space.walks import lerp, slerp
from fagan_hf.sampling.images import generate_images, labels_from_seeds, latents_from_seeds
from tests.fagan_hf.latent_space.test_walks import conditional_generator, lively_generator


@pytest.fixture
def generator():
    return lively_generator()


@pytest.fixture
def films(monkeypatch):
    """Record what would be written: path, frames, frame rate."""
    written = []
    monkeypatch.setattr(
        "fagan_hf.viz.films.write_film", lambda path, frames, **speed: written.append((path, frames, speed))
    )
    return written


def interpolate(generator, tmp_path, *arguments):
    save_repository(tmp_path / "model", generator)
    return main(["interpolate", "--model", str(tmp_path / "model"), *arguments])


def test_a_loop_of_all_seeds(generator, tmp_path, capsys):
    out = tmp_path / "walk.gif"
    assert interpolate(generator, tmp_path, "--seeds", "3,7,5", "--frames", "4", "--out", str(out)) == 0
    with Image.open(out) as film:
        assert (film.n_frames, film.size, film.info["loop"]) == (12, (256, 256), 0)
        film.seek(4)
        frame = np.asarray(film.convert("RGB")).astype(int)
    [expected] = generate_images(generator, latents_from_seeds([7], 8))
    assert np.abs(frame[::32, ::32] - expected).mean() < 10
    assert f"12 frames, 0.4 s, in {out}" in capsys.readouterr().out


def test_frames_lie_on_the_arc(generator, tmp_path, films):
    arguments = ["--no-loop", "--scale", "1", "--frames", "3", "--frames_per_second", "12", "--batch-size", "2"]
    assert interpolate(generator, tmp_path, "--seeds", "3,7", *arguments, "--out", str(tmp_path / "walk.gif")) == 0
    [(path, frames, speed)] = films
    assert (path, speed) == (tmp_path / "walk.gif", {"frames_per_second": 12.0, "make_folder": True})
    start, end = latents_from_seeds([3, 7], 8)
    expected = generate_images(generator, slerp(start, end, torch.linspace(0, 1, 4)))
    assert np.abs(frames.astype(int) - expected).max() <= 1


def test_labels_change_evenly_and_wishes_stay(tmp_path, films, monkeypatch):
    generator = conditional_generator()
    drawn = labels_from_seeds(generator, range(4), {"beard": True})
    seen = []
    monkeypatch.setattr(
        "fagan_hf.sampling.images.generate_images",
        lambda *arguments, **_: seen.append(arguments) or np.zeros((1, 8, 8, 3), "u1"),
    )
    arguments = ["--seeds", "0-3", "--frames", "2", "--label", "beard=1", "--out", str(tmp_path / "walk.gif")]
    assert interpolate(generator, tmp_path, *arguments) == 0
    [(_, _, labels)] = seen
    assert labels.shape == (8, 3)
    assert (labels[:, 0] == 1).all()
    assert (labels[::2] == drawn).all()
    assert (labels[1] == lerp(drawn[0], drawn[1], 0.5)).all()
    assert not (drawn[0] == drawn[1]).all()


def test_truncation(generator, tmp_path, films):
    for truncation in ("1", "0.1"):
        arguments = ["--seeds", "1,2", "--frames", "2", "--truncation", truncation, "--out", str(tmp_path / "walk.gif")]
        assert interpolate(generator, tmp_path, *arguments) == 0
    assert not np.array_equal(films[0][1], films[1][1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--seeds", "3,3"], r"--seeds are \[3, 3\]; interpolation needs at least two different ones"),
        (["--out", "walk.png"], "video is 'walk.png'; it must end in .gif, .mp4, .webp"),
        (["--out", "walk.mp4"], "an .mp4 needs ffmpeg"),
        (["--frames-per-second", "100"], "frames_per_second is 100.0; it must be from 0.01 to 50"),
        (["--frames", "0"], "frames_per_step is 0"),
        (["--scale", "0"], "scale is 0"),
    ],
)
def test_errors_are_words_and_a_status(generator, tmp_path, monkeypatch, capsys, changes, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert interpolate(generator, tmp_path, "--frames", "2", "--out", "walk.gif", *changes) == 2
    error = capsys.readouterr().err
    assert error.startswith("fagan-hf: error: ")
    assert message.replace("\\", "") in error
    assert not list(tmp_path.glob("walk*"))
