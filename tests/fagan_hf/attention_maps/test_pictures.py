from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fagan_hf.architectures.configs import GeneratorConfig
from fagan_hf.architectures.specs import ConvTransposeSpec
from fagan_hf.attention_maps.capture import capture_attention
from fagan_hf.attention_maps.pictures import (
    alpha_strip,
    attention_picture,
    attention_tile,
    branch_tiles,
    heat_colors,
)
from fagan_hf.layers import gates, override_alpha
from fagan_hf.models import Generator
from fagan_hf.sampling.images import generate_images, to_uint8
from tests.small import GENERATOR, with_gates

MARK = (0, 255, 210)


@pytest.fixture
def generator():
    return with_gates(Generator(GENERATOR))


@pytest.fixture
def drawn(generator):
    """Two images and the attention captured while generating them."""
    with torch.no_grad(), capture_attention(generator, [(1, 6), (7, 0)]) as captured:
        images = to_uint8(generator(torch.randn(2, 8)))
    return images, captured


def test_a_row_for_each_layer_and_two_columns_for_each_image(drawn):
    images, captured = drawn
    both = attention_picture(images, captured, (1, 6), tile_size=64)
    one_layer = attention_picture(images, {"layers.0": captured["layers.0"]}, (1, 6), tile_size=64)
    first = {name: replace(seen, weights=seen.weights[:1]) for name, seen in captured.items()}
    one_image = attention_picture(images[:1], first, (1, 6), tile_size=64)
    assert both.height - one_layer.height == 2 * (64 + 18 + 8)
    assert both.width - one_image.width == 2 * (64 + 8)
    assert one_layer.height == 8 + 2 * (64 + 18 + 8)


def test_the_mark_frames_the_pixel_and_each_layers_position(drawn):
    images, captured = drawn
    picture = np.asarray(attention_picture(images, captured, (1, 6), tile_size=64))
    margin = picture.shape[1] - 4 * (64 + 8)
    marked = (picture == MARK).all(-1)
    rows, columns = np.nonzero(marked[:72, margin : margin + 64])
    assert (rows.min() - 8, rows.max() - 8) == (8, 15)  # row 1 of 8, each 8 pixels high
    assert (columns.min(), columns.max()) == (48, 55)
    top = 8 + 90
    rows, columns = np.nonzero(marked[top : top + 64, margin + 72 : margin + 136])
    assert (rows.min(), rows.max()) == (0, 15)  # row 0 of 4
    assert (columns.min(), columns.max()) == (48, 63)


def test_heat_has_the_colors_of_the_weights(drawn):
    images, captured = drawn
    picture = np.asarray(attention_picture(images, captured, (1, 6), tile_size=64))
    margin = picture.shape[1] - 4 * (64 + 8)
    top, left = 8 + 3 * 90, margin + 3 * 72  # the last layer, the second image's weights alone
    weights = captured["layers.2"].weights[1, 0, 0].numpy()
    expected = heat_colors(weights / weights.max())
    for row, column in ((0, 0), (7, 7), np.unravel_index(weights.argmax(), (8, 8))):
        if (row, column) != (1, 6):
            assert tuple(picture[top + 8 * row + 4, left + 8 * column + 4]) == tuple(expected[row, column])


def test_another_pixel_has_another_picture(drawn):
    images, captured = drawn
    pictures = [np.asarray(attention_picture(images, captured, pixel, tile_size=64)) for pixel in ((1, 6), (7, 0))]
    left = pictures[0].shape[1] - 72
    tiles = [picture[8 + 270 : 8 + 270 + 64, left : left + 64] for picture in pictures]
    unmarked = ~((tiles[0] == MARK) | (tiles[1] == MARK)).all(-1)
    assert (tiles[0] != tiles[1]).any(-1)[unmarked].mean() > 0.5


def test_heads_are_averaged(drawn):
    images, captured = drawn
    seen = captured["layers.0"]
    apart = seen.weights + torch.rand_like(seen.weights).sub(0.5).mul(1e-3)
    two = {"x": replace(seen, weights=torch.cat([apart, 2 * seen.weights - apart], dim=1))}
    one = {"x": seen}
    pictures = [np.asarray(attention_picture(images, each, (1, 6), tile_size=64)) for each in (one, two)]
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 1


def test_pictures_that_cannot_be_drawn_are_refused(drawn):
    images, captured = drawn
    with pytest.raises(ValueError, match=r"position is \(8, 0\).*to \(7, 7\)"):
        attention_picture(images, captured, (8, 0))
    with pytest.raises(ValueError, match=r"layers\.0: position \(3, 3\) was not captured"):
        attention_picture(images, captured, (3, 3))
    with pytest.raises(ValueError, match=r"1 images, but layers\.0 was captured with 2"):
        attention_picture(images[:1], captured, (1, 6))
    with pytest.raises(ValueError, match="0 captured layers"):
        attention_picture(images, {}, (1, 6))


def test_a_tile_is_that_of_the_whole_picture(drawn):
    images, captured = drawn
    picture = np.asarray(attention_picture(images, captured, (1, 6), tile_size=64))
    margin = picture.shape[1] - 4 * (64 + 8)
    for row, name in enumerate(captured, start=1):
        top = 8 + 90 * row
        for index, image in enumerate(images):
            left = margin + 2 * index * 72
            tile = attention_tile(image, captured[name], (1, 6), index=index, tile_size=64)
            assert np.array_equal(np.asarray(tile), picture[top : top + 64, left : left + 64])
    with pytest.raises(ValueError, match=r"position \(3, 3\) was not captured"):
        attention_tile(images[0], captured["layers.0"], (3, 3))
    with pytest.raises(ValueError, match=r"position is \(8, 0\)"):
        attention_tile(images[0], captured["layers.0"], (8, 0))


