import re

import pytest

from fagan_hf.data import avatars
from fagan_hf.hub.licenses import kind_of, terms

CELEBA = {"license": "other", "license_name": "celeba-non-commercial-research"}


@pytest.mark.parametrize(
    ("dataset", "kind"),
    [
        ("avatars:lorelei", "avatars"),
        ("avatars", "other"),  # a folder of that name: our avatars name their style
        ("avatars-of-mine", "other"),
        ("user/avatars", "other"),
        ("flwrlabs/celeba", "celeba"),
        ("nielsr/CelebA-faces", "celeba"),
        ("celeba", "celeba"),
        ("CELEBA_64", "celeba"),
        ("user/flowers", "other"),
    ],
)
def test_kinds(dataset, kind):
    assert kind_of(dataset) == kind


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("CC0 1.0", {"license": "cc0-1.0"}),
        ("CC BY 4.0", {"license": "cc-by-4.0"}),
        ("MIT", {"license": "mit"}),
        (
            "Free for personal and commercial use",
            {"license": "other", "license_name": "free-for-personal-and-commercial-use"},
        ),
    ],
)
def test_avatars_stand_under_the_license_of_their_style(name, keys):
    found = terms([{"dataset": "avatars:x", "license": name, "attribution": "By Somebody"}])
    assert found.metadata == keys
    assert found.data == f"License: {name}. By Somebody."
    assert f"published under {name}" in found.weights


def test_the_styles_there_are_have_names_that_the_hub_takes():
    """Lower-case letters, digits, dots, dashes."""
    pytest.importorskip("dicebear_styles")
    for style in avatars.style_names():
        name = avatars.attribution(style).license_name
        found = terms([{"dataset": f"avatars:{style}", "license": name}]).metadata
        assert "license" in found
        assert all(re.fullmatch("[a-z0-9.-]+", value) for value in found.values())


def test_avatars_of_an_unknown_license_claim_none():
    found = terms([{"dataset": "avatars:x"}])
    assert (found.metadata, found.data) == ({}, None)
    assert "has not specified" in found.weights


@pytest.mark.parametrize("dataset", ["flwrlabs/celeba", "nielsr/CelebA-faces", "celeba"])
@pytest.mark.parametrize("own", [None, "mit"])
def test_celeba_is_for_research(dataset, own):
    found = terms([{"dataset": dataset, "license": "mit"}], own)  # whatever license a copy declares
    link = {"license_link": "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"}
    assert found.metadata == ({"license": "mit"} if own else CELEBA | link)
    assert "non-commercial research purposes only" in found.data
    assert "do not use them" in found.weights
    assert ("published under `mit`" in found.weights) == bool(own)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (None, None),
        ({"dataset": "mine"}, None),
        ({"dataset": "user/flowers", "license": "mit"}, "License: mit."),
        ({"dataset": "user/flowers", "attribution": "By Somebody"}, "By Somebody."),
        ({"dataset": "user/flowers", "license": "mit", "attribution": "By Me"}, "License: mit. By Me."),
    ],
)
def test_other_data_does_not_license_weights(data, sentence):
    found = terms([data])
    assert (found.metadata, found.data) == ({}, sentence)
    assert "has not specified" in found.weights
    own = terms([data], "apache-2.0")
    assert (own.metadata, own.data) == ({"license": "apache-2.0"}, sentence)
    assert own.weights == "The weights are published under `apache-2.0`."


DRAWN = {"dataset": "avatars:x", "license": "CC0 1.0", "attribution": "By Somebody"}


def test_what_was_learned_from_earlier_counts():
    """A model of CelebA that was fine-tuned on freely licensed drawings is not free."""
    found = terms([DRAWN, {"dataset": "flwrlabs/celeba"}])
    assert found.metadata.items() >= CELEBA.items()
    assert "do not use them" in found.weights
    assert "By Somebody. CelebA is available for non-commercial" in found.data


@pytest.mark.parametrize("earlier", [None, {"dataset": "user/flowers"}, DRAWN | {"license": "CC BY 4.0"}])
def test_one_unknown_among_them_and_nothing_is_claimed(earlier):
    found = terms([DRAWN, earlier])
    assert found.metadata == {}
    assert "has not specified" in found.weights
    assert terms([DRAWN, DRAWN]).metadata == {"license": "cc0-1.0"}
