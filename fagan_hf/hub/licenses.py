"""Under which terms data stands, and what that means for the weights of a model that learned from it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

DataKind = Literal["avatars", "celeba", "other"]

# Names as the styles of the avatars give them, and the Hub's identifiers of the same.
_HUB_LICENSES = {"CC0 1.0": "cc0-1.0", "CC BY 4.0": "cc-by-4.0", "MIT": "mit"}
_CELEBA = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"


@dataclass(frozen=True)
class Terms:
    """What a card says about licenses.

    Attributes:
        metadata: The card's keys ``license``, ``license_name`` and ``license_link``, as far as they are known.
        data: A sentence about the data; ``None`` if nothing is known.
        weights: A sentence about the weights.
    """

    metadata: dict[str, Any] = field(default_factory=dict)
    data: str | None = None
    weights: str = "The publisher has not said under which license the weights stand; ask before you build on them."


def kind_of(dataset: str) -> DataKind:
    """Tell what a data set is by its name; whatever has CelebA in its name is taken for it."""
    if dataset.startswith("avatars:"):
        return "avatars"
    return "celeba" if "celeba" in dataset.lower() else "other"


def terms(data: Sequence[Mapping[str, Any] | None], weights_license: str | None = None) -> Terms:
    """Find the terms of weights and data.

    Args:
        data: The description of each data set that the weights have learned from, as the images' cache has it; ``None``
            for one of which nothing is known.
        weights_license: What the publisher gives the weights, an identifier of the Hub such as ``"mit"``; by default
            what the data asks for, if that is known.
    """
    known = [each for each in data if each is not None]
    own = {"license": weights_license} if weights_license else {}
    stated = f"The weights are published under `{weights_license}`."
    sentences = list(dict.fromkeys(filter(None, map(_terms_of_data, known))))
    about = " ".join(sentences) or None
    kinds = {kind_of(each["dataset"]) for each in known}
    if "celeba" in kinds:
        celeba = {"license": "other", "license_name": "celeba-non-commercial-research", "license_link": _CELEBA}
        only = "Learned from CelebA, they are for non-commercial research only: do not use them, or pictures made with "
        return Terms(own or celeba, about, f"{stated + ' ' if own else ''}{only}them, in a product or a service.")
    licenses = {each.get("license") for each in known}
    are_drawings = kinds == {"avatars"} and len(known) == len(data)
    if own or not are_drawings or len(licenses) > 1 or None in licenses:
        return Terms(own, about, stated if own else Terms.weights)
    name = str(*licenses)
    follows = f"The weights are published under {name}, the license of the drawings that they were learned from."
    return Terms(_hub_keys(name), about, follows)


def _terms_of_data(data: Mapping[str, Any]) -> str | None:
    if kind_of(data["dataset"]) == "celeba":
        return f"CelebA is available for non-commercial research purposes only; its authors' agreement is at {_CELEBA}."
    name, attribution = data.get("license"), data.get("attribution")
    names_itself = name and attribution and name in attribution
    about = ". ".join(filter(None, (f"License: {name}" if name and not names_itself else None, attribution)))
    return f"{about.rstrip('.')}." if about else None


def _hub_keys(name: str) -> dict[str, Any]:
    """Name a license as the Hub does, whose own names are of lower-case letters, digits and dashes."""
    if name in _HUB_LICENSES:
        return {"license": _HUB_LICENSES[name]}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")}
