"""The former place of `fagan_hf.latent_space`, which older docs import from."""

from fagan_hf.latent_space.directions import Directions, find_directions

__all__ = ["Directions", "find_directions"]
