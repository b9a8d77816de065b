from types import SimpleNamespace

import pytest

from fagan_hf.metrics.evaluate import Metric, rank
from fagan_hf.training.reporting.copies import compare_copies

FLOOR = 0.01


def warnings(shares):
    """Return at which evaluations there is a warning."""
    state, found = {}, []
    for index, share in enumerate(shares):
        measured = SimpleNamespace(nearness=SimpleNamespace(copied=share), real_nearness=SimpleNamespace(copied=FLOOR))
        state, warning = compare_copies(measured, 8 * index, state)
        found += [index] if warning else []
    return found


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([0.0, 0.01, 0.02], []),
        ([0.0, 0.01, 0.03, 0.04, 0.05], [2]),
        ([0.05, 0.04, 0.03], []),
        ([0.05, 0.04, 0.06, 0.07], [2]),
        ([0.01, 0.03, 0.025, 0.03], [1]),
        ([0.01, 0.03, 0.02, 0.03], [1, 3]),
        ([0.5], []),
    ],
    ids=["at most twice", "once", "falling", "high, then rising", "still above", "crossed again", "the first"],
)
def test_each_rise_above_twice_the_floor_is_warned_about_once(shares, expected):
    assert warnings(shares) == expected


def measured(distance, copied, floor=FLOOR):
    return [
        Metric("fd_x_8", "distance", distance, None, lower_is_better=True),
        Metric("copied_x_8", "copies", copied, floor, lower_is_better=True),
    ]


def test_models_that_copy_are_worse_than_all_others():
    models = [
        measured(1.0, 0.5),
        measured(3.0, 0.02),
        measured(2.0, 0.0),
        measured(0.5, 0.021),
        measured(9.0, 1.0, None),
    ]
    assert [each[0].value for each in sorted(models, key=rank)] == [2.0, 3.0, 9.0, 0.5, 1.0]
    assert rank(measured(1.0, 0.0)[:1]) == (False, 1.0)
