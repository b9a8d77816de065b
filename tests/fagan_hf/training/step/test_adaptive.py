import math

import pytest
import torch

from fagan_hf.losses import LOSSES, overfitting
from fagan_hf.training.step.adaptive import EVERY_STEPS, HIGHEST, AugmentProbability

CPU = torch.device("cpu")
GOOD, BAD = torch.tensor(True), torch.tensor(False)


def follow(probability, values, is_good=GOOD):
    """Observe a step for each value; return the probability after each."""
    seen = []
    for value in values:
        probability.observe(torch.tensor(value), is_good)
        seen.append(probability.value.item())
    return seen


def test_it_moves_every_few_steps_towards_the_target():
    probability = AugmentProbability(CPU, 0.5, target=0.6, change=0.1)
    assert follow(probability, [1.0] * 2 * EVERY_STEPS) == pytest.approx([0.5] * 3 + [0.6] * 4 + [0.7])
    assert follow(probability, [0.0] * EVERY_STEPS)[-1] == pytest.approx(0.6)
    assert follow(probability, [1.0, 1.0, 0.1, 0.1])[-1] == pytest.approx(0.5)  # 0.55 on average
    assert follow(probability, [1.0, 1.0, 0.3, 0.3])[-1] == pytest.approx(0.6)


def test_it_stays_in_its_bounds():
    probability = AugmentProbability(CPU, 0.0, target=0.6, change=0.3)
    assert follow(probability, [-1.0] * EVERY_STEPS)[-1] == 0
    assert follow(probability, [1.0] * 5 * EVERY_STEPS)[-1] == pytest.approx(HIGHEST) == pytest.approx(0.8)


@pytest.mark.parametrize("value", [1.0, math.nan])
def test_a_skipped_step_does_not_count(value):
    probability = AugmentProbability(CPU, 0.0, target=0.6, change=0.3)
    follow(probability, [1.0] * (EVERY_STEPS - 1))
    before = probability.state.clone()
    follow(probability, [value] * 9, BAD)
    assert torch.equal(probability.state, before)
    assert follow(probability, [1.0])[-1] == pytest.approx(0.3)


def test_the_state_stays_where_a_graph_reads_it():
    probability = AugmentProbability(CPU, 0.0, target=0.6, change=0.3)
    address = probability.state.data_ptr()
    follow(probability, [1.0] * 5)
    saved = probability.state.clone()
    follow(probability, [1.0] * 5)
    probability.restore(saved)
    assert torch.equal(probability.state, saved)
    probability.restore(None)  # from a checkpoint of a run that was not adaptive
    assert probability.state.tolist() == [0, 0, 0]
    assert probability.state.data_ptr() == address == probability.value.data_ptr()


def test_of_a_recipe(make_recipe):
    assert AugmentProbability.of(make_recipe(augment=("color",)), CPU) is None
    constant = AugmentProbability.of(make_recipe(augment=("color",), augment_probability=0.3), CPU)
    assert (constant.value.item(), constant.is_adaptive) == (pytest.approx(0.3), False)
    fields = {"augment": ("color",), "augment_target": 0.5, "augment_adjust_images": 1000, "batch_size": 10}
    adaptive = AugmentProbability.of(make_recipe(**fields), CPU)
    assert (adaptive.value, adaptive.target, adaptive.change) == (0, 0.5, pytest.approx(EVERY_STEPS * 10 / 1000))


@pytest.mark.parametrize("loss", LOSSES)
def test_overfitting_is_how_many_real_images_are_on_the_real_side(loss):
    """The border is the logit that means undecided; without one, half way between both means."""
    border = LOSSES[loss].undecided or 0.0
    real, fake = torch.tensor([3.0, 1.0, 2.0, -1.0]) + border, torch.tensor([-2.0, -1.0, -1.5, -0.5]) + border
    assert overfitting(LOSSES[loss], real, fake) == 0.5
    shifted = overfitting(LOSSES[loss], real + 10, fake + 10)
    assert shifted == (0.5 if LOSSES[loss].undecided is None else 1)
