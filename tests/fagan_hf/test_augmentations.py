import math

import pytest
import torch
from torch.nn import functional

from fagan_hf.augmentations import DISTORTIONS, GEOMETRY, ROTATION, SCALE, augment, draw_augmentation, flip

POLICY = (*DISTORTIONS, *GEOMETRY)


def images(count=4, size=16):
    return torch.rand(count, 3, size, size, dtype=torch.float64) * 2 - 1


def draws(*values):
    return torch.tensor([values], dtype=torch.float64).view(1, 1, 3)


def test_an_empty_policy_changes_nothing():
    batch = images()
    assert augment(batch, draw_augmentation(torch.Generator(), 4, ()), ()) is batch


@pytest.mark.parametrize("name", POLICY)
def test_each_image_has_its_own_distortion_whatever_the_batch(name):
    batch, strengths = images(), torch.rand(4, 1, 3, dtype=torch.float64)
    together = augment(batch, strengths, (name,))
    alone = torch.cat([augment(batch[i : i + 1], strengths[i : i + 1], (name,)) for i in range(4)])
    torch.testing.assert_close(together, alone)
    assert together.shape == batch.shape
    assert not torch.allclose(together, batch)


@pytest.mark.parametrize("name", POLICY)
def test_it_is_differentiable(name):
    strengths = torch.rand(2, 1, 3, dtype=torch.float64)
    torch.autograd.gradcheck(lambda batch: augment(batch, strengths, (name,)), images(2, 5).requires_grad_())


def test_color_in_the_middle_changes_nothing():
    batch = images(1)
    torch.testing.assert_close(augment(batch, draws(0.5, 0.5, 0.5), ("color",)), batch)
    torch.testing.assert_close(augment(batch, draws(0.9, 0.5, 0.5), ("color",)), batch + 0.4)
    gray = augment(batch, draws(0.5, 0, 0.5), ("color",))
    torch.testing.assert_close(gray, batch.mean(1, keepdim=True).expand_as(batch))
    flat = augment(batch, draws(0.5, 0.5, 0), ("color",))
    torch.testing.assert_close(flat - flat.mean(), (batch - batch.mean()) / 2)


def test_translation_shifts_by_an_eighth_at_most_and_brings_in_zeros():
    batch = images(1)
    assert torch.equal(augment(batch, draws(0.5, 0.5, 0), ("translation",)), batch)
    moved = augment(batch, draws(0, 0.999, 0), ("translation",))  # rows from 2 above, columns from 2 to the right
    assert torch.equal(moved[..., 2:, :-2], batch[..., :-2, 2:])
    assert moved[..., :2, :].abs().sum() == 0
    assert moved[..., -2:].abs().sum() == 0


def test_cutout_erases_a_square_of_half_the_size():
    batch = torch.ones(1, 3, 16, 16, dtype=torch.float64)
    erased = augment(batch, draws(0.5, 0.5, 0), ("cutout",))
    assert erased.sum() == 3 * (256 - 64)
    assert augment(batch, draws(0, 0, 0), ("cutout",)).sum() == 3 * (256 - 16)  # center in the corner


def test_flip():
    batch = images(2)
    result = flip(batch, torch.tensor([0.1, 0.9]))
    assert torch.equal(result[0], batch[0].flip(-1))
    assert torch.equal(result[1], batch[1])


def normal(value):
    """Return random numbers that Box-Muller turns into this standard normal one."""
    return draws(1 - math.exp(-(value**2) / 2), 0.0 if value > 0 else 0.5, 0)


def test_a_rotation_by_a_right_angle_moves_every_pixel_to_its_place():
    batch = images(2)
    angle = normal(math.pi / 2 / ROTATION).expand(2, 1, 3)
    torch.testing.assert_close(augment(batch, angle, ("rotation",)), batch.rot90(1, (2, 3)), atol=1e-6, rtol=0)
    torch.testing.assert_close(augment(batch, -0.0 * angle, ("rotation",)), batch)


def test_scale_zooms_into_the_center_and_out_to_reflections():
    smooth = torch.linspace(-1, 1, 32, dtype=torch.float64).expand(1, 3, 32, 32)
    larger = augment(smooth, normal(1 / SCALE), ("scale",))  # twice the size
    torch.testing.assert_close(larger, smooth / 2, atol=5e-3, rtol=0)
    smaller = augment(smooth, normal(-1 / SCALE), ("scale",))
    torch.testing.assert_close(smaller[..., 10:22], 2 * smooth[..., 10:22], atol=1e-2, rtol=0)
    torch.testing.assert_close(smaller[..., :8], smaller[..., 8:16].flip(-1))  # reflected at the border


