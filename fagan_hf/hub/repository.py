"""The layout of a model repository, which run folders share: location of each file, and shims for other programs.

The shims contain a single import, so with this package installed no code from a repository is run: two let diffusers'
bare ``DiffusionPipeline.from_pretrained(repo, trust_remote_code=True)`` find our classes, ``handler.py`` lets Inference
Endpoints serve the model.
"""

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import yaml

from fagan_hf.utils.files import replacing, sha256
from fagan_hf.utils.json_text import parse_json
from fagan_hf.utils.version import __version__

CONFIG = "config.json"
MAX_CONFIG_BYTES = 2**20  # a network of a thousand layers needs less
WEIGHTS = "model.safetensors"
GENERATOR = "generator"
DISCRIMINATOR = "discriminator"

CARD = "README.md"
FACTS = "facts.json"  # the facts that a card is written from
RECIPE = "recipe.yaml"
ARCHITECTURE = "architecture.json"
ARCHITECTURE_SUFFIXES = (".json", ".py")  # of architecture files
HISTORY = "metrics.jsonl"  # one line per log interval
METRICS = "metrics.json"  # metrics of the finished model
SAMPLES = "samples.png"
PROGRESS = "training_progress.gif"
LOSSES = "loss.png"
GATES = "alpha.png"
AUGMENTATION = "augment.png"  # its probability, if adaptive
NEIGHBORS = "nearest.png"  # generated images next to their nearest training images
DIRECTIONS = "directions.safetensors"  # latent-space directions, one for each label of the data
EXPORTS = {"onnx": "onnx/generator.onnx", "torch": "torch_export/generator.pt2"}
WEB = "web"  # the export for web pages
WEB_MODEL, WEB_DESCRIPTION = "generator.onnx", "web.json"  # in that folder
TRAINING_STATE = "training_state"
CHECKPOINTS = "checkpoints"  # in run folders only, as the next three are
SNAPSHOTS = "snapshots"  # of the averaged generator, over the whole run
BEST = "best"  # the model that was best when the run measured itself, with the layout of a repository
EVALUATIONS = "evaluations.json"  # metrics of all checkpoints and snapshots
STATE = "state.json"  # in a checkpoint
MANIFEST = "manifest.json"  # in a checkpoint: the hash of each file
AVERAGED = "averaged_generator"  # in a checkpoint: the generator that is published

_OF_A_RUN = (FACTS, RECIPE, ARCHITECTURE, HISTORY, METRICS, SAMPLES, PROGRESS, LOSSES, GATES, AUGMENTATION)
_OF_A_RUN += (NEIGHBORS, DIRECTIONS)
_EXPORTED = (*EXPORTS.values(), f"{WEB}/{WEB_MODEL}", f"{WEB}/{WEB_DESCRIPTION}")

_SHIMS = {
    "pipeline.py": "from fagan_hf import FAGANPipeline  # noqa: F401\n",
    "generator/modeling_fagan.py": "from fagan_hf import Generator  # noqa: F401\n",
    "model_index.json": json.dumps(
        {"_class_name": ["pipeline", "FAGANPipeline"], "generator": ["modeling_fagan", "Generator"]}, indent=2
    )
    + "\n",
    "handler.py": "from fagan_hf.serving import EndpointHandler  # noqa: F401\n",
}
# The Hub counts requests for a `config.json` in the top folder as downloads; loading ignores it. It is the same in
# every repository, so that networks can be pushed one at a time.
_INDEX = {
    "library_name": "fagan_hf",
    "layout": 1,
    "networks": {GENERATOR: "Generator", DISCRIMINATOR: "Discriminator"},
}
REQUIREMENTS = "requirements.txt"  # of the handler; users may change the source of this package there


class Network(Protocol):
    """The interface of networks used here: saving, and counting parameters."""

    def save_pretrained(self, save_directory: str | Path, /) -> None:
        """Write ``config.json`` and ``model.safetensors`` into a folder."""

    def parameters(self) -> Iterable[Any]:
        """Return its trained parameters."""
        ...

    def layer_facts(self) -> dict[str, Any]:
        """Return what a card says about its layers."""
        ...


