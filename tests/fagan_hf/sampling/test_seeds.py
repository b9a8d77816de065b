import pytest

from fagan_hf.sampling.seeds import MAX_SEED, parse_seeds


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("5", [5]),
        ("0-3", [0, 1, 2, 3]),
        (" 0-1 , 42", [0, 1, 42]),
        ("7-7,7", [7, 7]),
        ("0 1 2", [0, 1, 2]),
        ("0\u20133", [0, 1, 2, 3]),
        ("0 \u2014 1,\t5 \u2212 6  9\n", [0, 1, 5, 6, 9]),
    ],
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["abc", "1-", "5-1", "", "1,,2", "-1", "1.5", "0-15;3", "²", "1--3", "1-2-3", ", 1"])
def test_no_seeds(text):
    with pytest.raises(ValueError, match="write them like '0-15, 42'"):
        parse_seeds(text)


def test_too_many_or_too_large():
    with pytest.raises(ValueError, match="more than 1,000,000"):
        parse_seeds("0-1000000")
    with pytest.raises(ValueError, match="it must be at most"):
        parse_seeds(str(MAX_SEED + 1))
