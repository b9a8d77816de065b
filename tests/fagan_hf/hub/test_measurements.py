import json
from dataclasses import asdict, replace

import pytest

from fagan_hf.hub.measurements import Measurement, add_measurement, read_measurements

FIRST = Measurement(
    type="fd_x_2048",
    name="Fréchet distance",
    value=12.5,
    features="x",
    num_images=2048,
    reference="2,048 of the test split",
    generator="a" * 64,
    dataset="user/flowers",
)


def test_written_and_read_is_equal(tmp_path):
    full = replace(FIRST, split="test", lower_is_better=False, floor=1.5, error=0.25, command="python measure.py")
    add_measurement(tmp_path, full)
    assert read_measurements(tmp_path) == [full]


def test_nothing_measured(tmp_path):
    assert read_measurements(tmp_path) == []


def test_a_newer_one_of_the_same_type_takes_the_place(tmp_path):
    other = replace(FIRST, type="kd_x_2048", value=0.5)
    for each in (FIRST, other, replace(FIRST, value=11.0)):
        add_measurement(tmp_path, each)
    assert read_measurements(tmp_path) == [other, replace(FIRST, value=11.0)]


def test_those_of_other_weights_are_dropped(tmp_path):
    add_measurement(tmp_path, replace(FIRST, generator="b" * 64, type="kd_x_2048"))
    add_measurement(tmp_path, FIRST)
    assert read_measurements(tmp_path) == [FIRST]


@pytest.mark.parametrize("field", ["value", "floor", "error"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_are_finite(field, number):
    with pytest.raises(ValueError, match=r"(fd_x_2048|its floor|its error) is -?(nan|inf); it must be a finite number"):
        replace(FIRST, **{field: number})


def test_an_unknown_field_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown field 'valeu'.*did you mean 'value'"):
        Measurement.from_dict(asdict(FIRST) | {"valeu": 1})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ('"text"', "contains str; it must be a list"),
        ('{"type": "x"}', "contains dict; it must be a list"),
        ("[3]", "a measurement is 3; it must be a mapping"),
        ('[{"type": "fd"}]', "measurement 'fd': .*missing"),
        ('[{"color": 1}]', "unknown field 'color'"),
        (json.dumps([asdict(FIRST) | {"value": "12"}]), "measurement 'fd_x_2048': must be real number"),
        (json.dumps([asdict(FIRST) | {"value": float("nan")}]), "is nan"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, reason):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match=rf"metrics\.json.*{reason}"):
        read_measurements(tmp_path)
