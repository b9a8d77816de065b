"""The command ``fagan-hf``.

Flags are parsed before torch is imported, so a mistyped one is reported immediately.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from importlib import import_module

from fagan_hf.commands import train
from fagan_hf.commands.switches import spelled_out
from fagan_hf.utils.version import __version__

COMMANDS = {
    "train": "train on your own images, from a recipe, or from a model",
    "data": "look at images before training, and at the cache of decoded ones",
    "generate": "generate images with a trained model",
    "interpolate": "make a video that interpolates between images",
    "evaluate": "compute metrics of a model",
    "directions": "find latent-space directions of labels",
    "project": "find the latent of a given image",
    "inspect": "inspect a model's attention",
    "convert": "convert a model of attn-gan-pytorch",
    "push": "publish a run on the Hub",
    "export": "write a model for ONNX Runtime or torch.export",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Without the program's name; by default the process's own. Flags may be written with - or _.

    Returns:
        Exit status: 0; 1 if `data` finds nothing usable; 2 for errors that the user can fix, after printing a message.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments[:1] == ["train"]:  # its flags are the fields of a recipe
            train.run(arguments[1:])
        else:
            options = _parse(_joined([_with_dashes(each) for each in arguments]))
            return options.run(options) or 0
    except (ValueError, OSError, ImportError) as error:
        from fagan_hf.utils.redaction import redact

        print(redact(f"fagan-hf: error: {error}"), file=sys.stderr)
        return 2
    return 0


def _with_dashes(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value if re.match(r"--\w", argument) else argument


def _joined(arguments: list[str]) -> list[str]:
    """Join a flag and a value like ``-1,0``, which argparse would mistake for a flag."""
    result: list[str] = []
    for argument in arguments:
        if result and re.match(r"-[\d.]", argument) and re.fullmatch(r"--[\w-]+", result[-1]):
            result[-1] += f"={argument}"
        else:
            result.append(argument)
    return result


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser, commands = _parser()
    command = next((each for each in arguments if each in commands), None)
    return parser.parse_args(arguments if command is None else spelled_out(arguments, commands[command]))


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(prog="fagan-hf", description="Attention GANs on the Hugging Face Hub.")
    parser.add_argument("--version", action="version", version=f"fagan-hf {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    parsers = {}
    for name, purpose in COMMANDS.items():
        if name == "train":
            commands.add_parser(name, help=purpose, add_help=False)
            continue
        command = import_module(f"fagan_hf.commands.{name}")
        parsers[name] = subparser = commands.add_parser(name, help=purpose)
        command.describe(subparser)
        subparser.set_defaults(run=command.run)
    return parser, parsers
