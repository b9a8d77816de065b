"""``fagan-hf push``: push a run folder to a repository on the Hub, and a page that shows the model to a Space."""

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
        "commit. User edits of the existing card are kept. Log in first: hf auth login."
    )
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder, or a folder written by convert")
    parser.add_argument("repo_id", metavar="USER/NAME[@BRANCH]", help="target repository, created if missing")
    add_switch(parser, "--private", "make a new repository private", default=None)
    parser.add_argument("--revision", help="branch to commit to, created if missing (default: main)")
    add_switch(parser, "--create-pr", "open a pull request instead of committing")
    parser.add_argument("--message", help="commit message")
    add_switch(parser, "--training-state", "also push the newest checkpoint, for --resume_from elsewhere")
    add_switch(parser, "--web", "also push an export for web pages, made now (an existing one is pushed anyway)")
    parser.add_argument(
        "--space",
        metavar="USER/PAGE",
        help="also publish the live page, which runs this model in browsers, as a static Space; with an export for web "
        "pages, made now if there is none",
    )
    add_switch(parser, "--replace-card", "push the folder's card, discarding user edits of the existing one")
    add_imports(parser)


def run(options: argparse.Namespace) -> None:
    """Check that the folder can be loaded, and push it."""
    if not options.folder.is_dir():
        raise FileNotFoundError(f"{str(options.folder)!r} is not a folder; give a run folder, like runs/avatars-32")

    from fagan_hf.architectures.own_code import import_code
    from fagan_hf.hub.repository import DISCRIMINATOR, FACTS, GENERATOR
    from fagan_hf.models import Generator

    whole = options.folder.resolve().parent
    if options.folder.resolve().name in (GENERATOR, DISCRIMINATOR) and (whole / FACTS).is_file():
        raise ValueError(f"{str(options.folder)!r} is part of {whole.name}, whose card would be lost; push that folder")

    is_run = (options.folder / GENERATOR).is_dir()
    if options.space:
        from fagan_hf.hub.live_page import built_page

        built_page()  # before anything is pushed: if it is missing, nothing is
    if (options.web or options.space) and not is_run:
        raise ValueError(
            f"--web and --space need a folder with the layout of a repository; {str(options.folder)!r} has no "
            f"{GENERATOR}/. Write one with fagan_hf.hub.repository.save_repository"
        )
    if options.space and options.create_pr:
        raise ValueError(
            "--space shows the published model, but --create-pr does not publish it; leave one of them out"
        )
    for name in options.imports:
        import_code(name)
    where = {"private": options.private, "revision": options.revision, "create_pr": options.create_pr}
    if is_run:
        url = _publish_run(options, where)
    else:  # written by generator.save_pretrained
        generator = Generator.from_pretrained(options.folder)
        url = generator.push_to_hub(options.repo_id, commit_message=options.message, **where)
    if options.create_pr and "/discussions/" not in url:
        print(f"no changes, so no pull request was opened: {url}")
    else:
        print(f"pushed: {url}")


def _publish_run(options: argparse.Namespace, where: dict[str, Any]) -> str:
    """Publish a snapshot, because the run may be in training and its folder must not be written to."""
    from fagan_hf.hub.live_page import publish_page
    from fagan_hf.hub.publishing import publish
    from fagan_hf.hub.repository import WEB, WEB_DESCRIPTION

    snapshot = _complete_snapshot(options.folder, options.training_state)
    try:
        with _named(snapshot, options.folder):
            if options.web or (options.space and not (snapshot / WEB / WEB_DESCRIPTION).is_file()):
                _export_web(snapshot, options.repo_id)
            url = publish(
                snapshot,
                options.repo_id,
                message=options.message or f"Push {options.folder.resolve().name}",
                with_training_state=options.training_state,
                replace_card=options.replace_card,
                **where,
            )
            if options.space:
                model = options.repo_id.partition("@")[0]
                page = publish_page(options.space, model, snapshot / WEB, private=options.private)
                print(f"page: {page}")
            return url
    finally:
        shutil.rmtree(snapshot, ignore_errors=True)


def _export_web(snapshot: Path, repo_id: str) -> None:
    from fagan_hf.export import export_web, web_details
    from fagan_hf.hub.repository import WEB
    from fagan_hf.models import Generator

    generator = Generator.from_pretrained(snapshot)
    name = repo_id.partition("@")[0].rpartition("/")[2]
    export_web(generator, snapshot / WEB, name=name, **web_details(snapshot))


def _complete_snapshot(folder: Path, with_training_state: bool) -> Path:
    """Take a loadable snapshot and add missing files; retry if training saved at the same time."""
    from fagan_hf.hub.repository import DISCRIMINATOR, complete_repository
    from fagan_hf.hub.staging import is_up_to_date, take_snapshot
    from fagan_hf.models import Discriminator, Generator

    for tries_left in reversed(range(SNAPSHOT_TRIES)):
        snapshot = take_snapshot(folder, with_training_state=with_training_state)
        try:
            with _named(snapshot, folder):
                generator = Generator.from_pretrained(snapshot)  # checks that it can be loaded
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
    """Replace the snapshot's path by the user's folder in error messages."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(str(error).replace(str(snapshot), str(folder))) from error
