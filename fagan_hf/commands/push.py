"""``fagan-hf push``: a run folder to a repository on the Hub."""

import argparse
from pathlib import Path

from fagan_hf.commands.options import add_imports


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "Publish a run folder: networks, card, grid, plots, metrics, recipe, and exports if there are any, in one "
        "commit. What people wrote on the card there stays. Log in first: hf auth login."
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder, or a folder that convert has written")
    parser.add_argument("repo_id", metavar="USER/NAME", help="where to; made if need be")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    parser.add_argument("--revision", help="branch to commit to, made if need be (default: main)")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--message", help="the commit's message")
    parser.add_argument(
        "--training-state", action="store_true", help="the newest checkpoint too, for --resume_from elsewhere"
    )
    parser.add_argument(
        "--replace-card", action="store_true", help="push the folder's own card, whatever people wrote on the one there"
    )
    add_imports(parser)


def run(options: argparse.Namespace) -> None:
    """Check that the folder loads, and push it."""
    if not options.folder.is_dir():
        raise FileNotFoundError(f"{str(options.folder)!r} is no folder; give the folder of a run, like runs/avatars-32")

    from fagan_hf.architectures import import_code
    from fagan_hf.models import Discriminator, Generator
    from fagan_hf.publishing import publish
    from fagan_hf.repository import DISCRIMINATOR, GENERATOR, complete_repository

    for name in options.imports:
        import_code(name)
    where = {"private": options.private, "revision": options.revision, "create_pr": options.create_pr}
    generator = Generator.from_pretrained(options.folder)  # what is published loads
    if (options.folder / GENERATOR).is_dir():
        has_discriminator = (options.folder / DISCRIMINATOR).is_dir()
        discriminator = Discriminator.from_pretrained(options.folder) if has_discriminator else None
        complete_repository(options.folder, generator, discriminator)
        url = publish(
            options.folder,
            options.repo_id,
            message=options.message or f"Push {options.folder.resolve().name}",
            with_training_state=options.training_state,
            replace_card=options.replace_card,
            **where,
        )
    else:  # what generator.save_pretrained has written
        url = generator.push_to_hub(options.repo_id, commit_message=options.message, **where)
    print(f"pushed: {url}")
