import pytest

from fagan_hf.utils.json_text import parse_json


@pytest.mark.parametrize(
    "text",
    ["", "{", b"\xff\xfe", "[" * 200_000, '{"a": ' * 200_000, "9" * 5_000],
    ids=["nothing", "half", "no UTF-8", "deep lists", "deep objects", "many digits"],
)
def test_whatever_is_wrong_is_one_kind_of_error(text):
    with pytest.raises(ValueError, match=r".+"):
        parse_json(text)


def test_text_and_bytes_are_parsed_alike():
    assert parse_json('{"a": [1, 2.5, null]}') == parse_json(b'{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}
