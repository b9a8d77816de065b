from types import SimpleNamespace

import pytest

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
