import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fagan_hf.data import inspection as module
from fagan_hf.data.image_source import ImageSource
from fagan_hf.data.inspection import inspect_images, look_at
from fagan_hf.data.sources import list_images


def noise(seed, size=(40, 30), mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode)


@pytest.fixture
def inspect(tmp_path):
    (tmp_path / "set").mkdir()

    def run():
        listing = list_images(ImageSource(str(tmp_path / "set"), 1), unpacked=tmp_path / "unpacked")
        return inspect_images(listing, tmp_path / "cache", progress=False, num_processes=1)

    return run


def save(image, path, **options):
    image.save(path, **options)
    return path


def test_what_is_seen(tmp_path):
    seen = look_at(save(noise(0), tmp_path / "a.jpg"))
    assert (seen.width, seen.height, seen.format, seen.is_gray, seen.is_transparent) == (40, 30, "JPEG", False, False)
    assert seen.cut_off == pytest.approx(0.25)
    gray = look_at(save(noise(0, mode="L"), tmp_path / "b.png"))
    assert (gray.format, gray.is_gray) == ("PNG", True)
    tinted = np.asarray(noise(0, mode="L").convert("RGB")) + np.array([0, 2, 0], np.uint8).clip(0, 255)
    assert look_at(save(Image.fromarray(tinted), tmp_path / "c.jpg")).is_gray
    opaque = noise(0)
    opaque.putalpha(255)
    assert not look_at(save(opaque, tmp_path / "d.png")).is_transparent
    opaque.paste((0, 0, 0, 0), (0, 0, 10, 10))
    assert look_at(save(opaque, tmp_path / "e.webp", lossless=True)).is_transparent


def test_size_is_that_of_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    seen = look_at(save(noise(0, (1200, 800)), tmp_path / "turned.jpg", exif=exif))
    assert (seen.width, seen.height) == (800, 1200), "not that of the draft, either"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not an image"),
        (b"text", "is not an image"),
        (None, "has no image"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "can't be decoded|is not an image"),
    ],
)
def test_problems(content, words):
    seen = look_at(content)
    assert not seen.is_readable
    assert any(each in seen.problem for each in words.split("|"))
    assert seen.hint


def test_a_truncated_image_and_one_of_a_billion_pixels(tmp_path):
    file = io.BytesIO()
    noise(1, (300, 300)).save(file, "JPEG")
    assert "truncated" in look_at(file.getvalue()[:2000]).problem
    header = struct.pack(">I4sIIBBBBB", 13, b"IHDR", 30_000, 30_000, 8, 2, 0, 0, 0)
    huge = b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", zlib.crc32(header[4:])) + struct.pack(">I4s", 0, b"IDAT")
    assert "too large to be decoded safely" in look_at(huge).problem


@pytest.mark.parametrize(
    ("pixels", "note"),
    [
        (np.full((8, 8), 60_000, np.uint16), "16-bit gray levels, taken as 0 to 65,535"),
        (np.full((8, 8), 4_000, np.uint16), "16-bit gray levels, taken as 0 to 65,535 (the brightest is much darker"),
        (np.full((8, 8), 0.5, np.float32), "floats, taken as gray levels from 0 to 1"),
        (np.full((8, 8), 200, np.uint8), ""),
    ],
)
def test_what_is_assumed_is_said(tmp_path, pixels, note):
    seen = look_at(save(Image.fromarray(pixels), tmp_path / "a.tif"))
    assert seen.is_readable
    assert seen.note.startswith(note)
    assert bool(seen.note) == bool(note)


def test_floats_of_another_range_are_refused(tmp_path):
    seen = look_at(save(Image.fromarray(np.full((8, 8), 200.0, np.float32)), tmp_path / "a.tif"))
    assert "gray values are from 200.0 to 200.0; they must be from 0 to 1" in seen.problem


def test_duplicates(inspect, tmp_path):
    folder = tmp_path / "set"
    for seed in range(30):
        save(noise(seed, (64, 64)), folder / f"{seed:02}.png")
    (folder / "x copy.png").write_bytes((folder / "07.png").read_bytes())
    save(noise(3, (64, 64)), folder / "x recompressed.jpg", quality=85)
    save(noise(4, (64, 64)).resize((48, 48)), folder / "x smaller.png")
    found = inspect()
    assert found.exact_copies() == [(7, 30)]
    assert found.near_duplicates() == [(3, 31), (4, 32)]


def test_plain_images_are_not_all_alike(inspect, tmp_path):
    for level in range(0, 250, 25):
        save(Image.new("RGB", (16, 16), (level,) * 3), tmp_path / "set" / f"{level}.png")
    assert inspect().near_duplicates() == []


def test_many_neighbors_are_found_as_one_by_one(inspect, tmp_path):
    """The groups of bands find what comparing all pairs finds."""
    for seed in range(25):
        for number in range(2):
            image = np.asarray(noise(seed, (32, 32))).astype(int) + np.random.default_rng(number).integers(
                -3, 4, (32, 32, 3)
            )
            save(Image.fromarray(image.clip(0, 255).astype(np.uint8)), tmp_path / "set" / f"{seed:02}-{number}.png")
    found = inspect()
    hashes = [each.hash for each in found.seen]
    thumbnails = [np.array(list(bytes.fromhex(each.thumbnail)), int) for each in found.seen]
    expected = [
        (one, two)
        for two in range(50)
        for one in range(two)
        if (hashes[one] ^ hashes[two]).bit_count() <= module._SAME_BITS
        and abs(thumbnails[one] - thumbnails[two]).max() <= module._SAME_LEVELS
    ]
    assert len(expected) > 10
    assert found.near_duplicates() == expected


def test_a_second_look_decodes_nothing_and_a_new_file_is_looked_at(inspect, tmp_path, monkeypatch):
    for seed in range(3):
        save(noise(seed), tmp_path / "set" / f"{seed}.png")
    (tmp_path / "set" / "broken.png").write_text("text")
    first = inspect()
    looked = []
    look = module.look_at
    monkeypatch.setattr(module, "look_at", lambda content: looked.append(content.name) or look(content))
    assert inspect().seen == first.seen
    assert looked == []
    save(noise(9), tmp_path / "set" / "new.png")
    assert len(inspect().readable) == 4
    assert looked == ["new.png"]


def test_many_processes_see_the_same(inspect, tmp_path):
    for seed in range(20):
        save(noise(seed), tmp_path / "set" / f"{seed:02}.png")
    listing = list_images(ImageSource(str(tmp_path / "set"), 1))
    assert inspect_images(listing, tmp_path / "other", progress=False, num_processes=2).seen == inspect().seen


def test_shares(inspect, tmp_path):
    save(noise(0, (50, 20)), tmp_path / "set" / "a.png")
    save(noise(1, mode="L"), tmp_path / "set" / "b.png")
    (tmp_path / "set" / "c.png").write_text("text")
    found = inspect()
    assert found.readable == [0, 1]
    assert found.share("is_gray") == 0.5
    assert found.shortest_sides().tolist() == [20, 30]
    assert found.problems() == {"is not an image": 1}
    assert found.formats() == {"PNG": 2}
