import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from fagan_hf.data.decode import UnusableImageError, decode_image, image_suffixes, readable_formats

# Quadrants: top left, top right, bottom left, bottom right.
RED, GREEN, BLUE, YELLOW = (220, 30, 20), (20, 180, 40), (30, 40, 210), (230, 220, 30)
COLORS = (RED, GREEN, BLUE, YELLOW)
GRAYS = (10, 90, 170, 250)


def quadrants(values, dtype=np.uint8, half=16):
    tiles = np.array(values, dtype)
    tiles = tiles.reshape(2, 2, *tiles.shape[1:])
    return tiles.repeat(half, axis=0).repeat(half, axis=1)


def decode(content, resolution=16, crop=None, upscale=False):
    return decode_image(content, resolution=resolution, crop=crop, upscale=upscale)


def corners(image):
    """Read the center of each quadrant of uint8 [3, R, R]."""
    near, far = image.shape[-1] // 4, image.shape[-1] * 3 // 4
    return [tuple(int(v) for v in image[:, y, x]) for y in (near, far) for x in (near, far)]


def assert_corners(image, expected, within=0):
    assert image.dtype == np.uint8
    assert image.shape == (3, 16, 16)
    assert np.abs(np.array(corners(image)) - np.array(expected)).max() <= within, corners(image)


def gray(values):
    return [(value,) * 3 for value in values]


def save(image, path, **options):
    image.save(path, **options)
    return path


PICTURE = Image.fromarray(quadrants(COLORS))
GRAY = Image.fromarray(quadrants(GRAYS))


@pytest.mark.parametrize(
    ("suffix", "within"), [("png", 0), ("bmp", 0), ("ppm", 0), ("tif", 0), ("gif", 0), ("jpg", 6), ("webp", 12)]
)
def test_rgb_formats(tmp_path, suffix, within):
    path = save(PICTURE, tmp_path / f"picture.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert_corners(decode(path), COLORS, within=0 if suffix == "webp" else within)
    assert_corners(decode(path.read_bytes()), COLORS, within=0 if suffix == "webp" else within)


@pytest.mark.parametrize("suffix", ["png", "pgm", "jpg", "tif"])
def test_gray(tmp_path, suffix):
    assert_corners(decode(save(GRAY, tmp_path / f"gray.{suffix}")), gray(GRAYS), within=3 * (suffix == "jpg"))


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_gray_keeps_its_full_range(tmp_path, suffix):
    values = [0, 20000, 40000, 65535]
    image = Image.fromarray(quadrants(values, np.uint16))
    path = tmp_path / f"gray.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 32 32 65535\n" + quadrants(values, ">u2").tobytes())
    else:
        image.save(path)
    assert_corners(decode(path), gray([0, 78, 156, 255]))


def test_pgm_with_another_white(tmp_path):
    path = tmp_path / "gray.pgm"
    path.write_bytes(b"P5 32 32 1000\n" + quadrants([0, 200, 500, 1000], ">u2").tobytes())
    assert_corners(decode(path), gray([0, 51, 128, 255]), within=1)


def test_float_and_one_bit(tmp_path):
    floats = Image.fromarray(quadrants([0, 0.2, 0.6, 1], np.float32))
    assert_corners(decode(save(floats, tmp_path / "float.tif")), gray([0, 51, 153, 255]))
    assert_corners(decode(save(GRAY.convert("1", dither=0), tmp_path / "bit.png")), gray([0, 0, 255, 255]))
    floats = Image.fromarray(quadrants([0, 0.2, 0.6, 255], np.float32))
    with pytest.raises(UnusableImageError, match=r"from 0\.0 to 255\.0; they must be from 0 to 1"):
        decode(save(floats, tmp_path / "range.tif"))


def test_palette(tmp_path):
    palette = PICTURE.quantize(4)
    assert palette.mode == "P"
    assert_corners(decode(save(palette, tmp_path / "palette.png")), COLORS)


def test_palette_with_transparency_shows_white(tmp_path):
    palette = PICTURE.quantize(4)
    path = save(palette, tmp_path / "palette.png", transparency=palette.getpixel((0, 0)))
    assert_corners(decode(path), [(255, 255, 255), GREEN, BLUE, YELLOW])
    alphas = bytearray(b"\xff" * 4)
    alphas[palette.getpixel((0, 0))] = 51
    path = save(palette, tmp_path / "partly.png", transparency=bytes(alphas))
    assert_corners(decode(path), [(248, 210, 208), GREEN, BLUE, YELLOW], within=1)


def test_transparency_shows_white(tmp_path):
    alpha = Image.fromarray(quadrants([0, 255, 51, 255]))
    rgba = PICTURE.copy()
    rgba.putalpha(alpha)
    expected = [(255, 255, 255), GREEN, (210, 212, 246), YELLOW]
    assert_corners(decode(save(rgba, tmp_path / "rgba.png")), expected, within=1)
    assert_corners(decode(save(rgba, tmp_path / "rgba.webp", lossless=True)), expected, within=1)
    la = GRAY.copy()
    la.putalpha(alpha)
    assert la.mode == "LA"
    assert_corners(decode(save(la, tmp_path / "la.png")), gray([255, 90, 238, 250]), within=1)
    keyed = save(PICTURE, tmp_path / "keyed.png", transparency=RED)
    assert_corners(decode(keyed), [(255, 255, 255), GREEN, BLUE, YELLOW])


