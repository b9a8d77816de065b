import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from fagan_hf.data.decode import (
    UnusableImageError,
    decode_image,
    image_suffixes,
    readable_formats,
    register_heif,
)

# Quadrants: top left, top right, bottom left, bottom right.
RED, GREEN, BLUE, YELLOW = (220, 30, 20), (20, 180, 40), (30, 40, 210), (230, 220, 30)
COLORS = (RED, GREEN, BLUE, YELLOW)
GRAYS = (10, 90, 170, 250)


def quadrants(values, dtype=np.uint8, half=16):
    tiles = np.array(values, dtype)
    tiles = tiles.reshape(2, 2, *tiles.shape[1:])
    return tiles.repeat(half, axis=0).repeat(half, axis=1)


def decode(content, resolution=16, **options):
    return decode_image(content, resolution=resolution, **options)


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


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# The same with red and green primaries exchanged, under another name.
SWAPPED = SRGB.replace(b"rXYZ", b"xXYZ").replace(b"gXYZ", b"rXYZ").replace(b"xXYZ", b"gXYZ")
SWAPPED = SWAPPED.replace("sRGB".encode("utf-16-be"), "SWAP".encode("utf-16-be"))


def exchanged(colors):
    return [(g, r, b) for r, g, b in colors]


def test_color_profiles_are_applied(tmp_path):
    assert_corners(decode(save(PICTURE, tmp_path / "srgb.png", icc_profile=SRGB)), COLORS)
    for name, options in (("a.png", {}), ("a.webp", {"lossless": True}), ("a.tif", {}), ("a.jpg", {"quality": 100})):
        path = save(PICTURE, tmp_path / name, icc_profile=SWAPPED, **options)
        assert_corners(decode(path), exchanged(COLORS), within=6)
    palette = PICTURE.convert("P", palette=Image.Palette.ADAPTIVE)
    assert_corners(decode(save(palette, tmp_path / "p.png", icc_profile=SWAPPED)), exchanged(COLORS), within=6)


def test_a_profile_leaves_transparency_alone(tmp_path):
    rgba = PICTURE.copy()
    rgba.putalpha(Image.fromarray(quadrants([0, 255, 255, 255])))
    path = save(rgba, tmp_path / "rgba.png", icc_profile=SWAPPED)
    assert_corners(decode(path), [(255, 255, 255), *exchanged(COLORS)[1:]], within=6)
    assert decode(path, channels=4)[3, 4, 4] == 0
    assert decode(path, channels=4)[3, 12, 12] == 255


@pytest.mark.parametrize(
    "profile",
    [b"", b"nonsense", SWAPPED[:200], SWAPPED[:128] + bytes(400)],
    ids=["empty", "nonsense", "cut off", "zeros"],
)
def test_broken_profiles_are_ignored(tmp_path, profile):
    assert_corners(decode(save(PICTURE, tmp_path / "broken.png", icc_profile=profile)), COLORS)


def test_a_profile_for_another_mode_is_ignored(tmp_path):
    assert_corners(decode(save(GRAY, tmp_path / "gray.png", icc_profile=SWAPPED)), gray(GRAYS))


# Other forms


def translucent():
    """Red at half opacity, nothing, blue, yellow."""
    rgba = PICTURE.copy()
    rgba.putalpha(Image.fromarray(quadrants([128, 0, 255, 255])))
    return rgba


@pytest.mark.parametrize(
    ("background", "behind"), [("white", (255, 255, 255)), ("black", (0, 0, 0)), ("#0080ff", (0, 128, 255))]
)
def test_background(tmp_path, background, behind):
    path = save(translucent(), tmp_path / "a.png")
    mixed = tuple(round((128 * c + 127 * b) / 255) for c, b in zip(RED, behind, strict=True))
    assert_corners(decode(path, background=background), [mixed, behind, BLUE, YELLOW], within=1)


@pytest.mark.parametrize("background", ["", "red", "#fff", "#gggggg", "rgb(1,2,3)", "#112233\n"])
def test_unknown_background(tmp_path, background):
    with pytest.raises(ValueError, match="it must be white, black, or a color like #ffcc00"):
        decode(save(PICTURE, tmp_path / "a.png"), background=background)


