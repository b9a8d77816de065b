"""What a run writes during training: metrics, sample grids, evaluations, checkpoints, models, pushes."""

import math
import time
from typing import Any

import torch

from fagan_hf.hub.card import write_card
from fagan_hf.hub.repository import CARD, LOSSES, save_repository, write_text
from fagan_hf.layers import gates, spectral_norms
from fagan_hf.models import Generator
from fagan_hf.training.reporting.copies import compare_copies
from fagan_hf.training.reporting.diversity import diversity
from fagan_hf.training.reporting.evaluation import Evaluation, keep_if_best, numbers_of
from fagan_hf.training.reporting.health import DIVERSITY, diagnose
from fagan_hf.training.reporting.means import means_of
from fagan_hf.training.reporting.report import summary
from fagan_hf.training.reporting.samples import generate_samples
from fagan_hf.training.run.facts import environment_facts, peak_memory_mb
from fagan_hf.training.run.session import Session
from fagan_hf.training.run.snapshots import save_snapshot


def log(session: Session) -> bool:
    """Write a line of means since the last one; return whether the run has diverged."""
    progress = session.progress
    images, seconds = session.images_seen - progress.logged_images, session.seconds - progress.logged_seconds
    skipped, is_lost = session.skipped.read()
    means = means_of(session.means.names(), session.processes.gather(session.means.table()[None]))
    line: dict[str, Any] = {
        "images": session.images_seen,
        "seconds": round(session.seconds, 2),
        "images_per_second": round(images / max(seconds, 1e-9), 2),
        "peak_memory_mb": peak_memory_mb(session.processes.device),
        **means,
        **skipped,
        **_state_of_networks(session),
        **progress.measured,
    }
    progress.measured = {}
    progress.symptoms, warnings, news = diagnose(line, progress.symptoms)
    line |= {"warnings": warnings} if warnings else {}
    line |= {"events": progress.events} if progress.events else {}
    for text in news:
        session.tell(text)
    session.means.clear()
    progress.events = []
    progress.logged_images, progress.logged_seconds = session.images_seen, session.seconds
    progress.lines = (progress.lines or 0) + 1
    session.last_line = line

    def write() -> None:
        session.when_there_is_room(lambda: session.report.add_line(line))
        session.tracker.log(line, session.images_seen)
        if session.display is not None:
            session.display.show_line(session.recipe.name, line)

    session.processes.run_on_main(write)
    return is_lost


def _state_of_networks(session: Session) -> dict[str, float]:
    """Return every gate, and the largest spectral norm of each network that has one."""
    networks = {"generator": session.generator, "discriminator": session.discriminator}
    blends = {f"{name}.{gate}": value.item() for name, net in networks.items() for gate, value in gates(net).items()}
    sigmas = {
        f"{name}.largest_sigma": max(norm.item() for norm in norms.values())
        for name, network in networks.items()
        if (norms := spectral_norms(network))
    }
    return blends | {name: sigma for name, sigma in sigmas.items() if math.isfinite(sigma)}  # JSON has no others


def shown_numbers(session: Session) -> dict[str, Any]:
    """Return the metrics of the newest line that the progress bar shows."""
    line = session.last_line
    losses = {player: line.get(f"{player}_loss", math.nan) for player in ("generator", "discriminator")}
    skipped = sum(line[f"{player}_skipped_steps"] for player in losses)
    shown = {"G": f"{losses['generator']:.3f}", "D": f"{losses['discriminator']:.3f}"}
    return shown | ({"skipped": skipped} if skipped else {})


def measure(session: Session) -> bool:
    """Evaluate the averaged generator for the next line, and keep it if it is the best; return whether it was done.

    Its time does not count as training time, so runs with and without evaluation are comparable.
    """
    if session.evaluator is None or session.skipped.is_skipping:
        return False
    started = time.monotonic()
    with session.processes.uneven_work():
        generator = session.averaged_generator()
    evaluation = session.evaluator.measure(generator)
    session.main_writes(lambda: _keep_if_best(session, evaluation, generator))
    session.main_writes(lambda: _save_snapshot(session))
    if evaluation is not None:  # in the main process
        session.progress.measured |= numbers_of(evaluation)
        session.progress.copies, warning = compare_copies(evaluation, session.images_seen, session.progress.copies)
        if warning is not None:
            session.note(f"{warning}.")
    session.evaluation = evaluation
    session.last_done.note("evaluated", session.images_seen)
    session.started += time.monotonic() - started
    return True


