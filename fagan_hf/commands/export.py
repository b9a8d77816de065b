"""``fagan-hf export``: export a generator to a single file that runs without this package."""

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
        "Export the generator to a single file that runs without this package, and verify it against the model."
    )
    add_model(parser, is_positional=True, has_device=False)
    parser.add_argument(
        "--format", choices=EXPORTS, required=True, help="onnx: ONNX Runtime, also in browsers; torch: torch only"
    )
    defaults = " or ".join(f"MODEL/{file}" for file in EXPORTS.values())
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"default: {defaults}; for a Hub id, in the current folder"
    )
    add_switch(parser, "--push", "push the file to the model's Hub repository")
    parser.set_defaults(device="cpu")


def run(options: argparse.Namespace) -> None:
    """Export a generator, and print how to run it."""
    path = options.out or _default_path(options.model, options.format)
    if path.is_dir():
        name = Path(EXPORTS[options.format]).name
        raise ValueError(f"--out is {str(path)!r}, which is a folder; use a file, like {path / name}")
    if options.push and Path(options.model).expanduser().is_dir():
        raise ValueError(f"--push needs a Hub id; `fagan-hf push {options.model} user/name` includes the export")

    from fagan_hf.export import export_onnx, export_torch
    from fagan_hf.hub.snapshot import resolve, split_revision

    repo_id = options.model
    if options.push:  # all from one commit: the export must match the weights in the repository
        repo_id, options.revision = split_revision(repo_id, options.revision)
        options.model = str(resolve(repo_id, allow_patterns=["*"], revision=options.revision).folder)
    generator = load_generator(options)
    export = export_onnx if options.format == "onnx" else export_torch
    result = export(generator, path)
    opset = f", opset {result.opset}" if result.opset else ""
    print(f"{result.path}: {result.num_bytes / 1e6:.2f} MB{opset}")
    print(f"its images, in [-1, 1], differ from the model's by at most {result.max_difference:.1e}; run it with")
    print("\n".join(_lines(options.format, path, generator.config)))
    if options.push:
        print(f"pushed: {_push(repo_id, options.revision, Path(options.model), path, options.format)}")


def _push(repo_id: str, revision: str | None, snapshot: Path, export: Path, format_name: str) -> str:
    """Publish the repository's contents with the export; only the card, which mentions it, changes as well."""
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
    """Return Python code that generates four images."""
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
