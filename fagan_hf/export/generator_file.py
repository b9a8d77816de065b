"""Export generators to a single file that runs without this package: with ONNX Runtime, or with torch alone.

Exported models are folded, in float32, accept any batch size, and have been verified against the generator.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fagan_hf.export.tracing import (
    CHECKED_BATCHES,
    ONNX_PACKAGES,
    OPSET,
    TRACED_BATCH,
    AttentionByChunks,
    as_reference,
    describe_onnx,
    import_package,
    input_names,
    quiet,
    random_inputs,
)
from fagan_hf.layers.functional import attention_kernel
from fagan_hf.models import Generator
from fagan_hf.utils.files import replacing
from fagan_hf.utils.image_forms import IMAGE_FORMS

TOLERANCE = 1e-4
METADATA_FILE = "fagan_hf.json"
"""Metadata that `export_torch` stores with the program; ``torch.export.load(path, extra_files={METADATA_FILE: ""})``
reads it."""
_PROTOBUF_LIMIT = 2**31 - 1


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
    _, _, onnxruntime = (import_package(package) for package in ONNX_PACKAGES)
    reference = as_reference(generator)
    num_bytes = sum(tensor.nbytes for tensor in reference.state_dict().values())
    if num_bytes > _PROTOBUF_LIMIT:
        raise ValueError(
            f"the generator's weights are {num_bytes / 1e9:.1f} GB; an ONNX file can hold at most "
            f"{_PROTOBUF_LIMIT / 1e9:.1f} GB (protobuf limit). Export it for torch: export_torch, or --format torch"
        )
    with quiet():
        with AttentionByChunks():
            traced = _trace(reference)
        program: Any = torch.onnx.export(
            traced,
            dynamo=True,
            dynamic_shapes={name: {0: "batch"} for name in input_names(reference)},  # sets only the dimension's name
            opset_version=OPSET,
            input_names=input_names(reference),
            output_names=["images"],
            external_data=False,
            verbose=False,
        )
    describe_onnx(program.model, _metadata(generator))

    def write(aside: Path) -> None:
        with quiet():
            program.save(aside, external_data=False)

    def load(aside: Path) -> Callable[..., Tensor]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        session = onnxruntime.InferenceSession(aside, options, providers=["CPUExecutionProvider"])
        names = input_names(reference)

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
    reference = as_reference(generator)
    with quiet():
        program = _trace(reference)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # contains paths of this computer

    def write(aside: Path) -> None:
        with quiet(), aside.open("wb") as file:
            torch.export.save(program, file, extra_files={METADATA_FILE: json.dumps(_metadata(generator))})

    def load(aside: Path) -> Callable[..., Tensor]:
        with quiet():
            return torch.export.load(io.BytesIO(aside.read_bytes())).module()

    return _written(Path(path), reference, write, load, None)


class Traceable(nn.Module):
    """A generator without its input checks, which would fix the batch size of the traced program."""

    def __init__(self, generator: Generator):
        super().__init__()
        self.generator = generator

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images; arguments as for `Generator`."""
        if labels is not None and self.generator.config.conditioning == "concatenation":
            latents = torch.cat([latents, labels], dim=1)
        return self.generator._run(latents[..., None, None], labels)


@torch.no_grad()
def _trace(reference: Generator) -> torch.export.ExportedProgram:
    inputs = random_inputs(reference, TRACED_BATCH)
    batch = torch.export.Dim("batch")
    dynamic_shapes = {name: {0: batch} for name in input_names(reference)}
    # A single operation for each attention, which `AttentionByChunks` finds, and for which torch chooses the fastest
    # kernel where the program runs. `choose_kernel` would choose for this machine, and our loop would be unrolled.
    with attention_kernel("fused"):
        return torch.export.export(Traceable(reference.fold()).eval(), inputs, dynamic_shapes=dynamic_shapes)


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
    for batch in CHECKED_BATCHES:
        inputs = random_inputs(reference, batch)
        differences.append((exported(*inputs) - reference(*inputs)).abs().max())
    return torch.stack(differences).max().item()
