import numpy as np
import pytest

from fagan_hf.viz.grids import enlarged, image_grid


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


def test_enlarging():
    small = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(1, 2, 3, 3)
    large = enlarged(small, 2)
    assert large.shape == (1, 4, 6, 3)
    assert all(np.array_equal(large[:, row::2, column::2], small) for row in range(2) for column in range(2))
    assert enlarged(np.zeros((1, 100, 100, 3), np.uint8)).shape == (1, 300, 300, 3)
    assert enlarged(np.zeros((1, 512, 512, 3), np.uint8)).shape == (1, 512, 512, 3)
    with pytest.raises(ValueError, match="scale is 0"):
        enlarged(small, 0)


def test_captions_stand_beside_their_rows():
    black = np.zeros((4, 20, 10, 3), np.uint8)
    grid = np.asarray(image_grid(black, 2, captions=["a", "longer"]))
    margin = grid.shape[1] - 20
    assert np.array_equal(grid[:, margin:], np.zeros((40, 20, 3), np.uint8))
    first, second = grid[:20, :margin], grid[20:, :margin]
    assert (first < 128).any()
    assert (second < 128).sum() > 2 * (first < 128).sum()
    with pytest.raises(ValueError, match="1 captions for 2 rows"):
        image_grid(black, 2, captions=["a"])
