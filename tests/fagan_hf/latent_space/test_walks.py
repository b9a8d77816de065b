from dataclasses import replace

import numpy as np
import pytest
import torch

from fagan_hf.latent_space.projection import project
from fagan_hf.latent_space.walks import blend_latents, lerp, slerp, walk
from fagan_hf.models import Discriminator, Generator
from fagan_hf.sampling.images import generate_images, latents_from_seeds
from tests.small import DISCRIMINATOR, GENERATOR

LABELS = ("beard", "hair=red", "hair=black")


def conditional_generator():
    first = replace(GENERATOR.layers[0], in_channels=8 + len(LABELS))
    layers = (first, *GENERATOR.layers[1:])
    return Generator(replace(GENERATOR, label_names=LABELS, conditioning="concatenation", layers=layers)).eval()


def lively_generator(make=lambda: Generator(GENERATOR).eval()):
    """Make a generator whose images vary as if trained; untrained they are all nearly gray."""
    generator = make()
    with torch.no_grad():
        generator.layers[0].batch_norm.weight.mul_(10)
    return generator


def drawn(generator, seed, *labels):
    """Generate the image of a seed, rounded to 8 bits: [3, size, size] in [-1, 1]."""
    [pixels] = generate_images(generator, latents_from_seeds([seed], 8), *labels)
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


def test_slerp_along_a_quarter_circle():
    start, end = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    shares = torch.tensor([0.0, 1 / 3, 0.5, 1.0])
    expected = 2 * torch.stack([(shares * torch.pi / 2).cos(), (shares * torch.pi / 2).sin()], dim=1)
    torch.testing.assert_close(slerp(start, end, shares), expected)
    torch.testing.assert_close(slerp(start, end, 1 / 3), expected[1])


def test_slerp_changes_the_length_linearly_and_keeps_both_ends():
    start, end = torch.randn(5, 16), 3 * torch.randn(5, 16)
    between = slerp(start, end, 0.25)
    torch.testing.assert_close(between.norm(dim=1), 0.75 * start.norm(dim=1) + 0.25 * end.norm(dim=1))
    assert torch.equal(slerp(start, end, 0.0), start)
    assert torch.equal(slerp(start, end, 1.0), end)


def test_slerp_of_one_line():
    vector = torch.randn(16)
    nearly = vector * (1 + 1e-6 * torch.randn(16))
    torch.testing.assert_close(slerp(vector, nearly, 0.5), vector, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slerp(vector, 3 * vector, 0.5), 2 * vector)
    for end in (-vector, -2 * vector, torch.zeros(16)):
        assert slerp(vector, end, torch.linspace(0, 1, 5)).isfinite().all()


def test_a_small_angle_is_still_an_arc():
    """0.0005 radians, below what the arc cosine of a float32 product resolves."""
    end = torch.tensor([np.cos(1e-3), np.sin(1e-3)], dtype=torch.float32)
    between = slerp(torch.tensor([1.0, 0.0]), end, 0.5)
    assert between[1].item() == pytest.approx(np.sin(5e-4), rel=1e-5)


def test_a_loop_closes():
    latents = torch.nn.functional.normalize(torch.eye(3, 8) + 0.5, dim=1)  # the same angle between any two
    frames = walk(latents, 5)
    assert frames.shape == (15, 8)
    torch.testing.assert_close(frames[::5], latents)
    steps = (frames.roll(-1, dims=0) - frames).norm(dim=1)
    torch.testing.assert_close(steps, steps[:1].expand(15))


def test_a_walk_without_a_loop_ends_at_its_last_point():
    points = torch.randn(3, 8)
    frames = walk(points, 4, is_loop=False)
    assert frames.shape == (9, 8)
    assert torch.equal(frames[::4], points)
    assert torch.equal(walk(points, 1, is_loop=False), points)


