"""The layout of a model repository, which a run folder shares: where each file is, and the shims for diffusers.

The two shims let diffusers' bare ``DiffusionPipeline.from_pretrained(repo, trust_remote_code=True)`` find our classes;
they hold an import and nothing else, so whoever has this package runs no code out of a repository.
"""

import json
from pathlib import Path

from fagan_hf.files import replacing
from fagan_hf.models import Discriminator, Generator

SAMPLES = "samples.png"

_SHIMS = {
    "pipeline.py": "from fagan_hf import FAGANPipeline  # noqa: F401\n",
    "generator/modeling_fagan.py": "from fagan_hf import Generator  # noqa: F401\n",
    "model_index.json": json.dumps(
        {"_class_name": ["pipeline", "FAGANPipeline"], "generator": ["modeling_fagan", "Generator"]}, indent=2
    )
    + "\n",
}


def save_repository(folder: str | Path, generator: Generator, discriminator: Discriminator | None = None) -> None:
    """Write a folder that every ``from_pretrained`` loads, here and, once uploaded, from the Hub.

    Args:
        folder: Made if need be; other files in it stay.
        generator: Goes to ``generator/``.
        discriminator: Goes to ``discriminator/``, where there is one.

    Raises:
        OSError: The folder can't be written to.
    """
    folder = Path(folder)
    generator.save_pretrained(folder / Generator.subfolder)
    if discriminator is not None:
        discriminator.save_pretrained(folder / Discriminator.subfolder)
    for name, text in _SHIMS.items():
        with replacing(folder / name) as path:
            path.write_text(text, encoding="utf-8")