def test_cmyk(tmp_path):
    image = PICTURE.convert("CMYK")
    assert_corners(decode(save(image, tmp_path / "cmyk.jpg", quality=95)), COLORS, within=6)
    assert_corners(decode(save(image, tmp_path / "cmyk.tif")), COLORS, within=1)


def test_color_profiles_are_ignored(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert_corners(decode(save(PICTURE, tmp_path / "profile.png", icc_profile=profile)), COLORS)


@pytest.mark.parametrize(
    ("orientation", "stored_as"),
    [  # where the upright quadrants (a b / c d) are in the stored image
        (1, "abcd"),
        (2, "badc"),
        (3, "dcba"),
        (4, "cdab"),
        (5, "acbd"),
        (6, "bdac"),
        (7, "dbca"),
        (8, "cadb"),
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_orientation(tmp_path, orientation, stored_as, suffix):
    stored = Image.fromarray(quadrants([COLORS["abcd".index(letter)] for letter in stored_as]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(stored, tmp_path / f"turned.{suffix}", exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    assert_corners(decode(path), COLORS, within=6)


def test_exif_orientation_of_a_photograph_that_is_not_square(tmp_path):
    """A portrait photograph: stored 40 wide and 24 high, displayed 24 wide and 40 high, center-cropped."""
    upright = np.zeros((40, 24, 3), np.uint8)
    upright[8:32] = quadrants(COLORS, half=12)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    assert stored.size == (40, 24)
    assert_corners(decode(save(stored, tmp_path / "photo.png", exif=exif)), COLORS)


def test_crop_keeps_the_largest_center_square():
    pixels = np.arange(20 * 30, dtype=np.uint32).reshape(20, 30).astype(np.uint8)
    assert np.array_equal(decode(encoded(pixels), resolution=20)[0], pixels[:, 5:25])
    assert np.array_equal(decode(encoded(pixels.T), resolution=20)[0], pixels.T[5:25])


def test_crop_of_celeba():
    pixels = np.random.default_rng(0).integers(0, 256, (218, 178), dtype=np.uint8)
    assert np.array_equal(decode(encoded(pixels), resolution=178, crop=178)[0], pixels[20:198])
    assert np.array_equal(decode(encoded(pixels), resolution=100, crop=100)[0], pixels[59:159, 39:139])


def encoded(pixels):
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()


def test_nothing_outside_the_crop_shines_in():
    pixels = np.zeros((32, 64), np.uint8)
    pixels[:, :16] = pixels[:, 48:] = 255
    assert decode(encoded(pixels), resolution=8).max() == 0


def test_resize_is_antialiased():
    """Stripes of one pixel become uniform gray; a resize without antialiasing keeps some of them."""
    pixels = np.zeros((64, 64), np.uint8)
    pixels[:, ::2] = 255
    small = decode(encoded(pixels), resolution=16)[0, :, 2:-2]
    assert np.ptp(small) <= 4
    assert abs(int(small.mean()) - 127) <= 2


def test_upscale():
    image = encoded(quadrants(COLORS, half=4))
    assert_corners(decode(image, upscale=True), COLORS, within=20)
    with pytest.raises(UnusableImageError, match=r"has 8x8 pixels, fewer than the target of 16x16") as caught:
        decode(image)
    assert "--upscale true" in caught.value.hint


def test_smaller_than_the_crop():
    image = encoded(np.zeros((30, 20), np.uint8))
    with pytest.raises(UnusableImageError, match=r"has 20x30 pixels, too few to crop 24x24") as caught:
        decode(image, crop=24, upscale=True)
    assert "--crop" in caught.value.hint


def test_text_is_no_image(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("not a picture")
    with pytest.raises(UnusableImageError, match="is not an image") as caught:
        decode(path)
    assert caught.value.__cause__ is not None
    with pytest.raises(UnusableImageError, match="is not an image"):
        decode(b"")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "pgm"])
def test_truncated(tmp_path, suffix):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
    path = save(noise, tmp_path / f"half.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnusableImageError, match=r"can't be decoded|is not an image"):
        decode(path)


def test_decompression_bomb(tmp_path, monkeypatch):
    path = save(PICTURE, tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(UnusableImageError, match="too large to be decoded safely"):
        decode(path)


def test_missing_file_is_an_unusable_image():
    with pytest.raises(UnusableImageError, match="FileNotFoundError"):
        decode(Path("nowhere/a.png"))


def test_nothing_that_starts_programs_is_read(tmp_path):
    assert "EPS" not in readable_formats()
    assert not {".eps", ".ps", ".pdf", ".mpg", ".h5", ".txt"} & image_suffixes()
    assert {".jpg", ".jpeg", ".png", ".webp", ".pgm", ".tif", ".gif", ".bmp", ".mpo"} <= image_suffixes()
    path = save(PICTURE, tmp_path / "picture.eps")
    with pytest.raises(UnusableImageError, match="is not an image"):
        decode(path)