def test_angles_and_zooms_are_normally_distributed():
    numbers = draw_augmentation(torch.Generator().manual_seed(0), 20_000, ("rotation", "scale"))
    turned, zoomed = (GEOMETRY[name](numbers[:, index]) for index, name in enumerate(("rotation", "scale")))
    for values, deviation in (
        (torch.atan2(turned[:, 1, 0], turned[:, 0, 0]), ROTATION),
        (zoomed[:, 0, 0].log2(), SCALE),
    ):
        assert values.mean().abs() < 0.02 * deviation
        assert values.std() / deviation == pytest.approx(1, abs=0.02)
        assert (values.abs() < deviation).double().mean() == pytest.approx(0.683, abs=0.01)


def test_geometric_augmentations_share_one_resampling_in_any_order(monkeypatch):
    calls, resample = [], functional.grid_sample
    monkeypatch.setattr(
        functional, "grid_sample", lambda *args, **options: calls.append(1) or resample(*args, **options)
    )
    batch, strengths = images(), torch.rand(4, 2, 3, dtype=torch.float64)
    both = augment(batch, strengths, ("rotation", "scale"))
    assert len(calls) == 1
    torch.testing.assert_close(augment(batch, strengths.flip(1), ("scale", "rotation")), both)
    assert not torch.allclose(augment(batch, strengths[:, :1], ("rotation",)), both)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", POLICY)
def test_gray_and_transparent_images(name, channels):
    batch = torch.rand(4, channels, 16, 16) * 2 - 1
    strengths = torch.rand(4, 1, 3)
    result = augment(batch, strengths, (name,))
    assert result.shape == batch.shape
    if channels == 4:
        alpha = batch[:, 3:] if name == "color" else augment(batch[:, 3:], strengths, (name,))
        assert torch.equal(result[:, 3:], alpha)


def test_the_numbers_are_the_same_whether_a_probability_decides_or_not():
    whole, by_chance = (
        draw_augmentation(torch.Generator().manual_seed(1), 8, POLICY, by_chance=each) for each in (False, True)
    )
    assert torch.equal(whole, torch.rand(8, len(POLICY), 3, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(by_chance[..., :3], whole)
    assert by_chance.shape == (8, len(POLICY), 4)


def test_at_probability_1_all_are_augmented_and_at_0_none_to_the_bit():
    batch = images(8).float()
    numbers = draw_augmentation(torch.Generator().manual_seed(1), 8, POLICY, by_chance=True)
    for probability in (0, 1):
        result = augment(batch, numbers, POLICY, torch.tensor(float(probability)))
        assert torch.equal(result, augment(batch, numbers[..., :3], POLICY) if probability else batch)


def test_each_augmentation_of_each_image_has_its_own_chance():
    batch, policy = images(1, 4).expand(2000, 3, 4, 4), ("rotation", "color", "scale")
    numbers = draw_augmentation(torch.Generator().manual_seed(1), 2000, policy, by_chance=True).double()
    decisions = numbers[..., 3] < 0.3
    assert decisions.double().mean(0).tolist() == pytest.approx([0.3] * 3, abs=0.03)
    assert (decisions[:, 0] & decisions[:, 1]).double().mean() == pytest.approx(0.09, abs=0.02)
    result = augment(batch, numbers, policy, torch.tensor(0.3))
    assert torch.equal((result != batch).flatten(1).any(1), decisions.any(1))
    for index, name in enumerate(policy):  # where it is the only one
        alone = decisions[:, index] & (decisions.sum(1) == 1)
        expected = augment(batch[alone], numbers[alone, index : index + 1, :3], (name,))
        torch.testing.assert_close(result[alone], expected)


def test_with_a_probability_it_is_still_differentiable():
    numbers = draw_augmentation(torch.Generator().manual_seed(1), 3, POLICY, by_chance=True).double()
    half = torch.tensor(0.5)
    torch.autograd.gradcheck(lambda batch: augment(batch, numbers, POLICY, half), images(3, 5).requires_grad_())
