"""Models of attn-gan-pytorch, the original: read, and converted into ours."""

from fagan_hf.models.legacy.convert import convert

__all__ = ["convert"]
