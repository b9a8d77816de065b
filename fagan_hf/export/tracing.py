"""What all exports share: the generator to trace, its inputs, attention without N x N weights, and the ONNX file."""

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fagan_hf.layers import gates
from fagan_hf.layers.gates import overridden
from fagan_hf.models import Generator
from fagan_hf.utils.version import __version__

OPSET = 18  # the default of torch's exporter, supported by ONNX Runtime since 1.14, also in browsers
TRACED_BATCH = 3  # above 1, because torch would treat a batch of one as a constant
CHECKED_BATCHES = (1, 2, 7)
_WEIGHTS_PER_CHUNK = 2**22  # attention weights per image and head that an ONNX model computes at a time: 16 MB
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_SEED = 20_181_205  # arbitrary but fixed, so that a generator always exports to the same file


class AttentionByChunks(TorchFunctionMode):
    """Expand attention into operations that never hold all N x N weights.

    ONNX Runtime has no tiled attention kernel, and at 128x128 positions the weights take 1 GB per image.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        is_plain = len(args) == 3 and kwargs == {"scale": 1.0}  # as `fagan_hf.layers.attention` calls it
        if func is not functional.scaled_dot_product_attention or not is_plain:
            return func(*args, **kwargs)
        query, key, value = args
        size = max(1, _WEIGHTS_PER_CHUNK // key.shape[-2])
        starts = range(0, query.shape[-2], size)
        return torch.cat([(query[..., i : i + size, :] @ key.mT).softmax(-1) @ value for i in starts], dim=-2)


def as_reference(generator: Generator) -> Generator:
    """Return the generator to export, before folding: on the CPU, in float32, with the current gates."""
    reference = copy.deepcopy(generator).to("cpu", torch.float32).eval().requires_grad_(False)
    for name, value in overridden(generator).items():
        gates(reference)[name].data.fill_(value)
    return reference


def input_names(generator: Generator) -> list[str]:
    """Return the names of a generator's inputs."""
    return ["latents", "labels"] if generator.config.num_labels else ["latents"]


def random_inputs(generator: Generator, batch: int) -> tuple[Tensor, ...]:
    """Return a generator's inputs: the same for every call."""
    random = torch.Generator().manual_seed(_SEED)
    config = generator.config
    latents = torch.randn(batch, config.latent_dim, generator=random)
    return (latents, torch.rand(batch, config.num_labels, generator=random)) if config.num_labels else (latents,)


def describe_onnx(model: Any, metadata: dict[str, Any]) -> None:
    """Replace the exporter's metadata, which contain paths of this computer."""
    import_module("onnx_ir.passes.common").ClearMetadataAndDocStringPass()(model)
    model.producer_name, model.producer_version = "fagan_hf", __version__
    for key, value in metadata.items():
        model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)


def import_package(package: str) -> Any:
    """Import a package of the extra `export`.

    Raises:
        ImportError: It is missing; says what to install.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(f'ONNX files need {package} ({error}); pip install "fagan-hf[export]"') from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the messages of torch's exporters; errors are still raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