def test_labels_are_walked_linearly():
    frames = walk(torch.tensor([[0.0, 1.0], [1.0, 1.0]]), 4, interpolation=lerp)
    assert frames.tolist() == [[share, 1.0] for share in (0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25)]


@pytest.mark.parametrize(
    ("points", "frames", "message"),
    [
        (torch.randn(1, 8), 5, r"points are \[1, 8\]; interpolation needs at least two"),
        (torch.randn(8), 5, r"points are \[8\]"),
        (torch.randn(2, 8), 0, "frames_per_step is 0; it must be a whole number of at least 1"),
        (torch.randn(2, 8), 2.5, "frames_per_step is 2.5"),
    ],
)
def test_no_walk(points, frames, message):
    with pytest.raises(ValueError, match=message):
        walk(points, frames)


@pytest.mark.parametrize("is_judged", [False, True])
def test_a_picture_of_its_own_comes_back(is_judged):
    generator = lively_generator()
    discriminator = Discriminator(DISCRIMINATOR).eval() if is_judged else None
    image = drawn(generator, 99)
    start = project(generator, image, discriminator=discriminator, steps=0, progress=False)
    found = project(generator, image[None], discriminator=discriminator, steps=60, progress=False)
    assert found.distance < start.distance / 100
    assert (len(start.history), found.labels) == (1, None)
    assert min(found.history) < found.history[0] / 10
    [expected] = generate_images(generator, found.latents)
    assert np.array_equal(found.reconstruction, expected)
    assert found.distance == pytest.approx(
        ((torch.tensor(expected / 127.5 - 1).permute(2, 0, 1) - image) ** 2).mean().item(), abs=1e-4
    )


def test_without_steps_it_is_the_best_of_many():
    generator = Generator(GENERATOR).eval()
    image = drawn(generator, 99)
    found = project(generator, image, steps=0, progress=False)
    pictures = generate_images(generator, torch.randn(20, 8)) / 127.5 - 1
    assert found.distance < ((pictures - image.permute(1, 2, 0).numpy()) ** 2).mean((1, 2, 3)).min()


def test_the_features_count():
    generator, discriminator = Generator(GENERATOR).eval(), Discriminator(DISCRIMINATOR).eval()
    image = drawn(generator, 3).flip(2)
    plain = project(generator, image, steps=10, progress=False)
    judged = project(generator, image, discriminator=discriminator, steps=10, progress=False)
    assert judged.history[0] > plain.history[0]
    assert not torch.equal(judged.latents, plain.latents)


def test_a_seed_decides():
    generator, image = Generator(GENERATOR).eval(), torch.zeros(3, 8, 8)
    first, again, other = (project(generator, image, steps=3, seed=seed, progress=False) for seed in (4, 4, 5))
    assert torch.equal(first.latents, again.latents)
    assert first.history == again.history
    assert not torch.equal(first.latents, other.latents)


def test_networks_come_back_as_they_were():
    generator, discriminator = Generator(GENERATOR).train(), Discriminator(DISCRIMINATOR).train()
    frozen = generator.layers[0].alpha.requires_grad_(False)
    networks = (generator, discriminator)
    before = [{name: tensor.clone() for name, tensor in network.state_dict().items()} for network in networks]
    with torch.no_grad():
        project(generator, torch.zeros(3, 8, 8), discriminator=discriminator, steps=3, progress=False)
    for network, state in zip(networks, before, strict=True):
        assert all(module.training for module in network.modules())
        assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())
        assert all(parameter.requires_grad != (parameter is frozen) for parameter in network.parameters())
        assert not any(layer._forward_hooks for layer in network.layers)


