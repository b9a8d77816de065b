import numpy as np
import pytest

from fagan_hf.grids import image_grid


def pictures(count):
    return np.stack([np.full((2, 3, 3), 10 * index, np.uint8) for index in range(count)])


def test_row_by_row():
    grid = np.asarray(image_grid(pictures(5), columns=3))
    assert grid.shape == (4, 9, 3)
    assert grid[::2, ::3, 0].tolist() == [[0, 10, 20], [30, 40, 255]]


@pytest.mark.parametrize(("count", "size"), [(1, (3, 2)), (4, (6, 4)), (5, (9, 4)), (16, (12, 8))])
def test_about_a_square(count, size):
    assert image_grid(pictures(count)).size == size


@pytest.mark.parametrize(("count", "columns"), [(0, None), (3, 0)])
def test_no_grid(count, columns):
    with pytest.raises(ValueError, match="it needs at least one of each"):
        image_grid(pictures(max(count, 1))[:count], columns)
