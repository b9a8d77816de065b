"""FAGAN: generative adversarial networks whose layers convolve and attend at once, on the Hugging Face Hub.

Every public name is imported when it is first used, so that ``import fagan_hf`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fagan_hf.architectures.configs import DiscriminatorConfig, GeneratorConfig
    from fagan_hf.architectures.presets import PRESETS
    from fagan_hf.models import Discriminator, Generator
    from fagan_hf.pipeline import FAGANPipeline

__all__ = ["PRESETS", "Discriminator", "DiscriminatorConfig", "FAGANPipeline", "Generator", "GeneratorConfig"]

_MODULES = {
    "PRESETS": "fagan_hf.architectures.presets",
    "Discriminator": "fagan_hf.models",
    "DiscriminatorConfig": "fagan_hf.architectures.configs",
    "FAGANPipeline": "fagan_hf.pipeline",
    "Generator": "fagan_hf.models",
    "GeneratorConfig": "fagan_hf.architectures.configs",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
