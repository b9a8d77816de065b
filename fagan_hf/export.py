"""Export generators to a single file that runs without this package: with ONNX Runtime, or with torch alone.

Exported models are folded, in float32, accept any batch size, and have been verified against the generator.
"""

import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fagan_hf.layers import gates
from fagan_hf.layers.functional import attention_kernel
from fagan_hf.layers.gates import overridden
from fagan_hf.models import Generator
from fagan_hf.utils.files import replacing
from fagan_hf.utils.image_forms import IMAGE_FORMS
from fagan_hf.utils.version import __version__

OPSET = 18  # the default of torch's exporter, supported by ONNX Runtime since 1.14, also in browsers
TOLERANCE = 1e-4
METADATA_FILE = "fagan_hf.json"
"""Metadata that `export_torch` stores with the program; ``torch.export.load(path, extra_files={METADATA_FILE: ""})``
reads it."""
_PROTOBUF_LIMIT = 2**31 - 1
_TRACED_BATCH = 3  # above 1, because torch would treat a batch of one as a constant
_CHECKED_BATCHES = (1, 2, 7)
_WEIGHTS_PER_CHUNK = 2**22  # attention weights per image and head that an ONNX model computes at a time: 16 MB
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_SEED = 20_181_205  # arbitrary but fixed, so that a generator always exports to the same file


@dataclass(frozen=True)
class Export:
    """An exported model.

    Attributes:
        path: The file.
        num_bytes: File size [bytes].
        max_difference: The largest difference between its images and the generator's, which are in [-1, 1].
        opset: ONNX opset version; ``None`` for a torch program.
    """

    path: Path
    num_bytes: int
    max_difference: float
    opset: int | None


def export_onnx(generator: Generator, path: str | Path) -> Export:
    """Export a generator for ONNX Runtime: one file, including the weights.

    Its inputs are ``latents``, float32 ``[batch, latent_dim]``, standard normal, and for a conditional generator
    ``labels``, float32 ``[batch, num_labels]``, from 0 to 1. Its output is ``images``, float32
    ``[batch, channels, size, size]``, in [-1, 1]. The batch size is free. The file's metadata contain the
    generator's config and the format of the output.

    Args:
        generator: On any device, in any dtype; not modified. Gates overridden by `override_alpha` are exported as
            overridden. For truncated latents pass the result of
            `fagan_hf.sampling.standing_statistics.recalibrated`.
        path: The file, usually ``*.onnx``; replaced if it exists.

    Raises:
        ImportError: A package of the extra `export` is missing.
        ValueError: The generator is too large for one file, or the exported model's images differ from the generator's
            by more than `TOLERANCE`. Then no file is written.
    """
    _, _, onnxruntime = (_import(package) for package in _ONNX_PACKAGES)
    reference = _as_reference(generator)
    num_bytes = sum(tensor.nbytes for tensor in reference.state_dict().values())
    if num_bytes > _PROTOBUF_LIMIT:
        raise ValueError(
            f"the generator's weights are {num_bytes / 1e9:.1f} GB; an ONNX file can hold at most "
            f"{_PROTOBUF_LIMIT / 1e9:.1f} GB (protobuf limit). Export it for torch: export_torch, or --format torch"
        )
    with _quiet():
        with _AttentionByChunks():
            traced = _trace(reference)
        program: Any = torch.onnx.export(
            traced,
            dynamo=True,
            dynamic_shapes={name: {0: "batch"} for name in _input_names(reference)},  # sets only the dimension's name
            opset_version=OPSET,
            input_names=_input_names(reference),
            output_names=["images"],
            external_data=False,
            verbose=False,
        )
    _describe_onnx(program.model, _metadata(generator))

    def write(aside: Path) -> None:
        with _quiet():
            program.save(aside, external_data=False)

    def load(aside: Path) -> Callable[..., Tensor]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        session = onnxruntime.InferenceSession(aside, options, providers=["CPUExecutionProvider"])
        names = _input_names(reference)

        def run(*inputs: Tensor) -> Tensor:
            feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
            return torch.from_numpy(session.run(["images"], feed)[0])

        return run

    return _written(Path(path), reference, write, load, OPSET)


