"""``fagan-hf convert``: convert a model of attn-gan-pytorch to a repository of this package."""

import argparse
from pathlib import Path


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "Convert a model of attn-gan-pytorch, such as the original FAGAN. Weights are read without running code."
    )
    for network, example in (("generator", "GAN_GEN_10.pth"), ("discriminator", "GAN_DIS_10.pth")):
        is_required = network == "generator"
        without = "" if is_required else " (default: no discriminator)"
        file = {"type": Path, "metavar": "FILE", "required": is_required}
        parser.add_argument(f"--{network}-conf", **file, help=f".conf file of the {network}{without}")
        parser.add_argument(f"--{network}-weights", **file, help=f"its weights, like {example}{without}")
    parser.add_argument(
        "--label-names",
        default="",
        metavar="NAMES",
        help="label names of a conditional model, in the model's order, like beard,glasses",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        required=True,
        help="output folder, created if missing; must not contain a generator",
    )


def run(options: argparse.Namespace) -> None:
    """Convert a model, save it, and print how to load it."""
    label_names = [name.strip() for name in options.label_names.split(",")] if options.label_names else []
    if not all(label_names):
        raise ValueError(f"--label-names is {options.label_names!r}; it must be a comma-separated list of names")
    if (options.out / "generator").exists():
        raise ValueError(f"--out is {str(options.out)!r}, which already contains a generator; use another folder")

    from fagan_hf.hub.repository import save_repository
    from fagan_hf.models.legacy.convert import convert

    generator, discriminator = convert(
        options.generator_conf,
        options.generator_weights,
        options.discriminator_conf,
        options.discriminator_weights,
        label_names,
    )
    save_repository(options.out, generator, discriminator)
    size = generator.config.image_size
    networks = "generator" if discriminator is None else "generator and discriminator"
    labels = f" and {len(label_names)} labels" if label_names else ""
    taken = f"with a {generator.config.latent_dim}-dimensional latent{labels}"
    print(f"{networks} for {size}x{size} images, {taken}, in {options.out}; load with")
    print(f"from fagan_hf import FAGANPipeline; pipe = FAGANPipeline.from_pretrained({str(options.out)!r})")
