"""Under which terms data stands, and what that means for the weights of a model that learned from it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

DataKind = Literal["avatars", "celeba", "other"]

# Names as the styles of the avatars give them, and the Hub's identifiers of the same.
_HUB_LICENCES = {"CC0 1.0": "cc0-1.0", "CC BY 4.0": "cc-by-4.0", "MIT": "mit"}
_CELEBA = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"


@dataclass(frozen=True)
class Terms:
    """What a card says about licences.

    Attributes:
        metadata: The card's keys ``license``, ``license_name`` and ``license_link``, as far as they are known.
        data: A sentence about the data; ``None`` if nothing is known.
        weights: A sentence about the weights.
    """

    metadata: dict[str, Any] = field(default_factory=dict)
    data: str | None = None
    weights: str = "The publisher has not said under which licence the weights stand; ask before you build on them."


def kind_of(dataset: str) -> DataKind:
    """Tell what a data set is by its name; whatever has CelebA in its name is taken for it."""
    if dataset.startswith("avatars:"):
        return "avatars"
    return "celeba" if "celeba" in dataset.lower() else "other"


def terms(data: Mapping[str, Any] | None, weights_licence: str | None = None) -> Terms:
    """Find the terms of weights and data.

    Args:
        data: The description of the images, as their cache has it; ``None`` if it is not known what was learned from.
        weights_licence: What the publisher gives the weights, an identifier of the Hub such as ``"mit"``; by default
            what the data asks for, if that is known.
    """
    own = {"license": weights_licence} if weights_licence else None
    stated = f"The weights are published under `{weights_licence}`."
    if data is None:
        return Terms(own, weights=stated) if own else Terms()
    kind, licence, attribution = kind_of(data["dataset"]), data.get("licence"), data.get("attribution")
    if kind == "celeba":
        return Terms(
            own or {"license": "other", "license_name": "celeba-non-commercial-research", "license_link": _CELEBA},
            f"CelebA is available for non-commercial research purposes only; its authors' agreement is at {_CELEBA}.",
            f"{stated + ' ' if own else ''}Learned from CelebA, they are for non-commercial research only: "
            "do not use them, or pictures made with them, in a product or a service.",
        )
    names_itself = licence and attribution and licence in attribution
    about = ". ".join(filter(None, (f"Licence: {licence}" if licence and not names_itself else None, attribution)))
    if kind == "avatars":
        follows = f"The weights are published under {licence}, the licence of the drawings that they were learned from."
        return Terms(own or _hub_keys(licence), about or None, stated if own else follows if licence else Terms.weights)
    return Terms(own or {}, f"{about}." if about else None, stated if own else Terms.weights)


def _hub_keys(licence: str | None) -> dict[str, Any]:
    """Name a licence as the Hub does, whose own names are of lower-case letters, digits and dashes."""
    if not licence:
        return {}
    if licence in _HUB_LICENCES:
        return {"license": _HUB_LICENCES[licence]}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9]+", "-", licence.lower()).strip("-")}
