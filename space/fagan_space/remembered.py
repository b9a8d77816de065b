"""Latents of the example pictures, found beforehand, because a projection takes half a minute.

    python -m fagan_space.remembered                    # in the folder of app.py: of the page's model, after it changed

They count only for the generator with which they were found; with another one, examples are projected like uploads.
"""

import hashlib
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fagan_hf.models import Generator
from fagan_space.decoding import Picture

FILE = Path(__file__).resolve().parents[1] / "examples/latents.safetensors"
_GENERATOR = "generator"


def key_of(picture: Picture) -> str:
    """Return the name under which a picture's latent is stored."""
    return hashlib.sha256(picture.tobytes()).hexdigest()


def digest(generator: Generator) -> str:
    """Hash a generator's weights."""
    found = hashlib.sha256()
    for name, tensor in sorted(generator.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


@cache
def latents_for(generator: Generator, file: Path = FILE) -> dict[str, Tensor]:
    """Return the latents in the file by `key_of` their pictures; none if they are another generator's."""
    if not file.is_file():
        return {}
    with safe_open(file, framework="pt") as stored:
        if stored.metadata()[_GENERATOR] != digest(generator):
            return {}
        return {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118  # not a dictionary


def write(latents: dict[str, Tensor], generator: Generator, file: Path = FILE) -> None:
    """Store latents of pictures."""
    save_file(latents, file, metadata={_GENERATOR: digest(generator)})


def main() -> None:
    """Project all examples with the page's model, and store their latents."""
    from fagan_space.models import load_own
    from fagan_space.tabs.project import STEPS, find
    from fagan_space.uploads import EXAMPLES, example_picture

    torch.set_num_threads(1)
    model = load_own()
    pictures = [example_picture(model, index) for index in range(len(EXAMPLES))]
    write({key_of(each): find(model, each, steps=STEPS).latents for each in pictures}, model.generator)


if __name__ == "__main__":
    main()
