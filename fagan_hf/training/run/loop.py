"""The training loop: when to step, log, sample, save, roll back and stop."""

import sys
import time

import torch
from tqdm import tqdm

from fagan_hf.training.reporting.health import LR_BACKOFF
from fagan_hf.training.reporting.publisher import STOPPED_PATIENCE_SECONDS
from fagan_hf.training.run import outputs, resume
from fagan_hf.training.run.agreement import Agreement, Verdict
from fagan_hf.training.run.session import Session
from fagan_hf.training.step.memory import explained
from fagan_hf.training.step.randomness import random_seed


def train(session: Session) -> None:
    """Train until the recipe's end, from the newest checkpoint if there is one, then close the session.

    Args:
        session: Created by `fagan_hf.training.run.session.setup`.

    Raises:
        ValueError: The model that the run starts from has another architecture, the images have changed, or the
            checkpoint was written by a newer version.
        FileNotFoundError: The model that the run starts from lacks a file.
        OSError: The disk stays full.
        DivergedError: Losses or gradients are not finite, and rolling back to a checkpoint did not help.
        OtherProcessError: Another process has failed during uneven work.
        OutOfMemoryError: The device's memory is too small for a step; says what fits.
        RuntimeError: Another process is gone.
    """
    try:
        resume.restore(session)
        is_stopped = _run(session)
        if session.publisher is not None:
            session.publisher.finish(STOPPED_PATIENCE_SECONDS if is_stopped else None)
    finally:
        session.close()


def _run(session: Session) -> bool:
    """Take steps until the end or a stop request; return whether the run was stopped."""
    agreement = Agreement(session)
    verdict, is_saved = agreement.ask(), False
    if _is_over(session, verdict):
        session.tell(f"Nothing left to do after {session.images_seen:,} images: raise --max_images or --max_minutes.")
    with session.stop_request.listening(), _progress_bar(session) as bar:
        while not verdict.is_stopped and not _has_ended(session, verdict):
            with explained(session.recipe, session.architecture, session.processes.count, session.processes.precision):
                take_step(session)
            bar.update(session.recipe.batch_size)
            is_lost, is_measured = False, session.is_due("eval") and outputs.measure(session)
            if session.is_due("log") or is_measured:
                is_lost = outputs.log(session)
                bar.total = expected_images(session)
                bar.set_postfix(outputs.shown_numbers(session))
            if is_lost:
                resume.roll_back(session)
                bar.n = session.images_seen
                continue
            if session.is_due("sample"):
                outputs.show(session)
            verdict = agreement.ask()
            if session.is_due("checkpoint") or verdict.is_stopped:
                is_saved = outputs.save_if_healthy(session)
        bar.close()  # later messages are printed below it
        if verdict.is_stopped:
            saved = "checkpoint saved. Run the same command to resume" if is_saved else "no checkpoint saved"
            session.tell(f"Stop requested; {saved}.")
        else:
            outputs.finish(session)
        with session.processes.uneven_work():
            session.tracker.finish()
        session.processes.end()
    return verdict.is_stopped


def take_step(session: Session) -> None:
    """Take one step of both networks, and update the averaged generator."""
    recipe, seen, processes = session.recipe, session.images_seen, session.processes
    # Dropout uses torch's global generator; seeding it at every step makes a resumed run identical.
    place = seen * processes.count + processes.index
    torch.manual_seed(random_seed(recipe.seed, "dropout", place, session.batches.attempt))
    for_discriminator, for_generator = session.batches.make(seen)
    _set_learning_rates(session, seen + recipe.batch_size)
    steps = session.graphed or session.trainer
    numbers = steps.step(for_discriminator, for_generator, seen // recipe.batch_size)
    session.progress.images_seen += recipe.batch_size
    session.averaged.update(session.generator, recipe.batch_size, session.images_seen)
    session.skipped.add(*(numbers.pop(name) for name in session.skipped.names))
    session.means.add(numbers)  # stays on the device, without synchronization
    session.progress.seconds = time.monotonic() - session.started


def _set_learning_rates(session: Session, images: int) -> None:
    """Set the learning rates: warmup, decay, and backoff after every rollback."""
    recipe = session.recipe
    share = min(1.0, images / recipe.warmup_images) if recipe.warmup_images else 1.0
    if recipe.decay_after_images is not None:
        share *= max(1.0, images / recipe.decay_after_images) ** -0.5
    share *= LR_BACKOFF**session.progress.returns
    session.trainer.generator.set_learning_rate(share * recipe.generator_learning_rate)
    session.trainer.discriminator.set_learning_rate(share * recipe.discriminator_learning_rate)


def _is_over(session: Session, verdict: Verdict) -> bool:
    return verdict.is_late or session.images_seen >= session.recipe.max_images


def _has_ended(session: Session, verdict: Verdict) -> bool:
    """Return whether the run is over; first log the steps since the last line, and roll back if they diverged."""
    if not _is_over(session, verdict):
        return False
    if session.images_seen > session.progress.logged_images and outputs.log(session):
        resume.roll_back(session)
        return _has_ended(session, verdict)
    return True


def expected_images(session: Session) -> int:
    """Estimate how many images the run will see, for the progress bar's remaining time."""
    recipe, seen = session.recipe, session.images_seen
    if recipe.max_minutes is None or not seen:
        return recipe.max_images
    by_then = round(seen * 60 * recipe.max_minutes / max(session.seconds, 1e-9))
    return min(recipe.max_images, max(by_then, seen))


def _progress_bar(session: Session) -> tqdm:
    return tqdm(
        initial=session.images_seen,
        total=expected_images(session),
        unit="img",
        desc=session.recipe.name,
        disable=not session.is_main,
        smoothing=0.05,
        mininterval=1 if sys.stderr.isatty() else 20,  # fewer lines in a log file
    )
