"""Where a run starts: at its newest checkpoint, or from another model's training state or weights; and rollbacks."""

import math
import time
from collections.abc import Mapping
from typing import Any

from fagan_hf.architectures.load import save_architecture
from fagan_hf.hub.repository import (
    ARCHITECTURE,
    DISCRIMINATOR,
    GENERATOR,
    RECIPE,
    SNAPSHOTS,
    STATE,
    read_json,
    write_text,
)
from fagan_hf.training.reporting.health import (
    LR_BACKOFF,
    MAX_ROLLBACKS,
    DivergedError,
    describe_loss,
    report_failure,
)
from fagan_hf.training.run.checkpoint import Files
from fagan_hf.training.run.folder import recipe_changes
from fagan_hf.training.run.origin import (
    ITS_OWN,
    Origin,
    check_origin,
    copy_history,
    copy_training_state,
    restore_weights,
)
from fagan_hf.training.run.outputs import write_checkpoint
from fagan_hf.training.run.progress import Progress
from fagan_hf.training.run.session import Session
from fagan_hf.training.run.snapshots import forget_snapshots
from fagan_hf.training.step.precision import NAMES
from fagan_hf.utils.files import remove_abandoned, replacing
from fagan_hf.utils.redaction import redact


def restore(session: Session) -> None:
    """Restore the newest checkpoint, or the model that the run starts from."""
    processes, checkpoints = session.processes, session.checkpoints

    def check(state: dict[str, Any]) -> None:
        _check_state(session, state)

    found = processes.run_on_main(lambda: checkpoints.read(check) or _read_pushed_state(session, check))
    if processes.broadcast_from_main(found is not None):
        restore_checkpoint(session, found)
    else:
        _start_from_weights(session)
    for change in session.changes:
        session.note(f"Resuming with another recipe: {change}.")
    _open_stream(session)
    session.started = time.monotonic() - session.progress.seconds
    session.progress.data = {"content": session.batches.content, "description": session.images.description}
    session.main_writes(lambda: _begin_folder(session))
    processes.run_on_main(lambda: session.tracker.start(session.images_seen))
    if session.images_seen:
        session.tell(f"Resuming at {session.images_seen:,} images.")


def restore_checkpoint(session: Session, found: tuple[dict[str, Any], Files] | None) -> None:
    """Restore a checkpoint that the main process has read; the other processes need no access to its folder."""
    processes, count = session.processes, session.processes.count
    state = processes.broadcast_from_main(found[0] if found else None)
    numbers = session.checkpoints.restore(processes.share(found[1] if found else {}))
    if session.graphed is not None:
        session.graphed.forget()  # the optimizers' tensors have been replaced
    session.progress = progress = Progress.from_state(state)
    session.means.clear()
    if progress.metrics:
        tables = numbers["means"]
        is_same = len(tables) == count
        session.means.restore(progress.metrics, tables[processes.index] if is_same else tables.mean(0))
    session.skipped.restore(numbers.get("skipped_steps"))
    for name, scale in session.trainer.loss_scales().items():
        scale.restore(numbers.get(name))
    if (probability := session.trainer.probability) is not None:
        probability.restore(numbers.get("augment_probability"))
    if progress.processes != count:
        session.note(
            f"Resuming with {count} process{'es' if count > 1 else ''} instead of {progress.processes}: same batches "
            "in the same order, but sums are rounded differently."
        )
        progress.processes = count
    _note_precision(session)
    if _has_other_data(session, progress):
        session.note("The images have changed since the last session; resuming because accept_changed_data is set.")
        earlier = progress.lineage.setdefault("earlier_data", [])
        if progress.data["description"] not in earlier:
            earlier.insert(0, progress.data["description"])
    session.last_done.forget("refreshed", "kept", "shown", "drawn", "evaluated")


