import json
import math

import pytest
import torch

from fagan_hf.training.reporting.means import Means, means_of

CPU = torch.device("cpu")


def scalars(**numbers):
    return {name: torch.tensor(number) for name, number in numbers.items()}


def told(means):
    return means_of(means.names(), means.table()[None])


def test_means_since_the_last_line():
    means = Means(CPU)
    assert means.names() == []
    means.add(scalars(loss=1.0, logit=4.0))
    means.add(scalars(loss=3.0, logit=0.0))
    assert told(means) == {"loss": 2.0, "logit": 2.0}
    means.clear()
    assert means.names() == []
    assert told(means) == {}
    means.add(scalars(logit=7.0))
    assert told(means) == {"logit": 7.0}


def test_what_comes_seldom_is_a_mean_of_those_times():
    means = Means(CPU)
    for step in range(4):
        means.add(scalars(loss=float(step)) | (scalars(r1=10.0 * step) if step % 2 else {}))
    assert told(means) == {"loss": 1.5, "r1": 20.0}
    assert means.names() == ["loss", "r1"]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_out(number):
    means = Means(CPU)
    for loss in (1.0, number, 2.0):
        means.add(scalars(loss=loss, norm=number))
    assert told(means) == {"loss": 1.5}


def test_sums_that_are_too_large_are_no_numbers_of_a_line():
    means = Means(CPU)
    for _ in range(2):
        means.add(scalars(loss=3e38, logit=1.0))
    line = told(means)
    assert line["logit"] == 1.0
    json.dumps(line, allow_nan=False)


def test_each_process_counts_the_same_where_it_has_a_number():
    tables = torch.tensor([[[4.0, 0.0, 0.0], [2.0, 0.0, 0.0]], [[6.0, 9.0, 0.0], [1.0, 3.0, 0.0]]])
    assert means_of(["loss", "r1", "none"], tables) == {"loss": 4.0, "r1": 3.0}


def test_taken_up_in_the_middle_they_are_the_same_to_the_bit():
    """With numbers whose sum depends on the order, and some that occur rarely."""
    steps = [
        scalars(loss=number) | (scalars(r1=1 / (index + 3)) if index % 3 == 0 else {})
        for index, number in enumerate(torch.rand(50).tolist())
    ]
    whole = Means(CPU)
    for step in steps:
        whole.add(step)
    for half in (1, 7, 20):
        first, second = Means(CPU), Means(CPU)
        for step in steps[:half]:
            first.add(step)
        second.restore(first.names(), first.table())
        for step in steps[half:]:
            second.add(step)
        assert second.names() == whole.names()
        assert torch.equal(second.table(), whole.table()), half


def test_half_precision_is_summed_in_single():
    means = Means(CPU)
    for _ in range(1000):
        means.add({"loss": torch.tensor(1.0, dtype=torch.bfloat16)})
    assert told(means) == {"loss": 1.0}