def _keep_if_best(session: Session, evaluation: Evaluation | None, generator: Generator) -> None:
    assert evaluation is not None, "the main process has the result"
    keep_if_best(session.recipe.run_dir, evaluation, generator, session.discriminator, _facts(session))


def _save_snapshot(session: Session) -> None:
    if session.recipe.snapshot_bytes and not session.last_done.is_current("kept", session.images_seen):
        save_snapshot(
            session.recipe.run_dir, session.images_seen, session.averaged_generator(), session.recipe.snapshot_bytes
        )
        session.last_done.note("kept", session.images_seen)


def show(session: Session) -> None:
    """Draw the grid of samples and the plots."""
    session.processes.run_on_main(lambda: _draw(session))
    session.last_done.note("drawn", session.images_seen)


def _draw(session: Session) -> None:
    samples = generate_samples(session.averaged_generator())
    if session.is_due("sample") and session.real_diversity:
        channels_first = samples.images.transpose(0, 3, 1, 2)
        session.progress.measured[DIVERSITY] = diversity(channels_first) / session.real_diversity
    grid = samples.grid()
    session.when_there_is_room(lambda: session.report.add_samples(session.images_seen, grid))
    session.when_there_is_room(session.report.draw_plots)
    session.last_done.note("shown", session.images_seen)
    session.tracker.show(grid, session.images_seen)
    if session.display is not None:
        session.display.show_grid(grid)
        session.display.show_plot(session.recipe.run_dir / LOSSES)


def save_if_healthy(session: Session) -> bool:
    """Save, unless steps are being skipped: then the previous checkpoint is the better one to return to."""
    if session.skipped.is_skipping:
        session.tell(f"No checkpoint at {session.images_seen:,} images because the last step was skipped.")
        return False
    save(session)
    publish(session)
    return True


def save(session: Session) -> None:
    """Write the model, its card and a checkpoint."""
    table = session.processes.gather(session.means.table()[None])
    session.main_writes(lambda: _write_model(session, table))


def _write_model(session: Session, means: torch.Tensor) -> None:
    folder, images = session.recipe.run_dir, session.images_seen
    if not session.last_done.is_current("shown", images):  # the saved model is the one in the grid
        session.report.show_samples(generate_samples(session.averaged_generator()).grid())
        session.last_done.note("shown", images)
    save_repository(folder, session.averaged_generator(), session.discriminator, _facts(session))
    if session.evaluation is not None and session.last_done.is_current("evaluated", images):
        session.evaluation.keep(folder)
    _write_card(session)
    _save_snapshot(session)
    write_checkpoint(session, {"means": means})


def write_checkpoint(session: Session, numbers: dict[str, torch.Tensor]) -> None:
    """Write a checkpoint now; ``numbers`` are tensors besides those of the networks and optimizers."""
    session.progress.metrics = session.means.names()
    numbers = {**numbers, "skipped_steps": session.skipped.counts}
    if (probability := session.trainer.probability) is not None:
        numbers["augment_probability"] = probability.state
    numbers |= {name: scale.state for name, scale in session.trainer.loss_scales().items()}
    session.checkpoints.save(session.images_seen, session.progress.to_state(), numbers)


def _facts(session: Session) -> dict[str, Any]:
    """Collect the facts that the card is written from."""
    environment = environment_facts(session.processes.device.type, session.processes.count)
    if session.command is not None:
        environment = environment | {"command": session.command}
    return {
        **session.progress.facts(environment),
        "data": session.images.description,
        "weights_license": session.recipe.weights_license,
    }


def _write_card(session: Session) -> None:
    folder = session.recipe.run_dir
    path = folder / CARD
    existing = path.read_text(encoding="utf-8") if path.is_file() else None
    try:
        repo_id = session.publisher.repo_id if session.publisher else None
        write_text(path, write_card(folder, repo_id, existing))
    except Exception as error:  # user edits of the card must not end a run
        session.tell(f"{path} is left unchanged: {error}")


def publish(session: Session) -> None:
    """Push what was saved, in the background."""
    with session.processes.uneven_work():
        if session.publisher is not None:
            session.publisher.push(session.images_seen)


def finish(session: Session) -> None:
    """Evaluate and save the finished model, update the plots, and print how to use the model."""
    images = session.images_seen
    if not session.last_done.is_current("evaluated", images) and measure(session):
        log(session)
    if not session.last_done.is_current("drawn", images):
        show(session)
    else:  # the plots may lack the last line
        session.main_writes(session.report.draw_plots)
    session.main_writes(lambda: session.report.make_gif(session.recipe.gif_frames))
    save(session)
    session.tell(summary(session.recipe, images, session.seconds))
    publish(session)