def _note_precision(session: Session) -> None:
    """Note a precision other than that of the last session, unless the recipe's own change says so."""
    before, now = session.progress.precision, session.processes.precision
    is_told = any(change.startswith("mixed_precision ") for change in session.changes)
    if before in NAMES and before != now and not is_told:
        session.note(f"Resuming in {NAMES[now]} instead of {NAMES[before]}, which this device computes best in.")
    session.progress.precision = now


def roll_back(session: Session) -> None:
    """Roll back to the newest checkpoint, with other random numbers and lower learning rates.

    Raises:
        DivergedError: The maximum number of rollbacks is reached.
    """
    before, recipe, processes = session.progress, session.recipe, session.processes
    lost_at, returns, seconds = before.images_seen, before.returns + 1, before.seconds
    if returns > MAX_ROLLBACKS:
        raise DivergedError(report_failure(session.last_line, before.returns, recipe.run_dir))
    why = describe_loss(session.last_line)
    restore_checkpoint(session, processes.run_on_main(session.checkpoints.read))
    session.skipped.begin_again()
    progress = session.progress
    progress.returns = returns
    progress.data, progress.lineage = before.data, before.lineage  # the checkpoint's may differ
    _open_stream(session)
    progress.seconds = progress.logged_seconds = seconds
    session.note(
        f"Rolled back from {lost_at:,} to {session.images_seen:,} images, rollback {returns} of {MAX_ROLLBACKS}: "
        f"{why}. Images come in a new order and learning rates are {LR_BACKOFF**returns:g} times the recipe's."
    )
    with processes.uneven_work():
        if session.is_main:
            forgotten = session.when_there_is_room(lambda: session.report.rewind(session.images_seen, progress.lines))
            forget_snapshots(recipe.run_dir, session.images_seen)
            events = [event for line in forgotten for event in line.get("events", [])]  # kept for the next line
            progress.events = list(dict.fromkeys([*events, *progress.events]))
            progress.lines = len(session.report.lines())


def _check_state(session: Session, state: dict[str, Any]) -> None:
    """Refuse a checkpoint of a newer version, one behind the model to resume, and one trained on other images."""
    progress, recipe, origin = Progress.from_state(state), session.recipe, session.origin
    ahead = origin.images_seen if origin and recipe.resume_from else 0
    if ahead > progress.images_seen:
        raise ValueError(
            f"{recipe.run_dir} has seen {progress.images_seen:,} images, but {recipe.resume_from} {ahead:,}: to resume "
            "from the latter remove the folder or choose another --name, to resume from the folder leave out "
            "--resume_from"
        )
    if _has_other_data(session, progress) and not recipe.accept_changed_data:
        before, now = (each.get("count") for each in (progress.data["description"], session.images.description))
        change = f"{before:,} then, {now:,} now" if before and now and before != now else "other pixels or labels"
        raise ValueError(
            f"the images of {recipe.dataset!r} have changed since the run began ({change}). Restore them, choose "
            "another --name, or resume with the new images: --accept_changed_data"
        )


def _has_other_data(session: Session, progress: Progress) -> bool:
    return bool(progress.data) and progress.data["content"] != session.batches.content


def _read_pushed_state(session: Session, check: Any) -> tuple[dict[str, Any], Files] | None:
    """Read the training state of the model to resume, pushed or a checkpoint, as if it had been trained here."""
    origin = session.origin
    if origin is None or not session.recipe.resume_from:
        return None
    source = origin.training_state
    if source is None:
        _refuse_to_do_nothing(session, origin.name, origin.facts)
        return None
    lineage = _lineage_of(session, origin)
    check_origin(origin, source, session.generator, session.discriminator, check)
    _refuse_to_do_nothing(session, origin.name, read_json(source / STATE))
    session.when_there_is_room(
        lambda: copy_training_state(origin, source, session.checkpoints.folder, session.report.metrics_path, lineage)
    )
    found = session.checkpoints.read(check)
    session.changes.extend(recipe_changes(origin.recipe(), session.recipe, ITS_OWN).values())
    if found is not None:
        _tell_what_was_kept(session, origin, found[1])
    return found


