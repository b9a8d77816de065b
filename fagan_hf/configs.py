"""Alias of `fagan_hf.architectures`, for architecture files and docs that use the old location."""

from fagan_hf.architectures.configs import *  # noqa: F403
from fagan_hf.architectures.specs import *  # noqa: F403
