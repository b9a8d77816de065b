"""Tools for the latent space: interpolation, directions of labels, and projection of images."""

from typing import TYPE_CHECKING

from fagan_hf.utils.on_demand import on_demand

if TYPE_CHECKING:
    from fagan_hf.latent_space.directions import Directions, find_directions
    from fagan_hf.latent_space.projection import Projection, project
    from fagan_hf.latent_space.walks import blend_latents, lerp, slerp, walk

__all__ = ["Directions", "Projection", "blend_latents", "find_directions", "lerp", "project", "slerp", "walk"]

__getattr__ = on_demand(
    __name__,
    {
        "walks": ["blend_latents", "lerp", "slerp", "walk"],
        "projection": ["Projection", "project"],
        "directions": ["Directions", "find_directions"],
    },
)
