"""The former place of `fagan_hf.architectures`, which architecture files of users and older docs import from."""

from fagan_hf.architectures.configs import *  # noqa: F403
from fagan_hf.architectures.specs import *  # noqa: F403