def _tell_what_was_kept(session: Session, origin: Origin, files: Files) -> None:
    kept, total = session.checkpoints.count_moments(files)
    fresh = f"; the other {total - kept} start without" if kept < total else ""
    session.tell(
        f"Continuing {origin.name}: weights, averaged generator, and the optimizers' moments of {kept} of {total} "
        f"parameters{fresh}."
    )


def _open_stream(session: Session) -> None:
    """Continue the batches from the run's current progress; with a stream this may take a while."""
    with session.processes.uneven_work():
        session.batches.go_to(session.images_seen, session.progress.returns)
    if session.images_seen and session.recipe.streaming and session.images.description["source"] == "hub":
        session.note("The images are streamed: around this point some may repeat and others be skipped in this epoch.")


def _start_from_weights(session: Session) -> None:
    """Load the weights of another model, and with `resume_from` its progress as far as it is recorded."""
    origin, processes, networks = session.origin, session.processes, session.checkpoints.networks
    if origin is None:
        return
    is_resumed = session.recipe.resume_from is not None
    message = processes.run_on_main(
        lambda: restore_weights(
            origin,
            session.generator,
            session.discriminator,
            session.averaged.model,
            may_adapt=not is_resumed,
            frozen_layers=session.recipe.freeze_discriminator_layers,
        )
    )
    session.tell(f"{origin.name} has no training state. {message}" if is_resumed else message or "")
    weights = processes.share({name: network.state_dict() for name, network in networks.items()})
    for name, network in networks.items():
        network.load_state_dict(weights[name])
    progress = session.progress
    progress.lineage = processes.broadcast_from_main(_lineage_of(session, origin))
    if not is_resumed:
        return
    facts = processes.broadcast_from_main(origin.facts)
    if "images_seen" not in facts:
        session.tell(f"{origin.name} does not record how many images it has seen: counting from 0.")
    progress.images_seen = progress.logged_images = facts.get("images_seen", 0)
    progress.seconds = progress.logged_seconds = facts.get("seconds", 0.0)
    progress.lines = None
    session.main_writes(lambda: copy_history(origin, session.report.metrics_path))


def _lineage_of(session: Session, origin: Origin) -> dict[str, Any]:
    return origin.lineage(is_resumed=session.recipe.resume_from is not None, data=session.images.description)


def _refuse_to_do_nothing(session: Session, name: str, progress: Mapping[str, Any]) -> None:
    """Refuse, before anything is written, a model that has already reached the recipe's end.

    Raises:
        ValueError: It has reached the end.
    """
    recipe = session.recipe
    images, minutes = progress.get("images_seen", 0), progress.get("seconds", 0.0) / 60
    if images >= recipe.max_images or minutes >= (recipe.max_minutes or math.inf):
        raise ValueError(
            f"nothing left to do: {name} has seen {images:,} images in {minutes:.1f} minutes, which reaches the "
            "recipe's limit; raise --max_images or --max_minutes"
        )


def _begin_folder(session: Session) -> None:
    """Write the run folder's contents before the first step, including a first checkpoint to roll back to."""
    folder = session.recipe.run_dir
    folder.mkdir(parents=True, exist_ok=True)
    for each in (
        folder,
        *(folder / name for name in (GENERATOR, DISCRIMINATOR, SNAPSHOTS)),
        session.report.samples_folder,
    ):
        remove_abandoned(each)
    write_text(folder / RECIPE, redact(session.recipe.to_yaml()))
    with replacing(folder / ARCHITECTURE) as path:
        save_architecture(path, session.architecture)
    session.report.rewind(session.images_seen, session.progress.lines)
    forget_snapshots(folder, session.images_seen)
    session.progress.lines = len(session.report.lines())
    if not session.checkpoints.all():
        write_checkpoint(session, {})
