import numpy as np
import pytest

from fagan_hf.data.labels import LabelColumn, encode_column


@pytest.mark.parametrize("values", [[True, False, True], [1, 0, 1], [1, -1, 1], [np.int64(1), np.bool_(False), 1]])
def test_claims_are_one_column(values):
    names, encoded = encode_column("Smiling", LabelColumn(values))
    assert names == ("Smiling",)
    assert encoded.dtype == np.float32
    assert encoded.tolist() == [[1], [0], [1]]


def test_a_column_in_which_every_claim_is_false():
    assert encode_column("Bald", LabelColumn([-1, -1]))[1].tolist() == [[0], [0]]


@pytest.mark.parametrize(
    ("values", "names"), [(["b", "a", "b"], ("x=a", "x=b")), ([7, 3, 7], ("x=3", "x=7")), ([2, 0, 2], ("x=0", "x=2"))]
)
def test_classes_are_one_column_each(values, names):
    assert encode_column("x", LabelColumn(values))[0] == names
    assert encode_column("x", LabelColumn(values))[1].tolist() == [[0, 1], [1, 0], [0, 1]]


def test_declared_classes_keep_their_order_and_those_that_never_occur():
    names, encoded = encode_column("x", LabelColumn(["a", "c"], ["c", "b", "a"]))
    assert names == ("x=c", "x=b", "x=a")
    assert encoded.tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (LabelColumn(["a", None]), r"contains None \(NoneType\) in row 1"),
        (LabelColumn([0.5]), r"contains 0\.5 \(float\) in row 0; a label must be a bool, an int or a str"),
        (LabelColumn([[1]]), r"contains \[1\] \(list\)"),
        (LabelColumn(["d"], ["a", "b"]), r"contains 'd', which is not one of \['a', 'b'\]"),
        (LabelColumn(range(2000)), "has 2000 classes; at most 1024"),
    ],
)
def test_refused(column, message):
    with pytest.raises(ValueError, match=message):
        encode_column("x", column)


def test_classes_that_are_written_alike_are_refused():
    with pytest.raises(ValueError, match=r"'size' has classes with the same spelling, such as 1 and '1'"):
        encode_column("size", LabelColumn([1, "1", 2]))
