"""Export a generator for a web page: ``generator.onnx`` for onnxruntime-web, and ``web.json``, which describes it.

`fagan_hf.export.web_graph` says what the model computes. What is written has been compared with the generator.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fagan_hf.attention_maps import capture_attention
from fagan_hf.attention_maps.capture import CapturedAttention, attention_layers
from fagan_hf.attention_maps.pictures import weights_of
from fagan_hf.attention_maps.positions import Position
from fagan_hf.export.half_precision import halve_weights
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
from fagan_hf.export.web_graph import WebGraph
from fagan_hf.hub.card import page_facts
from fagan_hf.hub.repository import DIRECTIONS, WEB_DESCRIPTION, WEB_MODEL
from fagan_hf.latent_space.directions import Directions
from fagan_hf.layers import override_alpha
from fagan_hf.layers.functional import attention_kernel
from fagan_hf.models import Generator
from fagan_hf.sampling.images import labels_from_seeds, latents_from_seeds, to_uint8
from fagan_hf.utils.files import replacing
from fagan_hf.utils.label_names import label_groups
from fagan_hf.utils.version import __version__

FORMAT, VERSION = "fagan_hf.web", 1
MAX_BYTES = 256 * 2**20  # what the page loads: space/live/src/model.ts
"""Size of the largest model that a visitor's browser is asked to load [bytes]."""
MAX_LEVELS = 1  # of 256, by which a pixel may differ
MAX_WEIGHT_DIFFERENCE = 1e-3  # of weights of attention, which sum to 1
_STRENGTH_TOLERANCE = 1e-2  # of the strength of a term, as a share of its largest
_CHECKED_SEEDS = range(32)
_OTHER_GATE, _OTHER_TERMS = 0.7, (0.5, 1.5)
_TRACEABLE = "A custom layer must use torch operations only, and not branch on tensor values"

Precision = Literal["float16", "float32"]
Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class WebExport:
    """A generator exported for a web page.

    Attributes:
        folder: Holds ``generator.onnx`` and ``web.json``.
        num_bytes: Size of the model [bytes].
        precision: How its weights are stored; it computes in float32.
        max_levels: The largest difference between its pixels and the generator's, of 256 levels.
        max_weight_difference: The largest difference between its weights of attention and the generator's.
    """

    folder: Path
    num_bytes: int
    precision: Precision
    max_levels: int
    max_weight_difference: float


