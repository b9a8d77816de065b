"""Architectures by name or file, and with labels built in."""

import dataclasses
import hashlib
import importlib.util
import json
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

from fagan_hf.architectures.configs import ConvSpec, DiscriminatorConfig, GeneratorConfig, LayerSpec
from fagan_hf.architectures.presets import PRESETS
from fagan_hf.hub import client
from fagan_hf.hub.repository import ARCHITECTURE_SUFFIXES, CONFIG, DISCRIMINATOR, GENERATOR, read_json
from fagan_hf.utils.suggest import suggest

Architecture = tuple[GeneratorConfig, DiscriminatorConfig]
Conditioning = Literal["concatenation", "projection"]
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(?<!\.json)(?<!\.py)(@[\w./-]+)?")
_COMPARE: dict[str, Any] = {"kernel_size": 1, "activation": "leaky_relu(0.2)"}


def load_architecture(name: str) -> Architecture:
    """Find an architecture.

    Args:
        name: Of a preset; or the path of a file: JSON with the keys ``generator`` and ``discriminator``, each as in a
            ``config.json``; or Python that sets ``GENERATOR`` and ``DISCRIMINATOR`` to the two configs, and may
            register layers. A Python file is run, so it should be your own. Or a model whose architecture it shall be:
            a run folder, or ``user/name`` on the Hub.

    Raises:
        ValueError: There is no such preset or file, or what the file holds is no architecture; says where and why.
        FileNotFoundError: There is no such model, or it has no discriminator.
    """
    if name in PRESETS:
        return PRESETS[name]
    path = Path(name)
    if path.is_dir() or _HUB_ID.fullmatch(name):
        return _of_model(name)
    if path.suffix not in ARCHITECTURE_SUFFIXES or not path.is_file():
        raise ValueError(
            f"model is {name!r}, which is no preset and no file that ends in {' or '.join(ARCHITECTURE_SUFFIXES)}; "
            f"{suggest(name, [*PRESETS, *_files_beside(path)])}"
        )
    found = _read_json(path) if path.suffix == ".json" else _run_python(path)
    try:
        return _as_config(found, "generator", GeneratorConfig), _as_config(found, "discriminator", DiscriminatorConfig)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


@cache
def _of_model(name: str) -> Architecture:
    """Read the configs of a model."""
    wanted = [f"{network}/{CONFIG}" for network in (GENERATOR, DISCRIMINATOR)]
    folder = Path(name).expanduser()
    if not folder.is_dir():
        repo_id, _, revision = name.partition("@")
        folder = client.download(repo_id, allow_patterns=wanted, revision=revision or None)
    missing = [each for each in wanted if not (folder / each).is_file()]
    if missing:
        raise FileNotFoundError(f"{name!r} has no {' and no '.join(missing)}; name a preset or a file instead")
    configs = zip((GeneratorConfig, DiscriminatorConfig), wanted, strict=True)
    generator, discriminator = (config_class.from_dict(read_json(folder / each)) for config_class, each in configs)
    return cast(Architecture, (generator, discriminator))


def _files_beside(path: Path) -> list[str]:
    """List architectures' files where one was looked for, if it looks like a path at all."""
    is_path = path.suffix or len(path.parts) > 1
    found = path.parent.glob("*") if is_path and path.parent.is_dir() else ()
    return [str(each) for each in found if each.suffix in ARCHITECTURE_SUFFIXES]


