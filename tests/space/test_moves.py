"""Directions on the page: their names in words, their sliders, and pictures moved along them."""

import re

import numpy as np
import pytest
import torch
from fagan_space.border import GenerateTab, check
from fagan_space.models import load
from fagan_space.moves import direction_sliders, drag_note, read_moves, strongest
from fagan_space.remembered import digest, key_of, latents_for, write
from fagan_space.steps import in_steps
from fagan_space.tabs.generate import draw
from fagan_space.words import column_words, name_words, value_words

from benchmarks.serving import ROOT
from fagan_hf.models import Generator
from fagan_hf.sampling import latents_from_seeds

RELEASED = ROOT / "model_cards/fagan-avatars-64"


@pytest.fixture(scope="module")
def released():
    return load(str(RELEASED))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("skin_tone=brown", "Skin: brown"),
        ("hair_color=dark brown", "Hair color: dark brown"),
        ("clothes=turtleNeck", "Clothes: turtle neck"),
        ("beard", "Beard"),
        ("Wearing_Necktie", "Wearing Necktie"),
    ],
)
def test_names_are_shown_in_words(name, words):
    assert name_words(name) == words


def test_the_live_page_has_the_same_words():
    source = (ROOT / "space/live/src/words.ts").read_text()
    for rule in ("/_tone$/", r"/_/g", "([a-z])([A-Z])", '"Skin: brown"'):
        assert rule in source
    assert (column_words("skin_tone=brown"), value_words("turtleNeck")) == ("Skin", "turtle neck")


def test_values_of_sliders_and_dropdowns_are_told_apart(released):
    names = strongest(released)
    assert [slider.label for slider in direction_sliders(released)] == [name_words(name) for name in names]
    values = [0.0] * len(names)
    values[2] = -1.5
    assert read_moves(released, values) == ({names[2]: -1.5}, {})
    with pytest.raises(ValueError, match="strength of a direction is text"):
        read_moves(released, ["far", *values[1:]])
    with pytest.raises(ValueError, match="1 labels were sent; this model has 0"):
        read_moves(released, [*values, "any"])


@pytest.mark.parametrize("moves", [[1.5, [1]], [1.5, float("nan")], [1.5, 1e9], [1.5, None]])
def test_a_strength_that_is_no_number_is_named_by_its_place(moves):
    with pytest.raises(ValueError, match=r"^chosen\[1\] is .*; it must be a number from -100 to 100$"):
        check(GenerateTab, ["0-3", 1.0, True, 0.0, *moves], None)
    with pytest.raises(ValueError, match=r"^chosen is .*; it must be at most 200 strengths and names of classes$"):
        check(GenerateTab, ["0-3", 1.0, True, 0.0, *[1.5] * 201], None)


def test_pictures_are_moved_and_without_strengths_they_are_not(released):
    [still], [plain] = draw(released, [4], strengths={}), draw(released, [4])
    assert still.tobytes() == plain.tobytes()
    [bearded] = draw(released, [4], strengths={"beard": 3.0}, truncation=0.9)
    latents = released.directions.move(latents_from_seeds([4], 64, 0.9), {"beard": 3.0})
    assert bearded.tobytes() == released.pipe(latents=latents).images[0].tobytes()
    with pytest.raises(ValueError, match="unknown direction 'wings'"):
        draw(released, [4], strengths={"wings": 1.0})


def test_what_is_dragged_along_is_said(released):
    assert drag_note(released, {}) == ""
    said = drag_note(released, {"beard": 1.0, "mouth=laugh": -2.0})
    assert re.match(r"- “Beard” drags along: less “Clothes: dress”, ", said)
    assert "laugh" not in said, "nothing of another label overlaps with it visibly"


def test_latents_of_examples_count_for_their_generator_only(tmp_path):
    one, other = Generator.from_preset("fagan-32"), Generator.from_preset("fagan-32")
    picture = np.zeros((3, 32, 32), np.uint8)
    file = tmp_path / "latents.safetensors"
    write({key_of(picture): torch.ones(1, 64)}, one, file)
    assert torch.equal(latents_for(one, file)[key_of(picture)], torch.ones(1, 64))
    assert digest(one) != digest(other)
    assert latents_for(other, file) == {}
    assert latents_for(one, tmp_path / "none") == {}


def test_the_examples_latents_are_the_released_models(released):
    from fagan_space.tabs.project import first_example
    from fagan_space.uploads import EXAMPLES, example_picture

    known = latents_for(released.generator)
    assert [*known] != []
    assert {key_of(example_picture(released, index)) for index in range(len(EXAMPLES))} == {*known}
    assert first_example(released).distance < 0.15


def test_steps_are_reported_and_the_result_is_the_last():
    def work(tell):
        import time

        for number in range(4):
            tell(number)
            time.sleep(0.35)
        return "done"

    *reports, result = in_steps(work)
    assert result == "done"
    assert reports
    assert reports == sorted(reports)

    def fail(tell):
        tell(1)
        raise ValueError("too far")

    with pytest.raises(ValueError, match="too far"):
        list(in_steps(fail))