def save_repository(
    folder: str | Path,
    generator: Network | None = None,
    discriminator: Network | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write a folder that every ``from_pretrained`` loads, locally and, once uploaded, from the Hub.

    Args:
        folder: Created if missing; other files in it are kept, except those derived from a replaced generator.
        generator: Saved to ``generator/``, if given.
        discriminator: Saved to ``discriminator/``, if given.
        facts: Additional facts for the card, on data and training.

    Raises:
        OSError: The folder can't be written to.
    """
    folder = Path(folder)
    before = weights_hash(folder)
    for name, network in ((GENERATOR, generator), (DISCRIMINATOR, discriminator)):
        if network is not None:
            network.save_pretrained(folder / name)
    if before not in (None, weights_hash(folder)):
        for export in _EXPORTED:
            shutil.rmtree((folder / export).parent, ignore_errors=True)
        for name in (NEIGHBORS, DIRECTIONS):
            (folder / name).unlink(missing_ok=True)
    if generator is not None:
        complete_repository(folder, generator, discriminator, facts)
    elif discriminator is not None:
        _write_index(folder)


def complete_repository(
    folder: Path,
    generator: Network,
    discriminator: Network | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write the shims and facts that a folder with these networks also needs; existing facts are kept.

    Raises:
        OSError: The folder can't be written to.
        ValueError: Its ``facts.json`` is invalid.
    """
    for name, text in _SHIMS.items():
        write_text(folder / name, text)
    _write_index(folder)
    if not (folder / REQUIREMENTS).exists():
        write_text(folder / REQUIREMENTS, f"fagan-hf=={__version__}\n")
    networks = {GENERATOR: generator, DISCRIMINATOR: discriminator}
    parameters = {name: count_parameters(network) for name, network in networks.items() if network is not None}
    layers = {name: network.layer_facts() for name, network in networks.items() if network is not None}
    known = read_json(folder / FACTS) if facts is None else facts
    write_json(folder / FACTS, {**known, "fagan_hf": __version__, "parameters": parameters, "layers": layers})


def _write_index(folder: Path) -> None:
    """Write the top folder's ``config.json``, unless another file of that name is there: that of a single network."""
    path = folder / CONFIG
    if not path.exists() or is_index(path.read_bytes()):
        write_json(path, _INDEX)


def is_index(content: str | bytes) -> bool:
    """Return whether a ``config.json`` describes a repository, not a single network or a model of another library."""
    try:
        data = parse_json(content)
    except ValueError:  # a JSONDecodeError and a UnicodeDecodeError are ones too
        return False
    return isinstance(data, dict) and data.get("library_name") == _INDEX["library_name"] and "layout" in data


def count_parameters(network: Any) -> int:
    """Count the parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def published_files(folder: Path) -> dict[str, Path]:
    """List the files of a folder that belong in a repository, by their path there, without the card."""
    networks = [f"{name}/{file}" for name in (GENERATOR, DISCRIMINATOR) for file in (CONFIG, WEIGHTS)]
    names = [*networks, *_SHIMS, REQUIREMENTS, *_OF_A_RUN, *_EXPORTED]
    files = {name: folder / name for name in names if (folder / name).is_file()}
    if (folder / CONFIG).is_file() and is_index((folder / CONFIG).read_bytes()):
        files[CONFIG] = folder / CONFIG
    return files


def describes_weights(path: str) -> bool:
    """Return whether a file of a repository describes its weights, and so is wrong for other weights."""
    return path in _OF_A_RUN or path in _EXPORTED or path.startswith(f"{TRAINING_STATE}/")


def weights_hash(folder: Path) -> str | None:
    """Return the SHA-256 of a folder's generator, which identifies its metrics; ``None`` if there is no generator."""
    path = folder / GENERATOR / WEIGHTS
    return sha256(path) if path.is_file() else None


def newest_checkpoint(folder: Path) -> Path | None:
    """Find the newest checkpoint of a run folder."""
    found = checkpoints_in(folder / CHECKPOINTS)
    return found[-1] if found else None


def checkpoints_in(folder: Path) -> list[Path]:
    """List the checkpoints in a folder, oldest first, complete or not; none if there is no such folder."""
    found = [path for path in folder.glob("images-*") if re.fullmatch(r"images-\d+", path.name)]
    return sorted(found, key=images_of)


def images_of(path: Path) -> int:
    """Parse the number of images seen from the name of a checkpoint or a snapshot."""
    return int(path.stem.removeprefix("images-"))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def read_recipe(folder: Path) -> dict[str, Any]:
    """Read the recipe of a run folder; empty if it has none.

    Raises:
        ValueError: It is not a YAML mapping.
    """
    path = folder / RECIPE
    if not path.is_file():
        return {}
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} contains {type(recipe).__name__}; it must be a mapping of fields to values")
    return recipe


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing file is an empty mapping.

    Raises:
        ValueError: It is not valid JSON.
    """
    if not path.is_file():
        return {}
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:  # a JSONDecodeError and a UnicodeDecodeError are ones too
        raise ValueError(f"{path} is not valid JSON: {error}") from error
