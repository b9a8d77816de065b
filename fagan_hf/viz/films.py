"""Write frames as a video: an animated GIF or WebP with Pillow, an MP4 with ffmpeg."""

import math
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fagan_hf.utils.files import replacing
from fagan_hf.viz.colors import as_rgb

FILM_SUFFIXES = (".gif", ".mp4", ".webp")
MAX_GIF_FRAMES_PER_SECOND = 50  # GIF delays are in hundredths of a second, and browsers slow down delays of 1

_PALETTE_PIXELS = 2**20  # pixels used for the common palette; more make no visible difference
_LINES_OF_FFMPEG = 5

Frames = UInt8[np.ndarray, "frames height width channels"]


def writable_suffixes() -> tuple[str, ...]:
    """List the video formats that can be written on this machine: all, or without ffmpeg all but MP4."""
    return tuple(suffix for suffix in FILM_SUFFIXES if suffix != ".mp4" or _ffmpeg() is not None)


def check_film(path: Path, frames_per_second: float) -> None:
    """Refuse a video that can't be written, before its frames are generated.

    Raises:
        ValueError: The suffix is not in `FILM_SUFFIXES`, or the frame rate is too high or low for it.
        FileNotFoundError: It needs ffmpeg, which is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in FILM_SUFFIXES:
        raise ValueError(f"video is {str(path)!r}; it must end in {', '.join(FILM_SUFFIXES)}")
    highest = MAX_GIF_FRAMES_PER_SECOND if suffix == ".gif" else 1000
    if not 0.01 <= frames_per_second <= highest:
        faster = "; an .mp4 or .webp can be faster" if suffix == ".gif" else ""
        raise ValueError(
            f"frames_per_second is {frames_per_second}; it must be from 0.01 to {highest} for {suffix}{faster}"
        )
    if suffix == ".mp4":
        _find_ffmpeg()


def write_film(path: str | Path, frames: Frames, *, frames_per_second: float, make_folder: bool = False) -> None:
    """Write a video atomically; GIF and WebP loop.

    Args:
        path: Ends in ``.gif``, ``.mp4`` or ``.webp``.
        frames: At least one, of 1, 3 or 4 channels; shown as RGB. A GIF uses 256 colors in total, and merges equal
            consecutive frames; an MP4 of odd width or height repeats the last column or row.
        frames_per_second: From 0.01 to 1000, for a GIF up to 50.
        make_folder: Create its folder if missing.

    Raises:
        ValueError: There are no frames, their shape or dtype is wrong, or see `check_film`.
        FileNotFoundError: The folder does not exist, or ffmpeg is needed for an MP4 but missing.
        OSError: ffmpeg failed; includes the end of its output.
    """
    path = Path(path)
    check_film(path, frames_per_second)
    if frames.ndim != 4 or 0 in frames.shape or frames.shape[3] not in (1, 3, 4) or frames.dtype != np.uint8:
        raise ValueError(
            f"frames are {frames.dtype} {list(frames.shape)}; they must be uint8 [frames, height, width, channels], "
            "at least one, with 1, 3 or 4 channels"
        )
    frames = as_rgb(frames)
    write = {".gif": _write_gif, ".mp4": _write_mp4, ".webp": _write_webp}[path.suffix.lower()]
    with replacing(path, make_folder=make_folder) as aside:
        write(aside, frames, frames_per_second)


def _durations(frames: int, frames_per_second: float, unit: int) -> list[int]:
    """Return every frame's milliseconds in whole units, such that their sum never drifts from the requested speed."""
    ends = [round(1000 / unit * frame / frames_per_second) for frame in range(frames + 1)]
    return [unit * (end - start) for start, end in pairwise(ends)]


def _write_gif(path: Path, frames: Frames, frames_per_second: float) -> None:
    # One palette for all frames and no dithering: otherwise static areas flicker.
    step = math.ceil(frames.size / 3 / _PALETTE_PIXELS)
    sample = frames.reshape(-1, 1, 3)[::step]
    palette = Image.fromarray(sample).quantize(256, method=Image.Quantize.FASTOCTREE)
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = _durations(len(frames), frames_per_second, unit=10)
    pictures[0].save(path, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def _write_webp(path: Path, frames: Frames, frames_per_second: float) -> None:
    pictures = [Image.fromarray(frame) for frame in frames]
    durations = _durations(len(frames), frames_per_second, unit=1)
    pictures[0].save(
        path, format="WEBP", save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=90
    )


def _write_mp4(path: Path, frames: Frames, frames_per_second: float) -> None:
    # H.264 halves the resolution of colors, so sizes must be even.
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    _, height, width, _ = frames.shape
    command = [
        _find_ffmpeg(), "-y", "-loglevel", "error",
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(frames_per_second), "-i", "pipe:0",
        "-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4", str(path),
    ]  # fmt: skip
    result = subprocess.run(command, input=frames.tobytes(), capture_output=True, check=False)
    if result.returncode:
        words = "\n".join(result.stderr.decode(errors="replace").strip().splitlines()[-_LINES_OF_FFMPEG:])
        raise OSError(f"ffmpeg can't write the video; a .gif needs no ffmpeg. Its output:\n{words}")


def _find_ffmpeg() -> str:
    ffmpeg = _ffmpeg()
    if ffmpeg is None:
        raise FileNotFoundError(
            "an .mp4 needs ffmpeg, which is not on the PATH; install it or imageio-ffmpeg, or write a .gif"
        )
    return ffmpeg


def _ffmpeg() -> str | None:
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg  # includes the ffmpeg program

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):  # not installed, or without a binary for this machine
        return None