def test_branches_that_are_images_are_shown_as_they_are(generator):
    latents = torch.randn(2, 8)
    last = [*gates(generator)][-1].rpartition(".")[0]
    with torch.no_grad(), capture_attention(generator, whole=True) as captured:
        generator(latents)
    if captured[last].plain.shape[1] != 3:
        pytest.fail("the small generator's last attention layer makes the image")
    for alpha, side in ((0.0, 0), (1.0, 1)):
        with override_alpha(generator, {last: alpha}):
            images = generate_images(generator, latents)
        tile = branch_tiles(captured[last], index=1, tile_size=8)[side]
        assert np.array_equal(np.asarray(tile), images[1])


def test_alike_features_have_alike_colors(drawn):
    _, captured = drawn
    seen = captured["layers.0"]
    plain = torch.zeros(1, 5, 2, 2)
    plain[0, :, 0, 0] = torch.tensor([3.0, 0, 0, 0, 0])
    plain[0, :, 1, 1] = torch.tensor([0.0, 2, 0, 0, 0])
    gathered = plain.flip(2, 3)
    one, two = (
        np.asarray(each) for each in branch_tiles(replace(seen, plain=plain, gathered=gathered), index=0, tile_size=2)
    )
    assert np.array_equal(one, two[::-1, ::-1])
    assert tuple(one[0, 0]) != tuple(one[1, 1]) != tuple(one[0, 1])
    assert tuple(one[0, 1]) == tuple(one[1, 0])
    constant = replace(seen, plain=torch.full((1, 2, 2, 2), 4.0), gathered=torch.full((1, 2, 2, 2), 4.0))
    for tile in branch_tiles(constant, tile_size=2):
        assert len(np.unique(np.asarray(tile))) == 1


def test_colors_rise_in_lightness():
    colors = heat_colors(np.linspace(0, 1, 101)[None])
    lightness = np.asarray(Image.fromarray(colors).convert("L"))[0].astype(int)
    assert (np.diff(lightness) >= 0).all()
    assert lightness[0] < 15
    assert lightness[-1] > 245


def test_a_strip_shows_trained_and_overridden_gates(generator):
    latents = torch.randn(3, 8)
    strip = alpha_strip(generator, latents, alphas=(0.0, 1.0), tile_size=16)
    trained = generate_images(generator, latents)
    with override_alpha(generator, 1.0):
        attention_only = generate_images(generator, latents)
    assert strip.size == (8 + 3 * 18 + 16, 26 + 3 * 18 + 8)
    pixels = np.asarray(strip)
    for left, images in ((8, trained), (8 + 2 * 18 + 8, attention_only)):
        for row, image in enumerate(images):
            tile = pixels[26 + 18 * row : 26 + 18 * row + 16, left : left + 16]
            assert np.array_equal(tile[::2, ::2], image)
    assert not np.array_equal(trained, attention_only)


def test_a_strip_of_some_layers_and_with_names(generator):
    latents = torch.randn(1, 8)
    strip = np.asarray(alpha_strip(generator, latents, None, [0.0], ["layers.1"], row_names=["seed 7"], tile_size=8))
    with override_alpha(generator, {"layers.1": 0.0}):
        [expected] = generate_images(generator, latents)
    assert np.array_equal(strip[26:34, -18:-10], expected)
    assert strip.shape[1] > alpha_strip(generator, latents, None, [0.0], tile_size=8).width + 20


def test_a_relative_strip_multiplies_the_trained_gates(generator):
    latents = torch.randn(1, 8)
    gates(generator)["layers.1.gamma"].data.fill_(-0.7)
    strip = np.asarray(alpha_strip(generator, latents, None, [1.0, 2.0], is_relative=True, tile_size=8))
    doubled = {name: 2 * gate.item() for name, gate in gates(generator).items()}
    with override_alpha(generator, doubled):
        [expected] = generate_images(generator, latents)
    assert np.array_equal(strip[26:34, -18:-10], expected)
    [trained] = generate_images(generator, latents)
    assert np.array_equal(strip[26:34, -28:-20], trained)  # 1 times is as trained
    only = np.asarray(
        alpha_strip(generator, latents, None, [2.0], ["layers.1", "layers.0.alpha"], is_relative=True, tile_size=8)
    )
    with override_alpha(generator, {name: doubled[name] for name in ("layers.1.gamma", "layers.0.alpha")}):
        [expected] = generate_images(generator, latents)
    assert np.array_equal(only[26:34, -18:-10], expected)


def test_strips_that_cannot_be_drawn_are_refused(generator):
    with pytest.raises(ValueError, match=r"unknown attention layer 'layers\.9'.*There are: layers\.0"):
        alpha_strip(generator, torch.randn(1, 8), layers=["layers.9"])
    for latents, alphas in ((torch.empty(0, 8), [0.0]), (torch.randn(1, 8), [])):
        with pytest.raises(ValueError, match="there must be at least one of each"):
            alpha_strip(generator, latents, alphas=alphas)
    plain = GeneratorConfig(
        latent_dim=8, image_size=4, layers=(ConvTransposeSpec(in_channels=8, out_channels=3, kernel_size=4),)
    )
    with pytest.raises(ValueError, match="Generator has no attention layer"):
        alpha_strip(Generator(plain), torch.randn(1, 8))
