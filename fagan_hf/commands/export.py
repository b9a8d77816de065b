"""``fagan-hf export``: export a generator to files that run without this package."""

import argparse
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fagan_hf.commands.options import add_model, load_generator
from fagan_hf.commands.switches import add_switch
from fagan_hf.hub.repository import DIRECTIONS, EXPORTS, FACTS, WEB, WEB_DESCRIPTION

# By format: a file, or for a web page a folder, in a repository.
_TARGETS = {**EXPORTS, "web": WEB}


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "Export the generator to files that run without this package, and verify them against the model."
    )
    add_model(parser, is_positional=True, has_device=False)
    parser.add_argument(
        "--format",
        choices=_TARGETS,
        required=True,
        help="onnx: ONNX Runtime, also in browsers; torch: torch only; web: for web pages, ONNX with attention",
    )
    defaults = " or ".join(f"MODEL/{target}" for target in _TARGETS.values())
    parser.add_argument(
        "--out", type=Path, metavar="PATH", help=f"default: {defaults}; for a Hub id, in the current folder"
    )
    add_switch(parser, "--push", "push the export to the model's Hub repository")
    parser.set_defaults(device="cpu")


def run(options: argparse.Namespace) -> None:
    """Export a generator, and print how to run it."""
    path = options.out or _default_path(options.model, options.format)
    target = Path(_TARGETS[options.format])
    if options.format == "web" and path.exists() and not path.is_dir():
        raise ValueError(f"--out is {str(path)!r}, which is a file; use a folder, like {path.parent / target}")
    if options.format != "web" and path.is_dir():
        raise ValueError(f"--out is {str(path)!r}, which is a folder; use a file, like {path / target.name}")
    if options.push and Path(options.model).expanduser().is_dir():
        raise ValueError(f"--push needs a Hub id; `fagan-hf push {options.model} user/name` includes the export")

    from fagan_hf.hub.snapshot import resolve, split_revision

    repo_id = options.model
    if options.push:  # all from one commit: the export must match the weights in the repository
        repo_id, options.revision = split_revision(repo_id, options.revision)
        options.model = str(resolve(repo_id, allow_patterns=["*"], revision=options.revision).folder)
    generator = load_generator(options)
    lines = (
        _export_web(options, generator, path, repo_id) if options.format == "web" else _export(options, generator, path)
    )
    print("\n".join(lines))
    if options.push:
        print(f"pushed: {_push(repo_id, options.revision, Path(options.model), path, options.format)}")


def _export(options: argparse.Namespace, generator: Any, path: Path) -> list[str]:
    from fagan_hf.export import export_onnx, export_torch

    result = (export_onnx if options.format == "onnx" else export_torch)(generator, path)
    opset = f", opset {result.opset}" if result.opset else ""
    return [
        f"{result.path}: {result.num_bytes / 1e6:.2f} MB{opset}",
        f"its images, in [-1, 1], differ from the model's by at most {result.max_difference:.1e}; run it with",
        *_lines(options.format, path, generator.config),
    ]


def _export_web(options: argparse.Namespace, generator: Any, folder: Path, model: str) -> list[str]:
    from fagan_hf.export import export_web, web_details
    from fagan_hf.hub.repository import CARD
    from fagan_hf.hub.snapshot import resolve

    details = resolve(options.model, allow_patterns=[CARD, FACTS, DIRECTIONS], revision=options.revision).folder
    local = Path(model).expanduser()
    name = local.resolve().name if local.is_dir() else model.partition("@")[0].rpartition("/")[2]
    result = export_web(generator, folder, name=name, **web_details(details))
    stored = f"{result.num_bytes / 1e6:.2f} MB, weights in {result.precision}, and {WEB_DESCRIPTION}"
    pixels = f"its pixels differ from the model's by at most {result.max_levels} of 256 levels"
    return [f"{result.folder}: {stored}", f"{pixels}, weights of attention by {result.max_weight_difference:.1e}"]


def _push(repo_id: str, revision: str | None, snapshot: Path, export: Path, format_name: str) -> str:
    """Publish the repository's contents with the export; only the card, which mentions it, changes as well."""
    from fagan_hf.hub.publishing import publish

    with TemporaryDirectory() as name:
        folder = Path(name, "repository")
        shutil.copytree(snapshot, folder)
        target = folder / _TARGETS[format_name]
        if export.is_dir():
            shutil.copytree(export, target, dirs_exist_ok=True)
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(export, target)
        message = f"Export for {format_name}"
        return publish(folder, repo_id, message=message, revision=revision, only_on=snapshot.name)


def _default_path(model: str, format_name: str) -> Path:
    folder = Path(model).expanduser()
    return folder / _TARGETS[format_name] if folder.is_dir() else Path(Path(_TARGETS[format_name]).name)


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
