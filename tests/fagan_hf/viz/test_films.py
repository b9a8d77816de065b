import subprocess
import sys

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from fagan_hf.viz.films import writable_suffixes, write_film


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    monkeypatch.setenv("PATH", str(folder))
    return folder / "ffmpeg"


def moving_square(frames=10, height=32, width=48):
    film = np.full((frames, height, width, 3), (180, 220, 160), np.uint8)
    for number, frame in enumerate(film):
        frame[8:20, 2 * number : 2 * number + 12] = (200, 60, 10 * number)
    return film


def read(path):
    """Read an animation with Pillow: frames, and their durations [ms]."""
    frames, durations = [], []
    with Image.open(path) as film:
        for number in range(film.n_frames):
            film.seek(number)
            frames.append(np.asarray(film.convert("RGB")))
            durations.append(film.info["duration"])
        return np.stack(frames), durations, film.info["loop"]


def test_gif(tmp_path):
    film = moving_square()
    write_film(tmp_path / "new" / "film.gif", film, frames_per_second=30, make_folder=True)
    frames, durations, loop = read(tmp_path / "new" / "film.gif")
    assert frames.shape == film.shape
    assert np.abs(frames.astype(int) - film).max() <= 8
    assert sum(durations) == 330  # hundredths of a second: 10/30 s to the nearest
    assert set(durations) == {30, 40}
    assert loop == 0


def test_what_stands_still_does_not_flicker(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    film = noise.repeat(6, axis=0)
    film[:, :8] = (40 * np.arange(6, dtype=np.uint8))[:, None, None, None]
    write_film(tmp_path / "film.gif", film, frames_per_second=10)
    frames, durations, _ = read(tmp_path / "film.gif")
    assert durations == [100] * 6
    assert (frames[:, 8:] == frames[:1, 8:]).all()


def test_webp(tmp_path):
    film = moving_square()
    write_film(tmp_path / "film.WEBP", film, frames_per_second=30)
    frames, _, loop = read(tmp_path / "film.WEBP")
    assert (frames.shape, loop) == (film.shape, 0)
    assert np.abs(frames.astype(int) - film).mean() < 4


def test_mp4(tmp_path, ffmpeg):
    film = moving_square(height=31, width=47)
    write_film(tmp_path / "film.mp4", film, frames_per_second=12.5)
    assert (tmp_path / "film.mp4").read_bytes().index(b"moov") < 100  # at the front: it can be streamed
    command = [ffmpeg, "-i", tmp_path / "film.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    result = subprocess.run(command, capture_output=True, check=True)
    frames = np.frombuffer(result.stdout, np.uint8).reshape(10, 32, 48, 3)
    assert np.abs(frames[:, :31, :47].astype(int) - film).mean() < 4
    assert np.abs(frames[:, 31].astype(int) - frames[:, 30]).mean() < 4  # the row that makes it even
    assert b"12.50 fps" in result.stderr or b"12.5 fps" in result.stderr
    assert b"yuv420p" in result.stderr


def test_the_ffmpeg_of_a_package_will_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ".mp4" in writable_suffixes()
    write_film(tmp_path / "film.mp4", moving_square(), frames_per_second=30)
    assert (tmp_path / "film.mp4").read_bytes()[4:8] == b"ftyp"


def test_no_ffmpeg(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert ".mp4" not in writable_suffixes()
    with pytest.raises(FileNotFoundError, match=r"needs ffmpeg, .* install it or imageio-ffmpeg, or write a .gif"):
        write_film(tmp_path / "film.mp4", moving_square(), frames_per_second=30)


def test_ffmpeg_fails(tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text('#!/bin/sh\nfor line in 1 2 3 4 5 6 7; do echo "word $line" >&2; done\nexit 3\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "film.mp4").write_text("before")
    with pytest.raises(OSError, match=r"a .gif needs no ffmpeg. Its output:\nword 3\nword 4\nword 5\nword 6\nword 7$"):
        write_film(tmp_path / "film.mp4", moving_square(), frames_per_second=30)
    assert (tmp_path / "film.mp4").read_text() == "before"
    assert {path.name for path in tmp_path.iterdir()} == {"ffmpeg", "film.mp4"}


@pytest.mark.parametrize(
    ("name", "frames", "speed", "message"),
    [
        ("film.avi", moving_square(), 30, r"film.avi'; it must end in .gif, .mp4, .webp"),
        ("film", moving_square(), 30, "it must end in"),
        ("film.gif", moving_square(), 60, "frames_per_second is 60; it must be from 0.01 to 50 for .gif; an .mp4"),
        ("film.webp", moving_square(), 0, "frames_per_second is 0; it must be from 0.01 to 1000"),
        ("film.gif", moving_square(), float("nan"), "frames_per_second is nan"),
        ("film.gif", moving_square()[:0], 30, r"frames are uint8 \[0, 32, 48, 3\]; they must be"),
        ("film.gif", moving_square()[0], 30, r"frames are uint8 \[32, 48, 3\]"),
        ("film.gif", moving_square() / 255, 30, "frames are float64"),
    ],
)
def test_nonsense_is_refused(tmp_path, name, frames, speed, message):
    with pytest.raises(ValueError, match=message):
        write_film(tmp_path / name, frames, frames_per_second=speed)
    assert not any(tmp_path.iterdir())