def test_transparency_is_premultiplied(tmp_path):
    image = decode(save(translucent(), tmp_path / "a.png"), channels=4)
    assert image.shape == (4, 16, 16)
    half = tuple(round(c * 128 / 255) for c in RED)
    expected = [(*half, 128), (0, 0, 0, 0), (*BLUE, 255), (*YELLOW, 255)]
    assert np.abs(np.array(corners(image)) - np.array(expected)).max() <= 1
    opaque = decode(save(PICTURE, tmp_path / "b.png"), channels=4)
    assert corners(opaque) == [(*color, 255) for color in COLORS]
    assert corners(decode(save(GRAY, tmp_path / "c.png"), channels=4)) == [(g, g, g, 255) for g in GRAYS]


def test_colors_of_invisible_pixels_do_not_bleed(tmp_path):
    """A green that nobody sees must not tint the edge when the image shrinks."""
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[..., 1] = 255
    pixels[:, :30] = (255, 0, 0, 255)
    image = decode(save(Image.fromarray(pixels), tmp_path / "a.png"), channels=4)
    assert image[1].max() == 0
    assert decode(tmp_path / "a.png")[1, :, 0].max() == 0


def test_one_channel(tmp_path):
    image = decode(save(GRAY, tmp_path / "gray.png"), channels=1)
    assert image.shape == (1, 16, 16)
    assert corners(image) == [(value,) for value in GRAYS]
    of_color = decode(save(PICTURE, tmp_path / "color.png"), channels=1)
    luma = [(299 * r + 587 * g + 114 * b) / 1000 for r, g, b in COLORS]
    assert np.abs(np.array(corners(of_color))[:, 0] - luma).max() <= 1


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_bars(tmp_path, channels):
    wide = Image.fromarray(quadrants(COLORS)).resize((64, 32), Image.Resampling.NEAREST)
    image = decode(save(wide, tmp_path / "wide.png"), fit="pad", background="#102030", channels=channels)
    bar = {1: (29,), 3: (16, 32, 48), 4: (0, 0, 0, 0)}[channels]
    assert [tuple(image[:, y, 8].tolist()) for y in (0, 3, 12, 15)] == [bar] * 4
    red = decode(save(Image.new("RGB", (16, 16), RED), tmp_path / "red.png"), channels=channels)[:, 0, 0]
    assert np.abs(image[:, 5, 2].astype(int) - red).max() <= 2
    tall = decode(save(wide.transpose(Image.Transpose.ROTATE_90), tmp_path / "tall.png"), fit="pad", channels=channels)
    assert (tall[:, :, 0] == tall[:, :1, :1][..., 0]).all()


def test_stretch(tmp_path):
    wide = Image.fromarray(quadrants(COLORS)).resize((96, 32), Image.Resampling.NEAREST)
    assert_corners(decode(save(wide, tmp_path / "wide.png"), fit="stretch"), COLORS)
    assert corners(decode(tmp_path / "wide.png", fit="crop")) == list(COLORS)


@pytest.mark.parametrize(
    ("size", "fit", "is_usable"),
    [
        ((5000, 10), "crop", False),
        ((5000, 10), "stretch", False),
        ((5000, 10), "pad", True),
        ((1, 1), "pad", False),
        ((1, 5000), "pad", True),
        ((16, 10), "pad", True),
        ((15, 15), "pad", False),
    ],
)
def test_extreme_shapes(tmp_path, size, fit, is_usable):
    path = save(Image.new("RGB", size, RED), tmp_path / "a.png")
    if is_usable:
        image = decode(path, fit=fit)
        assert (image == np.array(RED)[:, None, None]).all(0).any()
    else:
        with pytest.raises(UnusableImageError, match=f"has {size[0]}x{size[1]} pixels, fewer than the target of 16x16"):
            decode(path, fit=fit)
    assert decode(path, fit=fit, upscale=True).shape == (3, 16, 16)


def test_an_image_of_a_billion_pixels_is_refused_before_decoding(tmp_path):
    path = tmp_path / "huge.png"
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 30_000, 30_000, 8, 2, 0, 0, 0)
    path.write_bytes(header + struct.pack(">I", zlib.crc32(header[12:])) + struct.pack(">I4s", 0, b"IDAT"))
    with pytest.raises(UnusableImageError, match="is too large to be decoded safely"):
        decode(path)


def test_heic(tmp_path):
    assert register_heif()
    assert {".heic", ".heif"} <= image_suffixes()
    save(PICTURE, tmp_path / "a.heic", quality=100)
    assert_corners(decode(tmp_path / "a.heic"), COLORS, within=12)


def test_without_its_package_heic_is_not_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert not register_heif()


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
