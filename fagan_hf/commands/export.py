"""``fagan-hf export``: a generator to one file that runs without this package."""

import argparse
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fagan_hf.commands.options import add_model, load_generator
from fagan_hf.commands.switches import add_switch
from fagan_hf.hub.repository import EXPORTS


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "Write the generator as one file that runs without this package, and compare its images with the model's."
    )
    add_model(parser, is_positional=True, has_device=False)
    parser.add_argument(
        "--format", choices=EXPORTS, required=True, help="onnx: ONNX Runtime, in browsers too; torch: torch alone"
    )
    defaults = " or ".join(f"MODEL/{file}" for file in EXPORTS.values())
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"default: {defaults}; of a Hub id, in the current folder"
    )
    add_switch(parser, "--push", "push the file beside the weights, of a Hub id")
    parser.set_defaults(device="cpu")


def run(options: argparse.Namespace) -> None:
    """Load, export, and say how to run it."""
    path = options.out or _default_path(options.model, options.format)
    if path.is_dir():
        name = Path(EXPORTS[options.format]).name
        raise ValueError(f"--out is {str(path)!r}, which is a folder; give a file, like {path / name}")
    if options.push and Path(options.model).expanduser().is_dir():
        raise ValueError(f"--push is for a Hub id; `fagan-hf push {options.model} user/name` takes the export along")

    from fagan_hf.export import export_onnx, export_torch
    from fagan_hf.hub.snapshot import resolve, split_revision

    repo_id = options.model
    if options.push:  # all of one commit: the export belongs to the weights that are there
        repo_id, options.revision = split_revision(repo_id, options.revision)
        options.model = str(resolve(repo_id, allow_patterns=["*"], revision=options.revision).folder)
    generator = load_generator(options)
    export = export_onnx if options.format == "onnx" else export_torch
    result = export(generator, path)
    opset = f", opset {result.opset}" if result.opset else ""
    print(f"{result.path}: {result.num_bytes / 1e6:.2f} MB{opset}")
    print(f"its images, from -1 to 1, differ from the model's by at most {result.max_difference:.1e}; run it with")
    print("\n".join(_lines(options.format, path, generator.config)))
    if options.push:
        print(f"pushed: {_push(repo_id, options.revision, Path(options.model), path, options.format)}")


def _push(repo_id: str, revision: str | None, snapshot: Path, export: Path, format_name: str) -> str:
    """Publish what is there once more, with the export; nothing else changes but the card, which names it."""
    from fagan_hf.hub.publishing import publish

    with TemporaryDirectory() as name:
        folder = Path(name, "repository")
        shutil.copytree(snapshot, folder)
        target = folder / EXPORTS[format_name]
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(export, target)
        message = f"Export for {format_name}"
        return publish(folder, repo_id, message=message, revision=revision, only_on=snapshot.name)


def _default_path(model: str, format_name: str) -> Path:
    folder = Path(model).expanduser()
    return folder / EXPORTS[format_name] if folder.is_dir() else Path(Path(EXPORTS[format_name]).name)


def _lines(format_name: str, path: Path, config: Any) -> list[str]:
    """Give Python that draws four images."""
    labels = f"  # each from 0 to 1: {', '.join(config.label_names)}" if config.num_labels else ""
    if format_name == "onnx":
        more = f', "labels": np.zeros((4, {config.num_labels}), np.float32)' if config.num_labels else ""
        return [
            "import numpy as np, onnxruntime",
            f"session = onnxruntime.InferenceSession({str(path)!r})",
            f"latents = np.random.randn(4, {config.latent_dim}).astype(np.float32)",
            f'[images] = session.run(None, {{"latents": latents{more}}}){labels}',
        ]
    more = f", torch.zeros(4, {config.num_labels})" if config.num_labels else ""
    return [
        "import torch",
        f"generator = torch.export.load({str(path)!r}).module()",
        f"images = generator(torch.randn(4, {config.latent_dim}){more}){labels}",
    ]