def save_architecture(path: Path, architecture: Architecture) -> None:
    """Write a file that `load_architecture` reads."""
    generator, discriminator = architecture
    data = {"generator": generator.to_dict(), "discriminator": discriminator.to_dict()}
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def with_labels(architecture: Architecture, label_names: Sequence[str], conditioning: Conditioning) -> Architecture:
    """Make an architecture conditional.

    Args:
        architecture: Of two unconditional networks; or of conditional ones, which pass if their labels are the same.
        label_names: What the numbers of a label vector mean.
        conditioning: ``"projection"``: conditional batch norm in the generator, and a projection discriminator (Miyato
            and Koyama, arXiv:1802.05637). ``"concatenation"``, the original's way: labels beside the latent, and beside
            the discriminator's last features. There a 1x1 convolution with an activation is put in front of the last
            layer, as Reed et al. (arXiv:1605.05396) do: a last layer alone would add labels and image up without
            comparing them. A discriminator with a `labels_at` of its own gets them there instead.

    Raises:
        ValueError: The networks have other labels already; or the generator has no batch norm for ``"projection"``.
    """
    label_names = tuple(label_names)
    present = {config.label_names for config in architecture}
    if present == {label_names}:
        return architecture
    if present != {()}:
        raise ValueError(
            f"the architecture has the labels {sorted(map(list, present))}, the data {list(label_names)}; "
            "leave label_names out of the architecture, or name the same labels"
        )
    generator, discriminator = architecture
    count = len(label_names)
    if conditioning == "concatenation":
        g_layers, d_layers = list(generator.layers), list(discriminator.layers)
        g_layers[0] = _widened(g_layers[0], count)
        labels_at, g_conditioning = discriminator.labels_at, "concatenation"
        if labels_at == -1:
            channels = discriminator.features_channels
            d_layers.insert(-1, ConvSpec(in_channels=channels + count, out_channels=channels, **_COMPARE))
            labels_at = -2
        else:
            d_layers[labels_at] = _widened(d_layers[labels_at], count)
    else:
        d_layers, labels_at, g_conditioning = list(discriminator.layers), discriminator.labels_at, "batch_norm"
        g_layers = [_steered(layer, count) for layer in generator.layers]
        if not any(layer.labels for layer in g_layers):
            raise ValueError(
                "conditioning is 'projection', but no layer of the generator has a batch norm that could take labels; "
                "use 'concatenation'"
            )
    return (
        dataclasses.replace(generator, layers=tuple(g_layers), label_names=label_names, conditioning=g_conditioning),
        dataclasses.replace(
            discriminator,
            layers=tuple(d_layers),
            label_names=label_names,
            conditioning=conditioning,
            labels_at=labels_at,
        ),
    )


def _widened(layer: Any, count: int) -> LayerSpec:
    if not hasattr(layer, "in_channels"):
        raise ValueError(f"labels can't be concatenated to the input of a {layer.type!r}: it has no in_channels")
    return dataclasses.replace(layer, in_channels=layer.in_channels + count)


def _steered(layer: Any, count: int) -> LayerSpec:
    is_normalised = getattr(layer, "batch_norm", True) and getattr(layer, "norm", None) != "none"
    takes_labels = hasattr(layer, "num_labels") and is_normalised
    return dataclasses.replace(layer, num_labels=count) if takes_labels else layer


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:  # a JSONDecodeError and a UnicodeDecodeError are ValueErrors too
        raise ValueError(f"{path} is no JSON file: {error}") from error
    if not isinstance(data, dict) or data.keys() != {"generator", "discriminator"}:
        keys = list(data) if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{path} holds {keys}; it must be a mapping with the keys 'generator' and 'discriminator'")
    return data


def import_code(name: str) -> ModuleType:
    """Import Python of the user's own, a file or a module, for the layers that it registers; once per process.

    Args:
        name: The path of a file that ends in ``.py``, or a module's name.

    Raises:
        ValueError: It can't be found, or raises an error itself.
    """
    path = Path(name)
    if path.suffix == ".py" and path.is_file():
        return _run_file(path)
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ValueError(f"{name!r} is no .py file and can't be imported: {type(error).__name__}: {error}") from error


def _run_file(path: Path) -> ModuleType:
    name = f"fagan_architecture_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise ValueError(f"{path} can't be run: {type(error).__name__}: {error}") from error
    return sys.modules[name]


def _run_python(path: Path) -> Mapping[str, Any]:
    module = _run_file(path)
    missing = [each for each in ("GENERATOR", "DISCRIMINATOR") if not hasattr(module, each)]
    if missing:
        raise ValueError(f"{path} does not set {' and '.join(missing)}; it must set GENERATOR and DISCRIMINATOR")
    return {"generator": module.GENERATOR, "discriminator": module.DISCRIMINATOR}


def _as_config(found: Mapping[str, Any], key: str, config_class: type) -> Any:
    value = found[key]
    if isinstance(value, config_class):
        return value
    try:
        return config_class.from_dict(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
