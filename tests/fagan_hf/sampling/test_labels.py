import numpy as np
import pytest
import torch

from fagan_hf.models.labels import even_frequencies
from fagan_hf.sampling.labels import draw_labels, encode_labels, parse_label
from fagan_hf.utils.label_names import label_groups, label_values

NAMES = ("beard", "hair=red", "hair=black", "hair=gray", "glasses")


def test_names_with_the_same_column_belong_together():
    assert label_groups(NAMES) == {"beard": [0], "hair": [1, 2, 3], "glasses": [4]}
    assert label_values(NAMES)[:3] == [{"beard": False}, {"beard": True}, {"hair": "red"}]
    assert len(label_values(NAMES)) == 2 + 3 + 2
    torch.testing.assert_close(even_frequencies(NAMES), torch.tensor([0.5, 1 / 3, 1 / 3, 1 / 3, 0.5]))


@pytest.mark.parametrize(
    ("wishes", "decided"),
    [
        ({"beard": True}, {0: 1}),
        ({"beard": "no", "glasses": "0.25"}, {0: 0, 4: 0.25}),
        ({"hair": "black"}, {1: 0, 2: 1, 3: 0}),
        ({"hair=gray": 1}, {1: 0, 2: 0, 3: 1}),
        ({"hair=gray": False}, {3: 0}),
        ({"hair=gray": 0, "hair=red": "no"}, {1: 0, 3: 0}),
        ({"hair=gray": 0.5, "hair=red": 0.5}, {1: 0.5, 2: 0, 3: 0.5}),
        ({}, {}),
    ],
)
def test_wishes_become_numbers(wishes, decided):
    assert encode_labels(NAMES, wishes) == decided


def test_classes_may_be_numbers():
    assert encode_labels(("digit=1", "digit=2"), {"digit": 2}) == {0: 0, 1: 1}


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        (
            {"breard": 1},
            r"unknown label 'breard'; did you mean 'beard'\? There are: beard, glasses, hair; hair is",
        ),
        ({"hair=blue": 1}, r"unknown label 'hair=blue'; .*hair is one of red, black, gray"),
        ({"hair": "blue"}, "label hair is 'blue'; There are: black, gray, red"),
        ({"hair": True}, "label hair is True; .*There are: black, gray, red"),
        ({"beard": 2}, "label beard is 2; it must be true, false, or a number from 0 to 1"),
        ({"beard": float("nan")}, "label beard is nan"),
        ({"beard": "perhaps"}, "label beard is 'perhaps'"),
        ({"beard": None}, "label beard is None"),
        (
            {"hair=red": 0.5},
            "labels hair=red, hair=black, hair=gray add up to 0.5; the classes of hair must add up to 1",
        ),
        ({"hair=red": 1, "hair=gray": 1}, "add up to 2"),
        ({"hair=red": 0, "hair=black": 0, "hair=gray": 0}, "add up to 0"),
    ],
)
def test_impossible_wishes_list_what_there_is(wishes, message):
    with pytest.raises(ValueError, match=message):
        encode_labels(NAMES, wishes)


def test_draws_follow_the_frequencies():
    frequencies = torch.tensor([0.2, 0.7, 0.3, 0.0, 1.0])
    labels = draw_labels(NAMES, frequencies, range(4000))
    torch.testing.assert_close(labels.mean(0), frequencies, atol=0.03, rtol=0)
    assert torch.all(labels[:, 1:4].sum(1) == 1)
    assert set(labels.unique().tolist()) == {0, 1}


def test_a_seed_has_its_labels_whatever_the_batch():
    frequencies = even_frequencies(NAMES)
    all_at_once = draw_labels(NAMES, frequencies, range(20))
    assert torch.equal(draw_labels(NAMES, frequencies, [7, 3]), all_at_once[[7, 3]])


def test_a_wish_changes_no_other_label():
    frequencies = even_frequencies(NAMES)
    free, bearded = (draw_labels(NAMES, frequencies, range(50), wishes) for wishes in (None, {"beard": 1}))
    assert torch.all(bearded[:, 0] == 1)
    assert not torch.all(free[:, 0] == 1)
    assert torch.equal(free[:, 1:], bearded[:, 1:])


def test_an_excluded_class_leaves_the_others():
    frequencies = torch.tensor([0.5, 0.2, 0.6, 0.2, 0.5])
    labels = draw_labels(NAMES, frequencies, range(2000), {"hair=black": False})
    torch.testing.assert_close(labels[:, 1:4].mean(0), torch.tensor([0.5, 0.0, 0.5]), atol=0.04, rtol=0)
    only = draw_labels(NAMES, torch.tensor([0.5, 0.0, 1.0, 0.0, 0.5]), range(50), {"hair=black": False})
    assert torch.all(only[:, 1] + only[:, 3] == 1)  # labels that never occur in the data may still be requested


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("beard=1", ("beard", "1")),
        ("hair=red", ("hair", "red")),
        ("hair=red=0.5", ("hair=red", "0.5")),
        ("kind=a=b", ("kind", "a=b")),
        ("nothing=x", ("nothing", "x")),
    ],
)
def test_wishes_of_the_shell(text, wish):
    assert parse_label((*NAMES, "kind=a=b"), text) == wish


def test_wishes_for_each():
    wishes = [{"hair": "red"}, {"hair": "gray", "beard": False}]
    labels = draw_labels(NAMES, even_frequencies(NAMES), [1, 2], wishes)
    assert labels[:, 1:4].tolist() == [[1, 0, 0], [0, 0, 1]]
    assert labels[1, 0] == 0
    with pytest.raises(ValueError, match="2 label mappings for 3 images; give one for all, or one for each"):
        draw_labels(NAMES, even_frequencies(NAMES), [1, 2, 3], wishes)
    with pytest.raises(ValueError, match="they must be a mapping of names to values, or a list"):
        draw_labels(NAMES, even_frequencies(NAMES), [1], "beard")


def test_frequencies_that_do_not_add_up_are_no_trouble():
    """For example because of rounding to half precision."""
    labels = draw_labels(("c=0", "c=1"), torch.tensor([0.4, 0.4]), range(1000))
    assert np.isclose(labels[:, 0].mean(), 0.5, atol=0.06)
    assert torch.all(labels.sum(1) == 1)