def test_labels_of_a_projection():
    generator = lively_generator(conditional_generator)
    generator.label_frequencies.copy_(torch.tensor([0.2, 0.7, 0.3]))
    given = torch.tensor([[1.0, 0.0, 1.0]])
    image = drawn(generator, 7, given)
    assert torch.all(project(generator, image, steps=0, progress=False).labels[0, 1:].sort().values == torch.arange(2))
    wished = project(generator, image, labels={"beard": 1, "hair": "black"}, steps=0, progress=False)
    assert torch.equal(wished.labels, given)
    found = project(generator, image, labels=given, steps=60, progress=False)
    assert torch.equal(found.labels, given)
    assert found.distance < project(generator, image, labels=given, steps=0, progress=False).distance / 100
    assert np.array_equal(found.reconstruction, generate_images(generator, found.latents, found.labels)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"image": torch.zeros(3, 9, 9)},
            r"image is \[3, 9, 9\]; it must be \[3, 8, 8\], or the same with a batch of 1",
        ),
        ({"image": torch.zeros(2, 3, 8, 8)}, r"image is \[2, 3, 8, 8\]"),
        ({"image": torch.full((3, 8, 8), 255.0)}, r"image is torch.float32 from 255 to 255; .* \[-1, 1\]"),
        ({"image": torch.full((3, 8, 8), float("nan"))}, "image is torch.float32 from nan"),
        ({"image": torch.zeros(3, 8, 8, dtype=torch.uint8)}, "image is torch.uint8"),
        ({"steps": -1}, "steps is -1; it must be a whole number of at least 0"),
        ({"starts": 0}, "starts is 0; it must be a whole number of at least 1"),
        ({"labels": torch.zeros(1, 2)}, r"labels are \[1, 2\]; they must be left out"),
    ],
)
def test_no_projection(arguments, message):
    with pytest.raises(ValueError, match=message):
        project(Generator(GENERATOR), **{"image": torch.zeros(3, 8, 8), "progress": False} | arguments)


def test_progress(capfd):
    project(Generator(GENERATOR).eval(), torch.zeros(3, 8, 8), steps=4, starts=2)
    assert "8/8" in capfd.readouterr().err


def test_a_projection_can_be_stopped_from_outside():
    steps = []

    class StopError(Exception):
        pass

    def on_step():
        steps.append(len(steps))
        if len(steps) == 5:
            raise StopError

    generator = Generator(GENERATOR)
    generator.layers[0].requires_grad_(False)
    frozen = [parameter.requires_grad for parameter in generator.parameters()]
    with pytest.raises(StopError):
        project(generator, torch.zeros(3, 8, 8), steps=50, progress=False, on_step=on_step)
    assert len(steps) == 5
    assert [parameter.requires_grad for parameter in generator.parameters()] == frozen


def test_a_projection_shows_every_better_reconstruction():
    shown = []
    found = project(Generator(GENERATOR), torch.zeros(3, 8, 8), steps=20, progress=False, on_better=shown.append)
    assert 2 <= len(shown) <= len(found.history) + 21  # of both starts together
    assert np.array_equal(shown[-1], found.reconstruction)
    distances = [np.square(each / 127.5 - 1).mean() for each in (shown[0], shown[-1])]
    assert distances[1] < distances[0]


def test_a_point_between_latents_is_standard_normal():
    latents = torch.randn(4, 50_000, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 0.0]])
    points = blend_latents(latents, weights)
    assert points.dtype == torch.float32
    torch.testing.assert_close(points.std(dim=1), torch.ones(3), rtol=0, atol=0.02)
    expected = (weights[1, :, None] * latents).sum(0) / weights[1].square().sum().sqrt()
    torch.testing.assert_close(points[1], expected)
    assert torch.equal(points[2], latents[2])
    torch.testing.assert_close(blend_latents(latents, 7 * weights[0]), points[0])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5, 0.5, 0.0], r"weights are \[3\] for latents \[2, 8\]"),
        ([0.0, 0.0], "not all 0"),
        ([1.0, float("nan")], "finite"),
    ],
    ids=["count", "zero", "nan"],
)
def test_weights_that_name_no_point_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        blend_latents(torch.randn(2, 8), torch.tensor(weights))
