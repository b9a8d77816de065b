"""``fagan-hf push``: a run folder to a repository on the Hub."""

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fagan_hf.commands.options import add_imports
from fagan_hf.commands.switches import add_switch

SNAPSHOT_TRIES = 5


def describe(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.description = (
        "Publish a run folder: networks, card, grid, plots, metrics, recipe, and exports if there are any, in one "
        "commit. What people wrote on the card there stays. Log in first: hf auth login."
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder, or a folder that convert has written")
    parser.add_argument("repo_id", metavar="USER/NAME", help="where to; made if need be")
    add_switch(parser, "--private", "make a new repository private", default=None)
    parser.add_argument("--revision", help="branch to commit to, made if need be (default: main)")
    add_switch(parser, "--create-pr", "open a pull request instead of committing")
    parser.add_argument("--message", help="the commit's message")
    add_switch(parser, "--training-state", "the newest checkpoint too, for --resume_from elsewhere")
    add_switch(parser, "--replace-card", "push the folder's own card, whatever people wrote on the one there")
    add_imports(parser)


def run(options: argparse.Namespace) -> None:
    """Check that the folder loads, and push it."""
    if not options.folder.is_dir():
        raise FileNotFoundError(f"{str(options.folder)!r} is no folder; give the folder of a run, like runs/avatars-32")

    from fagan_hf.architectures.own_code import import_code
    from fagan_hf.hub.repository import DISCRIMINATOR, FACTS, GENERATOR
    from fagan_hf.models import Generator

    whole = options.folder.resolve().parent
    if options.folder.resolve().name in (GENERATOR, DISCRIMINATOR) and (whole / FACTS).is_file():
        raise ValueError(f"{str(options.folder)!r} is a part of {whole.name}, whose card would be lost; push that")

    for name in options.imports:
        import_code(name)
    where = {"private": options.private, "revision": options.revision, "create_pr": options.create_pr}
    if (options.folder / GENERATOR).is_dir():
        url = _publish_run(options, where)
    else:  # what generator.save_pretrained has written
        generator = Generator.from_pretrained(options.folder)
        url = generator.push_to_hub(options.repo_id, commit_message=options.message, **where)
    if options.create_pr and "/discussions/" not in url:
        print(f"nothing differs from what is there, so no pull request was opened: {url}")
    else:
        print(f"on the Hub: {url}")


def _publish_run(options: argparse.Namespace, where: dict[str, Any]) -> str:
    """Publish a snapshot: the run may be in training, and its folder is not ours to write to."""
    from fagan_hf.hub.publishing import publish

    snapshot = _complete_snapshot(options.folder, options.training_state)
    try:
        with _named(snapshot, options.folder):
            return publish(
                snapshot,
                options.repo_id,
                message=options.message or f"Push {options.folder.resolve().name}",
                with_training_state=options.training_state,
                replace_card=options.replace_card,
                **where,
            )
    finally:
        shutil.rmtree(snapshot, ignore_errors=True)


def _complete_snapshot(folder: Path, with_training_state: bool) -> Path:
    """Take a snapshot that loads, and add what the folder lacks; once more if a training saved at the same time."""
    from fagan_hf.hub.repository import DISCRIMINATOR, complete_repository
    from fagan_hf.hub.staging import is_up_to_date, take_snapshot
    from fagan_hf.models import Discriminator, Generator

    for tries_left in reversed(range(SNAPSHOT_TRIES)):
        snapshot = take_snapshot(folder, with_training_state=with_training_state)
        try:
            with _named(snapshot, folder):
                generator = Generator.from_pretrained(snapshot)  # what is published loads
                has_discriminator = (snapshot / DISCRIMINATOR).is_dir()
                discriminator = Discriminator.from_pretrained(snapshot) if has_discriminator else None
                if is_up_to_date(snapshot, folder) or not tries_left:
                    complete_repository(snapshot, generator, discriminator)
                    return snapshot
        except BaseException:
            shutil.rmtree(snapshot, ignore_errors=True)
            raise
        shutil.rmtree(snapshot, ignore_errors=True)
    raise AssertionError("the last try returns")


@contextmanager
def _named(snapshot: Path, folder: Path) -> Iterator[None]:
    """Let errors name the folder that the user knows."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(str(error).replace(str(snapshot), str(folder))) from error
