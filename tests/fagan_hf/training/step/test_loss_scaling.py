import pytest
import torch
from torch import nn

from fagan_hf.training.step.loss_scaling import GROWTH_STEPS, INITIAL, LARGEST, LossScale

CPU = torch.device("cpu")
YES, NO = torch.tensor(True), torch.tensor(False)


def test_an_overflow_halves_the_factor():
    scale = LossScale(CPU)
    assert scale.observe(NO, YES)
    assert scale.value == INITIAL / 2
    assert not scale.observe(YES, YES)
    assert scale.value == INITIAL / 2


def test_a_loss_that_is_not_finite_is_not_the_factors_fault():
    scale = LossScale(CPU)
    assert not scale.observe(NO, NO)
    assert scale.value == INITIAL


def test_below_one_the_factor_is_not_to_blame():
    scale = LossScale(CPU)
    scale.restore(torch.tensor([1.0, 3.0]))
    assert not scale.observe(NO, YES)
    assert scale.state.tolist() == [1, 3]


def test_steps_without_overflow_double_it_up_to_a_limit():
    scale = LossScale(CPU)
    scale.restore(torch.tensor([LARGEST / 2, GROWTH_STEPS - 1]))
    scale.observe(YES, YES)
    assert scale.state.tolist() == [LARGEST, 0]
    scale.restore(torch.tensor([LARGEST, GROWTH_STEPS - 1]))
    scale.observe(YES, YES)
    assert scale.value == LARGEST


def test_an_overflow_starts_the_count_again():
    scale = LossScale(CPU)
    scale.restore(torch.tensor([64.0, GROWTH_STEPS - 1]))
    scale.observe(NO, YES)
    scale.observe(YES, YES)
    assert scale.state.tolist() == [32, 1]


def test_gradients_are_divided_by_it_and_stay_what_they_are_if_not_finite():
    scale, parameter = LossScale(CPU), nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([INITIAL, float("inf"), float("nan")])
    scale.unscale([parameter, nn.Parameter(torch.zeros(2))])
    assert parameter.grad.tolist() == pytest.approx([1, float("inf"), float("nan")], nan_ok=True)


def test_it_stays_where_a_graph_reads_it():
    scale = LossScale(CPU)
    address = scale.state.data_ptr()
    scale.observe(NO, YES)
    scale.restore(None)
    assert scale.state.data_ptr() == address
    assert scale.value == INITIAL
