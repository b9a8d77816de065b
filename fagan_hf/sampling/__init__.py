"""Seeds and labels to latents, label vectors and images."""

from typing import TYPE_CHECKING

from fagan_hf.utils.on_demand import on_demand

if TYPE_CHECKING:
    from fagan_hf.sampling.images import generate_images, labels_from_seeds, latents_from_seeds, sample, to_uint8
    from fagan_hf.sampling.labels import draw_labels, encode_labels
    from fagan_hf.sampling.seeds import parse_seeds

__all__ = [
    "draw_labels",
    "encode_labels",
    "generate_images",
    "labels_from_seeds",
    "latents_from_seeds",
    "parse_seeds",
    "sample",
    "to_uint8",
]

__getattr__ = on_demand(
    __name__,
    {
        "images": ["generate_images", "labels_from_seeds", "latents_from_seeds", "sample", "to_uint8"],
        "labels": ["draw_labels", "encode_labels"],
        "seeds": ["parse_seeds"],
    },
)
