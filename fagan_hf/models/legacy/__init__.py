"""Read models of attn-gan-pytorch, the original, and convert them to ours."""

from fagan_hf.models.legacy.convert import convert

__all__ = ["convert"]
