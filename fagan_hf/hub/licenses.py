"""License terms of data, and what they mean for the weights of a model trained on it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

DataKind = Literal["avatars", "celeba", "other"]

# License names as in the avatar styles, and their ids on the Hub.
_HUB_LICENSES = {"CC0 1.0": "cc0-1.0", "CC BY 4.0": "cc-by-4.0", "MIT": "mit"}
_CELEBA = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"


@dataclass(frozen=True)
class Terms:
    """What a card says about licenses.

    Attributes:
        metadata: The card's keys ``license``, ``license_name`` and ``license_link``, as far as known.
        data: A sentence about the data; ``None`` if nothing is known.
        weights: A sentence about the weights.
    """

    metadata: dict[str, Any] = field(default_factory=dict)
    data: str | None = None
    weights: str = "The publisher has not specified a license for the weights; ask before you build on them."


def kind_of(dataset: str) -> DataKind:
    """Classify a dataset by its name; any name that contains CelebA counts as CelebA."""
    if dataset.startswith("avatars:"):
        return "avatars"
    return "celeba" if "celeba" in dataset.lower() else "other"


def terms(data: Sequence[Mapping[str, Any] | None], weights_license: str | None = None) -> Terms:
    """Determine the license terms of weights and data.

    Args:
        data: The description of each dataset that the weights were trained on, as in the image cache; ``None`` for an
            unknown one.
        weights_license: License chosen by the publisher, a Hub license id such as ``"mit"``; by default the one that
            the data requires, if known.
    """
    known = [each for each in data if each is not None]
    own = {"license": weights_license} if weights_license else {}
    stated = f"The weights are published under `{weights_license}`."
    sentences = list(dict.fromkeys(filter(None, map(_terms_of_data, known))))
    about = " ".join(sentences) or None
    kinds = {kind_of(each["dataset"]) for each in known}
    if "celeba" in kinds:
        celeba = {"license": "other", "license_name": "celeba-non-commercial-research", "license_link": _CELEBA}
        only = "Trained on CelebA, they are for non-commercial research only: do not use them, or images made with "
        return Terms(own or celeba, about, f"{stated + ' ' if own else ''}{only}them, in a product or a service.")
    licenses = {each.get("license") for each in known}
    are_drawings = kinds == {"avatars"} and len(known) == len(data)
    if own or not are_drawings or len(licenses) > 1 or None in licenses:
        return Terms(own, about, stated if own else Terms.weights)
    name = str(*licenses)
    follows = f"The weights are published under {name}, the license of the drawings that they were trained on."
    return Terms(_hub_keys(name), about, follows)


def _terms_of_data(data: Mapping[str, Any]) -> str | None:
    if kind_of(data["dataset"]) == "celeba":
        return f"CelebA is available for non-commercial research purposes only; its authors' agreement is at {_CELEBA}."
    name, attribution = data.get("license"), data.get("attribution")
    names_itself = name and attribution and name in attribution
    about = ". ".join(filter(None, (f"License: {name}" if name and not names_itself else None, attribution)))
    return f"{about.rstrip('.')}." if about else None


def _hub_keys(name: str) -> dict[str, Any]:
    """Convert a license to the Hub's metadata keys; license ids there are lower-case letters, digits and dashes."""
    if name in _HUB_LICENSES:
        return {"license": _HUB_LICENSES[name]}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")}
