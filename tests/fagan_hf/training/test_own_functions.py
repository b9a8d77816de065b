"""Losses and augmentations that users register: tried at once, so that training can rely on what they say."""

import pytest
import torch
from torch.nn.functional import softplus

from fagan_hf.augmentations import AUGMENTATIONS, DISTORTIONS, augment, draw_augmentation, register_augmentation
from fagan_hf.losses import LOSSES, Loss, register_loss
from fagan_hf.training.flags import build_recipe, parse_recipe
from tests.sessions import train

FILE = """
import torch
from torch.nn.functional import softplus

from fagan_hf.architectures.presets import preset
from fagan_hf.augmentations import register_augmentation
from fagan_hf.losses import Loss, register_loss

GENERATOR, DISCRIMINATOR = preset("tiny")


def judge(real, fake):
    return (softplus(1 - real) + softplus(1 + fake)).mean()


def deceive(real, fake):
    return softplus(-fake).mean()


def dim(images, draws):
    return images * draws[:, 0, None, None, None]


register_loss("softer", Loss(judge, deceive, undecided=0.0))
register_augmentation("dim", dim)
"""


@pytest.fixture(autouse=True)
def _registries():
    """What a test registers is gone after it."""
    before = [(registry, dict(registry)) for registry in (LOSSES, DISTORTIONS)]
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


def judge(real, fake):
    return (softplus(-real) + softplus(fake)).mean()


def deceive(real, fake):
    return softplus(-fake).mean()


def test_a_loss_of_your_own_is_one_of_them():
    register_loss("mine", Loss(judge, deceive, undecided=0.0))
    assert LOSSES["mine"].discriminator is judge
    register_loss("mine", Loss(judge, deceive))
    assert LOSSES["mine"].undecided is None


@pytest.mark.parametrize(
    ("name", "loss", "words"),
    [
        ("hinge", Loss(judge, deceive), r"loss 'hinge' is taken by fagan_hf.losses.hinge_discriminator"),
        ("My loss", Loss(judge, deceive), r"name of a loss is 'My loss'; it must be a word in lower case"),
        ("mine", judge, r"must be a fagan_hf.losses.Loss"),
        ("mine", Loss(lambda r, f: softplus(f), deceive), r"discriminator's returned \[8\] instead of a scalar"),
        ("mine", Loss(judge, lambda r, f: f.detach().mean()), r"generator's does not depend on the fakes"),
        ("mine", Loss(judge, lambda r, f: (f - r).mean()), r"can't be computed without real logits .*is_relative=True"),
        (
            "mine",
            Loss(lambda r, f: (r.mean() - f.mean()) ** 2, deceive),
            r"not a mean over images",
        ),
    ],
    ids=["taken", "name", "no loss", "no scalar", "detached", "relative", "means"],
)
def test_a_loss_that_is_not_what_it_says_is_refused(name, loss, words):
    with pytest.raises(ValueError, match=words):
        register_loss(name, loss)
    assert "mine" not in LOSSES


def test_what_a_loss_declares_is_believed_if_it_is_so():
    register_loss("mine", Loss(judge, lambda r, f: (f - r).mean(), is_relative=True))
    register_loss("apart", Loss(lambda r, f: (r.mean() - f.mean()) ** 2, deceive, compares_with_means=True))


def dim(images, draws):
    return images * draws[:, 0, None, None, None]


def test_an_augmentation_of_your_own_is_applied_in_its_place():
    register_augmentation("dim", dim)
    assert "dim" in AUGMENTATIONS
    images = torch.rand(4, 3, 8, 8)
    draws = draw_augmentation(torch.Generator().manual_seed(0), 4, ("dim", "cutout"))
    expected = augment(dim(images, draws[:, 0]), draws[:, 1:], ("cutout",))
    assert torch.equal(augment(images, draws, ("dim", "cutout")), expected)


@pytest.mark.parametrize(
    ("name", "function", "words"),
    [
        ("cutout", dim, r"'cutout' is taken by fagan_hf.augmentations.cutout"),
        ("rotation", dim, r"'rotation' is taken by"),
        ("small", lambda x, d: x[..., :4], r"'small' returned \[2, 3, 8, 4\] torch.float32 for \[2, 3, 8, 8\]"),
        ("wide", lambda x, d: x.double(), r"torch.float64 for"),
        ("flat", lambda x, d: x.detach() * 2, r"not differentiable"),
        ("noise", lambda x, d: x + torch.rand_like(x), r"other images for the same numbers"),
        ("mixed", lambda x, d: x - x.mean(0), r"differently if another one is in the batch"),
    ],
    ids=["taken", "geometry", "shape", "dtype", "constant", "random", "batch"],
)
def test_an_augmentation_that_does_something_else_is_refused(name, function, words):
    with pytest.raises(ValueError, match=words):
        register_augmentation(name, function)
    assert name in ("cutout", "rotation") or name not in AUGMENTATIONS


def test_a_recipe_names_what_its_file_registers(tmp_path, make_recipe):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    fields = make_recipe().to_plain() | {"model": str(path)}
    recipe = build_recipe(None, **fields | {"loss": "softer", "augment": ["dim", "color"]})
    assert (recipe.loss, recipe.augment) == ("softer", ("dim", "color"))


def test_an_unknown_one_is_named_with_what_to_do(make_recipe, capsys):
    for field, value in (("loss", "hings"), ("augment", ("colour",))):
        with pytest.raises(ValueError, match=rf"{field} is '.*did you mean '.*registered by the file of --model"):
            make_recipe(**{field: value})
    with pytest.raises(SystemExit, match="2"):
        parse_recipe(["--recipe", "avatars-32", "--loss", "hings"])
    assert "loss is 'hings'; did you mean 'hinge'" in capsys.readouterr().err


def test_a_run_with_a_loss_and_an_augmentation_of_its_own(tmp_path, make_recipe):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    make_recipe(model=str(path))
    session = train(make_recipe(model=str(path), loss="softer", augment=("dim",), max_images=8))
    assert session.images_seen == 8
    assert "softer" in (session.recipe.run_dir / "README.md").read_text()
