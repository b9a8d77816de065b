"""The two networks."""

from fagan_hf.models.discriminator import Discriminator
from fagan_hf.models.generator import Generator

__all__ = ["Discriminator", "Generator"]
