import pytest
import torch

from fagan_hf.training.step.augment import AUGMENTATIONS, augment, draw_augmentation, flip

POLICY = tuple(AUGMENTATIONS)


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
