"""FAGAN: generative adversarial networks whose layers convolve and attend at once, on the Hugging Face Hub.

Every public name is imported when it is first used, so that ``import fagan_hf`` costs next to nothing.
"""

from typing import TYPE_CHECKING

from fagan_hf.utils.on_demand import on_demand
from fagan_hf.utils.version import __version__

if TYPE_CHECKING:
    from fagan_hf.architectures import PRESETS, DiscriminatorConfig, GeneratorConfig
    from fagan_hf.models import Discriminator, Generator
    from fagan_hf.pipeline import FAGANPipeline
    from fagan_hf.training import train

__all__ = [
    "PRESETS",
    "Discriminator",
    "DiscriminatorConfig",
    "FAGANPipeline",
    "Generator",
    "GeneratorConfig",
    "__version__",
    "train",
]

__getattr__ = on_demand(
    __name__,
    {
        "architectures": ["PRESETS", "DiscriminatorConfig", "GeneratorConfig"],
        "models": ["Discriminator", "Generator"],
        "pipeline": ["FAGANPipeline"],
        "training": ["train"],
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
