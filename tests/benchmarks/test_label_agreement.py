import numpy as np
import torch

from benchmarks.label_agreement import LinearClassifier, agreement

NAMES = ("bright", "side=left", "side=right")


def pictures(count):
    """Make bright or dark images with a spot on the left or on the right."""
    random = np.random.default_rng(0)
    labels = np.zeros((count, 3), np.float32)
    images = random.integers(0, 20, (count, 3, 8, 8), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        label[0] = random.random() < 0.3
        label[1 + random.integers(2)] = 1
        image += np.uint8(100 * label[0])
        image[:, 3:5, 1:3] += np.uint8(60 * label[1])
        image[:, 3:5, 5:7] += np.uint8(60 * label[2])
    return images, labels


def test_labels_are_read_off_pixels_and_shuffled_ones_are_not():
    images, labels = pictures(600)
    classifier = LinearClassifier(images[:400], labels[:400])
    scores, wanted = classifier.scores(images[400:]), torch.from_numpy(labels[400:])
    right = agreement(scores, wanted, NAMES)
    assert list(right) == ["bright", "side"]
    assert min(right.values()) > 0.97
    wrong = agreement(scores, wanted[torch.randperm(200)], NAMES)
    assert all(0.35 < rate < 0.65 for rate in wrong.values())


def test_a_classifier_that_always_says_the_same_is_worth_nothing():
    wanted = torch.tensor([[1.0, 1, 0]] * 9 + [[0.0, 0, 1]])
    always = torch.tensor([[1.0, 1, 0]] * 10)
    assert agreement(always, wanted, NAMES) == {"bright": 0.5, "side": 0.5}
