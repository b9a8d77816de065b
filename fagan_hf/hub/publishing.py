"""Publish a folder as a model repository: which files to upload, which become stale, and the card."""

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fagan_hf.hub import client
from fagan_hf.hub.card import published_model, write_card
from fagan_hf.hub.measurements import Measurement, parse_measurements
from fagan_hf.hub.repository import (
    CARD,
    CONFIG,
    FACTS,
    GENERATOR,
    METRICS,
    RECIPE,
    REQUIREMENTS,
    STATE,
    TRAINING_STATE,
    WEIGHTS,
    describes_weights,
    is_index,
    newest_checkpoint,
    published_files,
    read_json,
    read_recipe,
    weights_hash,
)
from fagan_hf.hub.snapshot import split_revision
from fagan_hf.utils.redaction import redact

_OUR_REQUIREMENTS = re.compile(r"fagan-hf==\S+\s*")
_TEXTS = (".json", ".jsonl", ".yaml", ".txt")


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    message: str,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    with_training_state: bool = False,
    replace_card: bool = False,
    only_on: str | None = None,
    patience_seconds: float = 60.0,
    hurry: threading.Event | None = None,
) -> str:
    """Push a folder that has the layout of a repository, in one commit.

    If the generator in the repository has other weights, everything that described them (samples, metrics, exports, a
    training state) and is not replaced is deleted in the same commit. The generated parts of the card are rewritten,
    the others are kept.

    Args:
        folder: A run folder, or one written by `save_repository`; complete or not, its files are pushed.
        repo_id: ``user/name`` or ``user/name@branch``; the repository is created if missing.
        message: Commit message.
        private: Whether to make a new repository private.
        token: Access token; by default the one stored by ``hf auth login``.
        revision: Branch to commit to, created if missing; by default that of ``repo_id``, else ``main``.
        create_pr: Open a pull request instead of committing.
        with_training_state: Push the newest checkpoint as well, from which training resumes exactly.
        replace_card: Push the folder's card and discard user edits of the existing one. Otherwise the folder's card is
            used only if the repository has none.
        only_on: The expected parent commit; the push fails if the repository has moved on.
        patience_seconds: Maximum total wait between retries while the Hub is unreachable.
        hurry: When set, ends the current wait.

    Returns:
        URL of the commit, or of the pull request.

    Raises:
        PermissionError: There is no token, or it lacks write access; says what to try.
        ValueError: A name is invalid, the revision is not a branch, the repository is public but a private one was
            requested, or the existing card can't be parsed.
        FileNotFoundError: There is no checkpoint of the published weights to push.
        ConnectionError: The Hub was still unreachable after `patience_seconds`.
    """
    folder = Path(folder)
    repo_id, revision = split_revision(repo_id, revision)
    files: dict[str, Path] = published_files(folder)
    if with_training_state:
        files |= _training_state(folder)

    def compose(existing: client.Existing) -> Mapping[str, client.Content]:
        if only_on not in (None, existing.commit):
            raise ValueError(
                f"{repo_id} has moved on from {only_on} to {existing.commit}: download its new state first"
            )
        contents: dict[str, client.Content] = {name: _clean(path, token) for name, path in files.items()}
        if RECIPE in contents:
            contents[RECIPE] = redact(yaml.safe_dump(portable_recipe(folder), sort_keys=False), token).encode()
        if REQUIREMENTS in existing.hashes and not _is_our_requirement(existing.texts.get(REQUIREMENTS, "")):
            contents.pop(REQUIREMENTS, None)
        if CONFIG in existing.hashes and not is_index(existing.texts.get(CONFIG, "")):  # of a single network
            contents.pop(CONFIG, None)
        weights = weights_hash(folder)
        if weights is None:  # a discriminator alone
            return contents
        weights_there = existing.hashes.get(f"{GENERATOR}/{WEIGHTS}")
        if weights_there not in (None, weights):
            gone = (name for name in existing.hashes if describes_weights(name) and name not in contents)
            contents |= dict.fromkeys(gone)
        is_bare = not any(describes_weights(name) for name in contents if name != FACTS)
        if is_bare and weights_there == weights and not replace_card and CARD in existing.texts:  # it has more facts
            contents.pop(FACTS, None)
            return contents
        there = None if replace_card else existing.texts.get(CARD)
        present = {name for name in (*existing.hashes, *contents) if contents.get(name, name) is not None}
        measured = None if METRICS in contents else _measured_there(existing)
        card = write_card(folder, existing.repo_id, there or _text(folder / CARD), present, measured)
        return contents | {CARD: redact(card, token).encode("utf-8", errors="surrogateescape")}

    return client.push(
        repo_id,
        compose,
        message=message,
        reads=(CARD, CONFIG, METRICS, REQUIREMENTS),
        private=private,
        token=token,
        revision=revision,
        create_pr=create_pr,
        patience_seconds=patience_seconds,
        hurry=hurry,
    )


def _is_our_requirement(text: str) -> bool:
    """Return whether this is the generated line, not one that a user wrote in its place."""
    return _OUR_REQUIREMENTS.fullmatch(text) is not None


def _measured_there(existing: client.Existing) -> list[Measurement]:
    try:
        return parse_measurements(existing.texts.get(METRICS, "[]"))
    except ValueError:  # a file of the same name from another program
        return []


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


# Fields that concern the machine of a run or where it was pushed.
NOT_PORTABLE = (
    "imports",
    "output_dir",
    "cpu_threads",
    "push_to_hub",
    "hub_private",
    "push_training_state",
    "resume_from",
    "checkpoint",
    "finetune_from",
    "report_to",
    "accept_changed_data",
)


def portable_recipe(folder: Path) -> dict[str, Any]:
    """Return a run's recipe for publishing: without machine-specific fields and without local paths.

    Raises:
        ValueError: The folder's recipe is not a YAML mapping.
    """
    recipe = read_recipe(folder)
    for name in NOT_PORTABLE:
        recipe.pop(name, None)
    if "dataset" in recipe and (read_json(folder / FACTS).get("data") or {}).get("source") == "folder":
        recipe["dataset"] = f"./{Path(recipe['dataset']).expanduser().resolve().name}"
    if "model" in recipe:
        recipe["model"] = published_model(str(recipe["model"]))
    return recipe


def _clean(path: Path, token: str | bool | None) -> Path | bytes:
    """Redact tokens in text files that a run wrote."""
    if path.suffix not in _TEXTS:
        return path
    text = path.read_text(encoding="utf-8")
    redacted = redact(text, token)
    return path if redacted == text else redacted.encode()


def _training_state(folder: Path) -> dict[str, Path]:
    """Find the checkpoint of the weights that are published."""
    checkpoint = newest_checkpoint(folder)
    published = read_json(folder / FACTS).get("training", {}).get("images_seen")
    if published is None or checkpoint is None or read_json(checkpoint / STATE).get("images_seen") != published:
        raise FileNotFoundError(
            f"{folder} has no checkpoint of its weights at {published} images, so there is no training state to push; "
            "the newest checkpoint must match the published weights"
        )
    return {f"{TRAINING_STATE}/{path.name}": path for path in checkpoint.iterdir()}
