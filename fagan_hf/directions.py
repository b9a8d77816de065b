"""Alias of `fagan_hf.latent_space`, for docs that use the old location."""

from fagan_hf.latent_space.directions import Directions, find_directions

__all__ = ["Directions", "find_directions"]
