import numpy as np
import pytest

from fagan_hf.training.step.labels import Mismatcher


def test_wrong_labels_are_wrong_and_come_as_often_as_they_should():
    kinds = np.eye(3, dtype=np.float32)
    labels = kinds[[0] * 60 + [1] * 30 + [2] * 10]
    mismatcher = Mismatcher(labels)
    random = np.random.default_rng(0)
    indices = random.integers(0, 100, 6000)
    wrong = mismatcher.draw(indices, random.random(6000)).numpy()
    assert not np.any(np.all(wrong == labels[indices], axis=1))
    of_the_first = wrong[indices < 60].mean(0)
    np.testing.assert_allclose(of_the_first, [0, 0.75, 0.25], atol=0.03)


def test_the_ends_of_the_draws():
    mismatcher = Mismatcher(np.array([[0.0], [1.0], [1.0], [0.5]], np.float32))
    draws = np.array([0.0, np.nextafter(1, 0)])
    for image, expected in ((0, [0.5, 1]), (1, [0, 0.5]), (3, [0, 1])):
        assert mismatcher.draw(np.array([image] * 2), draws).flatten().tolist() == expected


def test_there_must_be_something_wrong():
    with pytest.raises(ValueError, match="all images have the same labels"):
        Mismatcher(np.ones((5, 2), np.float32))
