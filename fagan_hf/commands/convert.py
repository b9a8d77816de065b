"""``fagan-hf convert``: a model of attn-gan-pytorch to a repository of ours."""

import argparse
from pathlib import Path


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "Bring a model of attn-gan-pytorch over, that of fagan for example. Weights are read without running code."
    )
    for network, example in (("generator", "GAN_GEN_10.pth"), ("discriminator", "GAN_DIS_10.pth")):
        is_required = network == "generator"
        without = "" if is_required else " (default: no discriminator)"
        file = {"type": Path, "metavar": "FILE", "required": is_required}
        parser.add_argument(f"--{network}-conf", **file, help=f"the {network}'s .conf{without}")
        parser.add_argument(f"--{network}-weights", **file, help=f"its weights, like {example}{without}")
    parser.add_argument(
        "--label-names",
        default="",
        metavar="NAMES",
        help="of a conditional model, in the order of its labels: like beard,glasses",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", required=True, help="made if need be; it must hold no generator yet"
    )


def run(options: argparse.Namespace) -> None:
    """Read, convert, write, and say how to load it."""
    label_names = [name.strip() for name in options.label_names.split(",")] if options.label_names else []
    if not all(label_names):
        raise ValueError(f"--label-names is {options.label_names!r}; it must be names with commas between them")
    if (options.out / "generator").exists():
        raise ValueError(f"--out is {str(options.out)!r}, which holds a generator already; give another folder")

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
    taken = f"from {generator.config.latent_dim} latent numbers{labels}"
    print(f"{networks} for {size}x{size} images, {taken}, in {options.out}; load with")
    print(f"from fagan_hf import FAGANPipeline; pipe = FAGANPipeline.from_pretrained({str(options.out)!r})")