def export_torch(generator: Generator, path: str | Path) -> Export:
    """Export a generator as a program of `torch.export`, which needs only torch to run.

    ``torch.export.load(path).module()`` returns a function with the inputs and output described in `export_onnx`.

    Args:
        generator: See `export_onnx`.
        path: The file, usually ``*.pt2``, torch's suffix; replaced if it exists.

    Raises:
        ValueError: The exported model's images differ from the generator's; see `export_onnx`.
    """
    reference = _as_reference(generator)
    with _quiet():
        program = _trace(reference)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # contains paths of this computer

    def write(aside: Path) -> None:
        with _quiet(), aside.open("wb") as file:
            torch.export.save(program, file, extra_files={METADATA_FILE: json.dumps(_metadata(generator))})

    def load(aside: Path) -> Callable[..., Tensor]:
        with _quiet():
            return torch.export.load(io.BytesIO(aside.read_bytes())).module()

    return _written(Path(path), reference, write, load, None)


class _Traceable(nn.Module):
    """A generator without its input checks, which would fix the batch size of the traced program."""

    def __init__(self, generator: Generator):
        super().__init__()
        self.generator = generator

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is not None and self.generator.config.conditioning == "concatenation":
            latents = torch.cat([latents, labels], dim=1)
        return self.generator._run(latents[..., None, None], labels)


class _AttentionByChunks(TorchFunctionMode):
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


@torch.no_grad()
def _trace(reference: Generator) -> torch.export.ExportedProgram:
    inputs = _random_inputs(reference, _TRACED_BATCH)
    batch = torch.export.Dim("batch")
    dynamic_shapes = {name: {0: batch} for name in _input_names(reference)}
    # A single operation for each attention, which `_AttentionByChunks` finds, and for which torch chooses the fastest
    # kernel where the program runs. `choose_kernel` would choose for this machine, and our loop would be unrolled.
    with attention_kernel("fused"):
        return torch.export.export(_Traceable(reference.fold()).eval(), inputs, dynamic_shapes=dynamic_shapes)


def _as_reference(generator: Generator) -> Generator:
    """Return the generator to export, before folding: on the CPU, in float32, with the current gates."""
    reference = copy.deepcopy(generator).to("cpu", torch.float32).eval().requires_grad_(False)
    for name, value in overridden(generator).items():
        gates(reference)[name].data.fill_(value)
    return reference


def _input_names(generator: Generator) -> list[str]:
    return ["latents", "labels"] if generator.config.num_labels else ["latents"]


def _random_inputs(generator: Generator, batch: int) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(_SEED)
    config = generator.config
    latents = torch.randn(batch, config.latent_dim, generator=random)
    return (latents, torch.rand(batch, config.num_labels, generator=random)) if config.num_labels else (latents,)


def _metadata(generator: Generator) -> dict[str, Any]:
    """Return metadata that describe the exported model."""
    frequencies = generator.label_frequencies
    channels = generator.config.image_channels
    form = IMAGE_FORMS[channels]
    return {
        "config": generator.config.to_dict(),
        "latents": "standard normal, [batch, latent_dim]",
        "labels": "from 0 to 1, [batch, label_names]: a column for each of the config's label_names",
        "label_frequencies": None if frequencies is None else frequencies.tolist(),
        "images": f"{form}, [batch, {channels}, height, width], from -1 to 1; 8 bits: "
        "clamp(round(127.5 * x + 127.5), 0, 255)",
    }


def _describe_onnx(model: Any, metadata: dict[str, Any]) -> None:
    """Replace the exporter's metadata, which contain paths of this computer."""
    import_module("onnx_ir.passes.common").ClearMetadataAndDocStringPass()(model)
    model.producer_name, model.producer_version = "fagan_hf", __version__
    for key, value in metadata.items():
        model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)


def _written(
    path: Path,
    reference: Generator,
    write: Callable[[Path], None],
    load: Callable[[Path], Callable[..., Tensor]],
    opset: int | None,
) -> Export:
    """Move a temporary file into place if its images match the generator's."""
    with replacing(path, make_folder=True) as aside:
        write(aside)
        difference = _max_difference(reference, load(aside))
        if not difference <= TOLERANCE:  # also refuses NaN
            raise ValueError(
                f"the exported model's images differ from the generator's by up to {difference:.2g}; rounding explains "
                f"at most {TOLERANCE:g}. {path} was not written. A custom layer may not be traceable: it must use "
                "torch operations only, and not branch on tensor values"
            )
        num_bytes = aside.stat().st_size
    return Export(path, num_bytes, difference, opset)


@torch.no_grad()
def _max_difference(reference: Generator, exported: Callable[..., Tensor]) -> float:
    differences = []
    for batch in _CHECKED_BATCHES:
        inputs = _random_inputs(reference, batch)
        differences.append((exported(*inputs) - reference(*inputs)).abs().max())
    return torch.stack(differences).max().item()


def _import(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(f'ONNX files need {package} ({error}); pip install "fagan-hf[export]"') from error


@contextmanager
def _quiet() -> Iterator[None]:
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