def export_web(
    generator: Generator,
    folder: str | Path,
    *,
    name: str = "",
    directions: Directions | None = None,
    facts: Mapping[str, Any] | None = None,
) -> WebExport:
    """Export a generator for a web page: images, attention of single pixels, and both terms of each layer.

    Weights are stored as float16 if pixels and weights of attention still agree with the generator's, otherwise as
    float32.

    Args:
        generator: As for `fagan_hf.export.export_onnx`.
        folder: Created if missing; both files in it are replaced.
        name: Name of the model for people, such as its repository's.
        directions: Directions of its latent space for sliders.
        facts: What a page says about the model: title, license, dataset, images seen.

    Raises:
        ImportError: A package of the extra `export` is missing.
        ValueError: The model is larger than `MAX_BYTES`, a layer hides its weights of attention, see
            `fagan_hf.attention_maps.capture_attention`, or the exported model differs from the generator. Then nothing
            is written.
    """
    for package in ONNX_PACKAGES:
        import_package(package)
    reference = as_reference(generator)
    latent_dim = reference.config.latent_dim
    if directions is not None and directions.vectors.shape[1] != latent_dim:
        raise ValueError(
            f"directions are {list(directions.vectors.shape)}; this generator's latents have {latent_dim} numbers. "
            "Create them again with `fagan-hf directions`"
        )
    # As float16, before minutes are spent on it.
    _check_size(2 * sum(parameter.numel() for parameter in reference.parameters()))
    checks = _checks(reference)  # before the graph is traced: a layer that hides its weights is refused in these words
    model = _trace(reference)
    halved = halve_weights(model).SerializeToString(deterministic=True)
    stored, precision, differences = halved, "float16", _differences(halved, checks)
    if not _agree(differences):
        stored = model.SerializeToString(deterministic=True)
        _check_size(len(stored))
        precision, differences = "float32", _differences(stored, checks)
    if not _agree(differences):
        raise ValueError(
            f"the exported model differs from the generator by {differences.levels} of 256 levels (allowed: "
            f"{MAX_LEVELS}), {differences.weights:.2g} in weights of attention ({MAX_WEIGHT_DIFFERENCE:g}), and "
            f"{differences.strengths:.2g} of the largest strength of a term ({_STRENGTH_TOLERANCE:g}). Nothing was "
            f"written. {_TRACEABLE}"
        )
    description = {
        "format": FORMAT,
        "version": VERSION,
        "fagan_hf": __version__,
        "name": name,
        "model": WEB_MODEL,
        "num_bytes": len(stored),
        "sha256": hashlib.sha256(stored).hexdigest(),
        "precision": precision,
        **_describe(reference, checks, directions),
        "facts": dict(facts or {}),
    }
    folder = Path(folder)
    with replacing(folder / WEB_MODEL, make_folder=True) as aside:
        aside.write_bytes(stored)
    with replacing(folder / WEB_DESCRIPTION) as aside:
        aside.write_text(json.dumps(description, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return WebExport(folder, len(stored), precision, differences.levels, differences.weights)


def web_details(folder: Path) -> dict[str, Any]:
    """Return what a model's folder knows for `export_web`: directions and facts.

    Raises:
        ValueError: A file of the folder is invalid.
    """
    directions = folder / DIRECTIONS
    return {
        "directions": Directions.load(directions) if directions.is_file() else None,
        "facts": page_facts(folder),
    }


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_BYTES:
        raise ValueError(
            f"the model takes at least {num_bytes / 1e6:,.1f} MB; a web page loads at most {MAX_BYTES / 1e6:,.0f} MB. "
            "Export it for ONNX Runtime: export_onnx, or --format onnx"
        )


@torch.no_grad()
def _trace(reference: Generator) -> Any:
    """Return the graph as an ``onnx.ModelProto``."""
    graph = WebGraph(reference.fold()).eval()
    inputs = _inputs(reference, TRACED_BATCH, [(0, 0), (reference.config.image_size - 1, 0)])
    batch, count = torch.export.Dim("batch"), torch.export.Dim("count")
    free = {"latents": {0: batch}, "labels": {0: batch}, "positions": {0: count}}
    with quiet():
        with _in_words(), attention_kernel("unpadded"), AttentionByChunks():
            program = torch.export.export(
                graph, (), inputs, dynamic_shapes={name: free.get(name, {}) for name in inputs}
            )
        exported: Any = torch.onnx.export(
            program,
            dynamo=True,
            dynamic_shapes={name: {0: free[name][0].__name__} if name in free else {} for name in inputs},
            opset_version=OPSET,
            input_names=list(inputs),
            external_data=False,
            verbose=False,
        )
    _name_outputs(exported.model.graph, graph.output_names)
    describe_onnx(exported.model, {"format": f"{FORMAT} {VERSION}"})
    return exported.model_proto


@contextmanager
def _in_words() -> Iterator[None]:
    """Say what a layer that can't be traced must do; torch raises errors of many types, with pages of text."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"the generator can't be traced: {type(error).__name__}: {reason}. {_TRACEABLE}") from error


def _name_outputs(graph: Any, names: list[str]) -> None:
    """Name the outputs; inner values may have the same names, like ``convolution_1``."""
    for node in graph:
        for value in node.outputs:
            if value.name in names:
                value.name = f"inner.{value.name}"
    for value, name in zip(graph.outputs, names, strict=True):
        value.name = name


def _inputs(
    reference: Generator, batch: int, positions: list[Position], gate: float | None = None, terms: Any = (1.0, 1.0)
) -> Inputs:
    """Return inputs of the graph: by default the trained gates and both terms."""
    inputs = dict(zip(input_names(reference), random_inputs(reference, batch), strict=True))
    layers = attention_layers(reference)
    if layers:
        gates = [float(layer.gate) if gate is None else gate for layer in layers.values()]
        inputs["gates"] = torch.tensor(gates)
        inputs["terms"] = torch.tensor([terms] * len(layers), dtype=torch.float32)
        inputs["positions"] = torch.tensor(positions)
    return inputs


@dataclass(frozen=True)
class _Check:
    """Inputs, and what the generator computes from them: all outputs, by name."""

    inputs: Inputs
    expected: dict[str, np.ndarray]


def _checks(reference: Generator) -> list[_Check]:
    """Run the generator at several batch sizes, positions, gates and terms."""
    last = reference.config.image_size - 1
    corners = [(0, 0), (0, last), (last, 0), (last, last)]
    seeded = _inputs(reference, len(_CHECKED_SEEDS), [(last // 2, last // 3)])
    seeded["latents"] = latents_from_seeds(_CHECKED_SEEDS, reference.config.latent_dim)
    if (labels := labels_from_seeds(reference, _CHECKED_SEEDS)) is not None:
        seeded["labels"] = labels
    cases = [seeded, *(_inputs(reference, batch, corners[:batch]) for batch in CHECKED_BATCHES)]
    if attention_layers(reference):
        cases.append(_inputs(reference, 2, corners, gate=_OTHER_GATE, terms=_OTHER_TERMS))
    return [_Check(inputs, _expected(reference, inputs)) for inputs in cases]


@torch.no_grad()
def _expected(reference: Generator, inputs: Inputs) -> dict[str, np.ndarray]:
    """Compute the outputs by the generator itself and `capture_attention`, not by the graph."""
    arguments = [inputs[name] for name in input_names(reference)]
    layers = attention_layers(reference)
    if not layers:
        return {"images": reference(*arguments).numpy()}
    gates = dict(zip(layers, inputs["gates"].tolist(), strict=True))
    factors = dict(zip(layers, inputs["terms"], strict=True))
    positions: list[Position] = [(row, column) for row, column in inputs["positions"].tolist()]
    size = reference.config.image_size
    with (
        override_alpha(reference, gates),
        capture_attention(reference, positions) as captured,
        ExitStack() as stack,
    ):
        for name, layer in layers.items():
            hook = partial(_weighted_sum, name, captured, factors)
            stack.callback(layer.register_forward_hook(hook).remove)  # runs after the capture's
        expected = {"images": reference(*arguments).numpy()}
        for index, (name, layer) in enumerate(layers.items()):
            maps = [weights_of(captured[name], position, size) for position in positions]
            expected[f"attention_{index}"] = np.stack(maps, axis=1)
            terms = layer.blend(captured[name].plain, captured[name].gathered)
            for kind, term in zip(("convolution", "gathered"), terms, strict=True):
                expected[f"{kind}_{index}"] = term.square().mean(1).sqrt().numpy()
    return expected


def _weighted_sum(
    name: str, captured: Mapping[str, CapturedAttention], factors: Mapping[str, Tensor], layer: Any, *_: Any
) -> Tensor:
    """Replace a layer's output by the sum of its terms, each times its factor."""
    terms = layer.blend(captured[name].plain, captured[name].gathered)
    return sum((factor * term for factor, term in zip(factors[name], terms, strict=True)), torch.zeros(()))


@dataclass(frozen=True)
class _Differences:
    """The largest differences between the exported model and the generator; infinite where one of them is not finite.

    Attributes:
        levels: Of pixels, of 256 levels.
        weights: Of weights of attention.
        strengths: Of the strength of a term, as a share of its largest.
    """

    levels: int
    weights: float
    strengths: float


def _agree(differences: _Differences) -> bool:
    return (
        differences.levels <= MAX_LEVELS
        and differences.weights <= MAX_WEIGHT_DIFFERENCE
        and differences.strengths <= _STRENGTH_TOLERANCE
    )


def _differences(stored: bytes, checks: list[_Check]) -> _Differences:
    onnxruntime = import_package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(stored, options, providers=["CPUExecutionProvider"])
    levels, weights, strengths = 0, 0.0, 0.0
    for check in checks:
        feed = {name: tensor.numpy() for name, tensor in check.inputs.items()}
        for name, actual in zip(check.expected, session.run(list(check.expected), feed), strict=True):
            expected = check.expected[name]
            if actual.shape != expected.shape or not np.isfinite(actual).all():
                return _Differences(256, float("inf"), float("inf"))
            if name == "images":
                pixels, wanted = (to_uint8(torch.from_numpy(each)).astype(int) for each in (actual, expected))
                levels = max(levels, int(abs(pixels - wanted).max()))
                continue
            difference = float(abs(actual - expected).max())
            if name.startswith("attention"):
                weights = max(weights, difference)
            else:
                strengths = max(strengths, difference / max(float(expected.max()), 1e-12))
    return _Differences(levels, weights, strengths)


def _describe(reference: Generator, checks: list[_Check], directions: Directions | None) -> dict[str, Any]:
    """Describe inputs and outputs for a page."""
    config = reference.config
    names = config.label_names
    frequencies = reference.label_frequencies
    outputs = checks[0].expected
    return {
        "image_size": config.image_size,
        "channels": config.image_channels,
        "latent_dim": config.latent_dim,
        "labels": []
        if frequencies is None
        else [
            {"name": name, "frequency": _short(share)} for name, share in zip(names, frequencies.tolist(), strict=True)
        ],
        "label_groups": [[names[place] for place in places] for places in label_groups(names).values()],
        "directions": []
        if directions is None
        else [
            {"name": name, "vector": [_short(each) for each in vector], "correlation": _short(correlation)}
            for name, vector, correlation in zip(
                directions.names, directions.vectors.tolist(), directions.correlations, strict=True
            )
        ],
        "layers": [
            {
                "name": name,
                "gate": _short(layer.gate),
                "gate_name": layer.gate_name,
                "query_shape": list(outputs[f"convolution_{index}"].shape[1:]),
                "key_shape": list(outputs[f"attention_{index}"].shape[2:]),
                "heads": layer.heads,
            }
            for index, (name, layer) in enumerate(attention_layers(reference).items())
        ],
    }


def _short(number: float | Tensor) -> float:
    """Return a single-precision number with the nine digits that identify it."""
    return float(f"{float(number):.9g}")
