"""A run from its first image to its last: when to step, show, save, go back and stop."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from fagan_hf.architectures.load import save_architecture
from fagan_hf.data.cache import Images
from fagan_hf.data.prepare import prepare_images
from fagan_hf.data.stream import ImageStream, open_stream
from fagan_hf.hub.card import write_card
from fagan_hf.hub.repository import (
    ARCHITECTURE,
    CARD,
    CHECKPOINTS,
    DISCRIMINATOR,
    GENERATOR,
    RECIPE,
    save_repository,
    write_text,
)
from fagan_hf.layers import gates, spectral_norms
from fagan_hf.losses import LOSSES
from fagan_hf.models import Discriminator, Generator
from fagan_hf.training.distributed.launch import check_launcher, cores_of_a_process
from fagan_hf.training.distributed.processes import Processes
from fagan_hf.training.distributed.signals import StopRequest
from fagan_hf.training.recipe import Recipe
from fagan_hf.training.reporting.evaluation import Evaluation, Evaluator, keep_if_best, numbers_of
from fagan_hf.training.reporting.health import (
    MAX_RETURNS,
    SLOWER,
    DivergedError,
    SkippedSteps,
    describe_loss,
    diagnose,
    report_failure,
)
from fagan_hf.training.reporting.means import Means, means_of
from fagan_hf.training.reporting.publisher import STOPPED_PATIENCE_SECONDS, Publisher
from fagan_hf.training.reporting.report import Report, farewell
from fagan_hf.training.reporting.samples import sample_grid
from fagan_hf.training.reporting.trackers import Tracker, accelerator_options, check_tracker
from fagan_hf.training.run.checkpoint import Checkpoints, Files
from fagan_hf.training.run.disk import when_there_is_room
from fagan_hf.training.run.facts import environment_facts, peak_memory_mb
from fagan_hf.training.run.folder import check_architecture, check_folder, check_same_recipe, hold_folder
from fagan_hf.training.run.origin import (
    Origin,
    check_origin,
    copy_history,
    copy_training_state,
    find_origin,
    restore_weights,
)
from fagan_hf.training.run.progress import Progress
from fagan_hf.training.step.batches import Batches
from fagan_hf.training.step.compilation import check_compilation
from fagan_hf.training.step.cuda_graphs import GraphedSteps
from fagan_hf.training.step.ema import AveragedGenerator
from fagan_hf.training.step.randomness import random_seed
from fagan_hf.training.step.regularization import Regularization
from fagan_hf.training.step.steps import Player, Trainer, make_player
from fagan_hf.utils.files import remove_abandoned, replacing
from fagan_hf.utils.redaction import redact

T = TypeVar("T")

AGREEMENT_SECONDS = 0.5  # several processes ask each other so often whether to end


class Run:
    """A training run in its folder, which no other run may use until this one ends.

    Args:
        recipe: What to train, on what, and how.

    Raises:
        ValueError: The images can't be used or are too few, the batch can't be shared by the processes, the folder
            belongs to another recipe, or another process trains there.
        FileNotFoundError: There is no such data set.
        ImportError: There is no such tracker.
        OSError: The folder or the image cache can't be written.
    """

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        check_launcher(recipe)
        check_tracker(recipe.report_to)
        self.processes = Processes(recipe.mixed_precision, **accelerator_options(recipe.report_to, recipe.run_dir))
        self.is_main = self.processes.is_main
        check_compilation(
            recipe.compile,
            self.processes.device,
            processes=self.processes.count,
            accumulation=recipe.gradient_accumulation,
        )
        if self.processes.device.type == "cpu":
            torch.set_num_threads(recipe.cpu_threads or cores_of_a_process())
        self.progress = Progress(processes=self.processes.count)
        self.origin: Origin | None = None
        self.publisher: Publisher | None = None
        self.lock = None
        with self.processes.at_own_pace():
            if self.is_main:
                self.lock = hold_folder(recipe)
                check_folder(recipe)
        check_same_recipe(recipe, self.processes.told_by_main(recipe.to_yaml()))
        if recipe.resume_from or recipe.finetune_from:
            self.origin = self._find_origin(recipe.resume_from or recipe.finetune_from or "")
        with self.processes.at_own_pace():
            self.publisher = self._make_publisher()
            images = self._open_images()
        self.architecture = recipe.networks(images.label_names)
        generator_config, discriminator_config = self.architecture
        self.processes.by_main(lambda: check_architecture(recipe, self.architecture))
        self.batches = Batches(
            images,
            recipe,
            generator_config.latent_dim,
            self.processes.device,
            self.processes.index,
            self.processes.count,
        )
        if self.batches.content != self.processes.told_by_main(self.batches.content):
            raise ValueError(f"{recipe.dataset} holds other images in this process than in the main one")
        torch.manual_seed(random_seed(recipe.seed, "initial_weights"))
        generator, discriminator = Generator(generator_config), Discriminator(discriminator_config)
        if generator.label_frequencies is not None:
            generator.label_frequencies.copy_(torch.from_numpy(images.labels).mean(0))
        self.generator, self.discriminator = generator, discriminator
        # Copied before `prepare` makes the batch norms of several processes wait for each other: the main process alone
        # measures the average. Its parameters lie in memory as the trained ones do, so that all move in one pass.
        self.averaged = AveragedGenerator(generator, recipe.ema_half_life_images, recipe.ema_ramp)
        self.averaged.model.to(self.processes.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        players = self._player(generator), self._player(discriminator)
        self.trainer = Trainer(self.processes, *players, LOSSES[recipe.loss], recipe.augment, Regularization.of(recipe))
        self.graphed = GraphedSteps(self.trainer) if recipe.compile == "cuda_graphs" else None
        self.checkpoints = Checkpoints(
            recipe.run_dir / CHECKPOINTS,
            {"generator": generator, "discriminator": discriminator, "averaged_generator": self.averaged.model},
            {"generator_optimizer": players[0].optimizer, "discriminator_optimizer": players[1].optimizer},
            recipe.keep_checkpoints,
        )
        self.evaluator = self._make_evaluator(images)
        self.report = Report(recipe.run_dir)
        self.tracker = Tracker(
            self.processes.accelerator, recipe.report_to, recipe.run_dir, recipe.to_plain(), self._tell
        )
        self.means = Means(self.processes.device)  # since the last line
        self.skipped = SkippedSteps(self.processes.device)
        self.stop_request = StopRequest()
        self._started = time.monotonic()
        self._last_line: dict[str, Any] = {}
        self._measured: dict[str, float] = {}  # for the next line
        self._evaluation: tuple[int | None, Evaluation | None] = None, None  # after how many images, and the newest
        self._refreshed_at: int | None = None  # images seen when the averaged generator was last measured
        self._shown_at: int | None = None  # the same of samples.png
        self._drawn_at: int | None = None  # the same of the newest in samples/
        self._agreed = (0, 0.0)  # images and seconds when the processes last agreed
        self._steps_to_agreement = 0

    @property
    def images_seen(self) -> int:
        """Real images that went through steps."""
        return self.progress.images_seen

    @property
    def seconds(self) -> float:
        """Time of training, over all sessions; a clock that is set does not change it."""
        return self.progress.seconds

    def _find_origin(self, name: str) -> Origin:
        """Find the model to start from, the same commit of it in every process."""
        with self.processes.at_own_pace():
            origin = find_origin(name)
        commit = self.processes.told_by_main(origin.commit)
        with self.processes.at_own_pace():
            return origin if commit == origin.commit else find_origin(f"{name.partition('@')[0]}@{commit}")

    def _open_images(self) -> Images | ImageStream:
        source, processes = self.recipe.source(), self.processes
        if self.recipe.streaming:
            return open_stream(source, seed=self.recipe.seed, process=processes.index, processes=processes.count)
        return prepare_images(source, progress=self.is_main)

    def _make_evaluator(self, images: Images | ImageStream) -> Evaluator | None:
        if not self.recipe.eval_every_images:
            return None
        assert isinstance(images, Images), "a recipe refuses to measure with a stream"
        with self.processes.at_own_pace():
            return Evaluator(images, self.recipe.eval_features, self.recipe.eval_num_images, self.processes)

    def _make_publisher(self) -> Publisher | None:
        """Check early that the run can be pushed: nobody wants to find out after hours."""
        if self.recipe.push_to_hub is None or not self.is_main:
            return None
        publisher = Publisher(
            self.recipe.run_dir,
            self.recipe.push_to_hub,
            private=self.recipe.hub_private,
            with_training_state=self.recipe.push_training_state,
            tell=tqdm.write,
        )
        publisher.check()
        return publisher

    def _player(self, network: Generator | Discriminator) -> Player:
        is_generator = isinstance(network, Generator)
        rate = self.recipe.generator_learning_rate if is_generator else self.recipe.discriminator_learning_rate
        recipe = self.recipe
        return make_player(
            self.processes, network, rate, recipe.betas, recipe.compile, max_gradient_norm=recipe.max_gradient_norm
        )

    def train(self) -> None:
        """Train until the recipe's end, from the newest checkpoint if there is one.

        Raises:
            ValueError: The model that the run starts from has another architecture, the images have changed, or the
                checkpoint is of a newer version.
            FileNotFoundError: It lacks a file.
            OSError: The disk is full, and stays it.
            DivergedError: Losses or gradients are not finite, and going back to a checkpoint did not help.
            OtherProcessError: Another process has failed in what it did alone.
            RuntimeError: Another process is gone.
        """
        try:
            self._train()
        finally:
            self.tracker.finish()
            self.batches.close()
            if self.lock is not None:
                self.lock.release()

    def _train(self) -> None:
        self._restore()
        is_stopped, is_late = self._agree()
        is_saved = False
        if self._is_over(is_late):
            self._tell(f"Nothing is left to do after {self.images_seen:,} images: raise --max_images or --max_minutes.")
        with self.stop_request.listening(), self._progress_bar() as bar:
            while not is_stopped and not self._has_ended(is_late):
                self._step()
                bar.update(self.recipe.batch_size)
                is_lost, is_measured = False, self._is_due("eval") and self._measure()
                if self._is_due("log") or is_measured:
                    is_lost = self._log()
                    self._show_numbers(bar)
                if is_lost:
                    self._go_back()
                    bar.n = self.images_seen
                    continue
                if self._is_due("sample"):
                    self._show()
                is_stopped, is_late = self._agree()
                if self._is_due("checkpoint") or is_stopped:
                    is_saved = self._save_if_well()
            bar.close()  # what follows is told below it
            if is_stopped:
                from_where = "and saved; the same command goes on from here" if is_saved else "and did not save"
                self._tell(f"Asked to end, {from_where}.")
            else:
                self._finish()
            with self.processes.at_own_pace():
                self.tracker.finish()
            self.processes.end()
        if self.publisher is not None:
            self.publisher.finish(STOPPED_PATIENCE_SECONDS if is_stopped else None)

    def _restore(self) -> None:
        """Stand where the newest checkpoint was, or where the model is that the run starts from."""
        found = self.processes.by_main(lambda: self.checkpoints.read(self._check_state) or self._read_pushed_state())
        if self.processes.told_by_main(found is not None):
            self._take_up(found)
        else:
            self._start_from_weights()
        self._open_stream()
        self._started = time.monotonic() - self.progress.seconds
        self.progress.data = {"content": self.batches.content, "description": self.batches.images.description}
        self._main_writes(self._begin_folder)
        self.processes.by_main(lambda: self.tracker.start(self.images_seen))
        if self.images_seen:
            self._tell(f"Going on after {self.images_seen:,} images.")

    def _check_state(self, state: dict[str, Any]) -> None:
        """Refuse a checkpoint of a newer version, one behind the model to resume, and one of other images."""
        progress = Progress.from_state(state)
        ahead = self.origin.facts.get("images_seen", 0) if self.origin and self.recipe.resume_from else 0
        if ahead > progress.images_seen:
            raise ValueError(
                f"{self.recipe.run_dir} has seen {progress.images_seen:,} images, {self.recipe.resume_from} {ahead:,}: "
                "to go on from there remove the folder or give another --name, to go on from here leave out "
                "--resume_from"
            )
        if self._has_other_data(progress) and not self.recipe.accept_changed_data:
            before, now = (
                each.get("count") for each in (progress.data["description"], self.batches.images.description)
            )
            change = f"{before:,} then, {now:,} now" if before and now and before != now else "other pixels or labels"
            raise ValueError(
                f"the images of {self.recipe.dataset!r} are not those that the run began with ({change}). Bring them "
                "back, give another --name, or go on with these: --accept_changed_data true"
            )

    def _has_other_data(self, progress: Progress) -> bool:
        return bool(progress.data) and progress.data["content"] != self.batches.content

    def _read_pushed_state(self) -> tuple[dict[str, Any], Files] | None:
        """Read the training state that was pushed with the model to resume, as if it had been trained here."""
        if self.origin is None or not self.recipe.resume_from:
            return None
        self._refuse_to_do_nothing(self.origin)
        if self.origin.training_state is None:
            return None
        origin, lineage = self.origin, self._lineage_of(self.origin)
        check_origin(origin, self.generator, self.discriminator, self._check_state)
        self._when_there_is_room(
            lambda: copy_training_state(origin, self.checkpoints.folder, self.report.metrics_path, lineage)
        )
        return self.checkpoints.read(self._check_state)

    def _take_up(self, found: tuple[dict[str, Any], Files] | None) -> None:
        """Stand where a checkpoint was that the main process has read; the others need no folder with it."""
        state = self.processes.told_by_main(found[0] if found else None)
        numbers = self.checkpoints.take_up(self.processes.share(found[1] if found else {}))
        if self.graphed is not None:
            self.graphed.forget()  # the optimizers have other tensors now
        self.progress = Progress.from_state(state)
        progress, count = self.progress, self.processes.count
        self.means.clear()
        if progress.told:
            tables = numbers["means"]
            is_same = len(tables) == count
            self.means.take_up(progress.told, tables[self.processes.index] if is_same else tables.mean(0))
        self.skipped.counts = numbers.get("skipped_steps", torch.zeros(4)).to(self.processes.device)
        if progress.processes != count:
            self._note(
                f"Going on with {count} process{'es' if count > 1 else ''} after {progress.processes}: the same "
                "batches in the same order, but sums are rounded differently."
            )
            progress.processes = count
        if self._has_other_data(progress):
            self._note("Going on with other images than before, as accept_changed_data says.")
            earlier = progress.lineage.setdefault("earlier_data", [])
            if progress.data["description"] not in earlier:
                earlier.insert(0, progress.data["description"])
        self._refreshed_at = self._shown_at = self._drawn_at = None

    def _open_stream(self) -> None:
        """Let the batches go on from where the run stands; from a stream that may take its time."""
        with self.processes.at_own_pace():
            self.batches.go_to(self.images_seen, self.progress.returns)
        if self.images_seen and self.recipe.streaming and self.batches.images.description["source"] == "hub":
            self._note("The images are streamed: around this point some may come twice, and others not in this epoch.")

    def _start_from_weights(self) -> None:
        """Take over the weights of another model, and with `resume_from` its progress as far as it tells."""
        if self.origin is None:
            return
        is_resumed = self.recipe.resume_from is not None
        origin, networks = self.origin, self.checkpoints.networks
        told = self.processes.by_main(
            lambda: restore_weights(origin, self.generator, self.discriminator, self.averaged.model)
        )
        self._tell(f"{origin.name} has no training state. {told}" if is_resumed else told or "")
        weights = self.processes.share({name: network.state_dict() for name, network in networks.items()})
        for name, network in networks.items():
            network.load_state_dict(weights[name])
        self.progress.lineage = self.processes.told_by_main(self._lineage_of(origin))
        if not is_resumed:
            return
        facts = self.processes.told_by_main(origin.facts)
        if "images_seen" not in facts:
            self._tell(f"{origin.name} does not say how many images it has seen: counting from 0.")
        self.progress.images_seen = self.progress.logged_images = facts.get("images_seen", 0)
        self.progress.seconds = self.progress.logged_seconds = facts.get("seconds", 0.0)
        self.progress.lines = None
        self._main_writes(lambda: copy_history(origin, self.report.metrics_path))

    def _lineage_of(self, origin: Origin) -> dict[str, Any]:
        is_resumed = self.recipe.resume_from is not None
        return origin.lineage(is_resumed=is_resumed, data=self.batches.images.description)

    def _refuse_to_do_nothing(self, origin: Origin) -> None:
        """Say so before anything is written if the model has come to the recipe's end already.

        Raises:
            ValueError: It has.
        """
        images, minutes = origin.facts.get("images_seen", 0), origin.facts.get("seconds", 0.0) / 60
        if images >= self.recipe.max_images or minutes >= (self.recipe.max_minutes or math.inf):
            raise ValueError(
                f"nothing is left to do: {origin.name} has seen {images:,} images in {minutes:.1f} minutes, where the "
                "recipe ends; raise --max_images or --max_minutes"
            )

    def _begin_folder(self) -> None:
        """Write what a run folder has before the first step; also the checkpoint to go back to before the next one."""
        folder = self.recipe.run_dir
        folder.mkdir(parents=True, exist_ok=True)
        for each in (folder, folder / GENERATOR, folder / DISCRIMINATOR, self.report.samples_folder):
            remove_abandoned(each)
        write_text(folder / RECIPE, redact(self.recipe.to_yaml()))
        with replacing(folder / ARCHITECTURE) as path:
            save_architecture(path, self.architecture)
        self.report.rewind(self.images_seen, self.progress.lines)
        self.progress.lines = len(self.report.lines())
        if not self.checkpoints.all():
            self._write_checkpoint({})

    def _step(self) -> None:
        batch_size, seen, processes = self.recipe.batch_size, self.images_seen, self.processes
        # What draws from torch's own generator, dropout, shall draw the same after a restart.
        torch.manual_seed(
            random_seed(self.recipe.seed, "dropout", seen * processes.count + processes.index, self.batches.attempt)
        )
        for_discriminator, for_generator = self.batches.make(seen)
        self._set_learning_rates(seen + batch_size)
        step = seen // batch_size
        stepper = self.graphed or self.trainer
        numbers = stepper.step(for_discriminator, for_generator, step)
        self.progress.images_seen += batch_size
        self.averaged.update(self.generator, batch_size, self.images_seen)
        self.skipped.add(numbers.pop("discriminator_skipped"), numbers.pop("generator_skipped"))
        self.means.add(numbers)  # stays on the device: nothing waits for it
        self.progress.seconds = time.monotonic() - self._started

    def _set_learning_rates(self, images: int) -> None:
        """Warm up, decay, and slow down after every return."""
        recipe = self.recipe
        share = min(1.0, images / recipe.warmup_images) if recipe.warmup_images else 1.0
        if recipe.decay_after_images is not None:
            share *= max(1.0, images / recipe.decay_after_images) ** -0.5
        share *= SLOWER**self.progress.returns
        self.trainer.generator.set_learning_rate(share * recipe.generator_learning_rate)
        self.trainer.discriminator.set_learning_rate(share * recipe.discriminator_learning_rate)

    def _is_due(self, what: str) -> bool:
        interval = getattr(self.recipe, f"{what}_every_images")
        if not interval:
            return False
        return self.images_seen // interval > (self.images_seen - self.recipe.batch_size) // interval

    def _is_over(self, is_late: bool) -> bool:
        return is_late or self.images_seen >= self.recipe.max_images

    def _has_ended(self, is_late: bool) -> bool:
        """Say whether the run is over and well; write what came after the last line, and go back if that is lost."""
        if not self._is_over(is_late):
            return False
        if self.images_seen > self.progress.logged_images and self._log():
            self._go_back()
            return self._has_ended(is_late)
        return True

    def _agree(self) -> tuple[bool, bool]:
        """Say whether any process was asked to end, and whether any one's time is over.

        Clocks differ and signals arrive at different moments, so all must hear it at the same step. Asking costs a wait
        for the device: several processes do it about twice a second, by the main one's clock.
        """
        minutes = self.recipe.max_minutes
        wishes = [self.stop_request.is_made, minutes is not None and self.seconds >= 60 * minutes]
        if self.processes.count == 1:
            return wishes[0], wishes[1]
        self._steps_to_agreement -= 1
        if self._steps_to_agreement > 0:
            return False, False
        images, seconds = self.images_seen - self._agreed[0], self.seconds - self._agreed[1]
        pace = images / self.recipe.batch_size / max(seconds, 1e-3) if self.is_main else 0.0
        stops, lates, steps_per_second = self.processes.sums([*map(float, wishes), pace])
        self._agreed = self.images_seen, self.seconds
        self._steps_to_agreement = max(1, round(AGREEMENT_SECONDS * steps_per_second))
        return stops > 0, lates > 0

    def _log(self) -> bool:
        """Write a line of means since the last one; give whether the run is lost."""
        progress = self.progress
        images, seconds = self.images_seen - progress.logged_images, self.seconds - progress.logged_seconds
        skipped, is_lost = self.skipped.read()
        means = means_of(self.means.names(), self.processes.gather(self.means.table()[None]))
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        blends = {
            f"{name}.{gate}": value.item() for name, net in networks.items() for gate, value in gates(net).items()
        }
        sigmas = {
            f"{name}.largest_sigma": max(norm.item() for norm in norms.values())
            for name, network in networks.items()
            if (norms := spectral_norms(network))
        }
        sigmas = {name: sigma for name, sigma in sigmas.items() if math.isfinite(sigma)}  # JSON knows no others
        line: dict[str, Any] = {
            "images": self.images_seen,
            "seconds": round(self.seconds, 2),
            "images_per_second": round(images / max(seconds, 1e-9), 2),
            "peak_memory_mb": peak_memory_mb(self.processes.device),
            **means,
            **skipped,
            **blends,
            **sigmas,
            **self._measured,
        }
        self._measured = {}
        progress.symptoms, warnings, news = diagnose(line, progress.symptoms)
        line |= {"warnings": warnings} if warnings else {}
        line |= {"events": progress.events} if progress.events else {}
        for text in news:
            self._tell(text)
        self.means.clear()
        progress.events = []
        progress.logged_images, progress.logged_seconds = self.images_seen, self.seconds
        progress.lines = (progress.lines or 0) + 1
        self._last_line = line
        self.processes.by_main(lambda: self._write_line(line))
        return is_lost

    def _write_line(self, line: dict[str, Any]) -> None:
        self._when_there_is_room(lambda: self.report.add_line(line))
        self.tracker.log(line, self.images_seen)

    def _show_numbers(self, bar: tqdm) -> None:
        bar.total = self._expected_images()
        losses = {player: self._last_line.get(f"{player}_loss", math.nan) for player in ("generator", "discriminator")}
        skipped = sum(self._last_line[f"{player}_skipped_steps"] for player in losses)
        shown = {"G": f"{losses['generator']:.3f}", "D": f"{losses['discriminator']:.3f}"}
        bar.set_postfix(shown | ({"skipped": skipped} if skipped else {}))

    def _go_back(self) -> None:
        """Return to the newest checkpoint, for other draws and slower learning.

        Raises:
            DivergedError: That did not help before.
        """
        before = self.progress
        lost_at, returns, seconds = before.images_seen, before.returns + 1, before.seconds
        if returns > MAX_RETURNS:
            raise DivergedError(report_failure(self._last_line, self.progress.returns, self.recipe.run_dir))
        why = describe_loss(self._last_line)
        self._take_up(self.processes.by_main(self.checkpoints.read))
        self.skipped.begin_again()
        self.progress.returns = returns
        self.progress.data, self.progress.lineage = before.data, before.lineage  # a checkpoint may be of others
        self._open_stream()
        self.progress.seconds = self.progress.logged_seconds = seconds
        self._note(
            f"Went back from {lost_at:,} to {self.images_seen:,} images, return {returns} of {MAX_RETURNS}: {why}. "
            f"Images come in a new order and learning rates are {SLOWER**returns:g} times the recipe's."
        )
        with self.processes.at_own_pace():
            if self.is_main:
                forgotten = self._when_there_is_room(lambda: self.report.rewind(self.images_seen, self.progress.lines))
                events = [event for line in forgotten for event in line.get("events", [])]  # told again, or lost
                self.progress.events = list(dict.fromkeys([*events, *self.progress.events]))
                self.progress.lines = len(self.report.lines())

    def _expected_images(self) -> int:
        """Estimate how many images the run will see, for the bar's time of arrival."""
        if self.recipe.max_minutes is None or not self.images_seen:
            return self.recipe.max_images
        by_then = round(self.images_seen * 60 * self.recipe.max_minutes / max(self.seconds, 1e-9))
        return min(self.recipe.max_images, max(by_then, self.images_seen))

    def _measure(self) -> bool:
        """Measure the averaged generator, for the next line, and keep it if it is the best; give whether it was done.

        Its time is not the training's: runs with and without it compare.
        """
        if self.evaluator is None or self.skipped.is_skipping:
            return False
        started = time.monotonic()
        with self.processes.at_own_pace():
            generator = self._averaged_generator()
        evaluation = self.evaluator.measure(generator)
        self._main_writes(lambda: self._keep_if_best(evaluation, generator))
        self._measured = numbers_of(evaluation) if evaluation else {}
        self._evaluation = self.images_seen, evaluation
        self._started += time.monotonic() - started
        return True

    def _keep_if_best(self, evaluation: Evaluation | None, generator: Generator) -> None:
        assert evaluation is not None, "the main process has it"
        keep_if_best(self.recipe.run_dir, evaluation, generator, self.discriminator, self._facts())

    def _show(self) -> None:
        self.processes.by_main(self._draw)
        self._drawn_at = self.images_seen

    def _draw(self) -> None:
        grid = sample_grid(self._averaged_generator())
        self._when_there_is_room(lambda: self.report.add_samples(self.images_seen, grid))
        self._when_there_is_room(self.report.draw_plots)
        self._shown_at = self.images_seen
        self.tracker.show(grid, self.images_seen)

    def _save_if_well(self) -> bool:
        """Save, unless steps are being skipped: the checkpoint before is a better place to come back to."""
        if self.skipped.is_skipping:
            self._tell(f"No checkpoint after {self.images_seen:,} images, for the last step had to be skipped.")
            return False
        self._save()
        self._publish()
        return True

    def _save(self) -> None:
        table = self.processes.gather(self.means.table()[None])
        self._main_writes(lambda: self._write_model(table))

    def _write_model(self, means: torch.Tensor) -> None:
        if self._shown_at != self.images_seen:  # what is saved is what is shown
            self.report.show_samples(sample_grid(self._averaged_generator()))
            self._shown_at = self.images_seen
        folder = self.recipe.run_dir
        save_repository(folder, self._averaged_generator(), self.discriminator, self._facts())
        measured_at, evaluation = self._evaluation
        if evaluation is not None and measured_at == self.images_seen:
            evaluation.keep(folder)
        self._write_card()
        self._write_checkpoint({"means": means})

    def _write_checkpoint(self, numbers: dict[str, torch.Tensor]) -> None:
        self.progress.told = self.means.names()
        numbers = {**numbers, "skipped_steps": self.skipped.counts}
        self.checkpoints.save(self.images_seen, self.progress.to_state(), numbers)

    def _facts(self) -> dict[str, Any]:
        """Collect what the card is written from."""
        environment = environment_facts(self.processes.device.type, self.processes.count)
        return {
            **self.progress.facts(environment),
            "data": self.batches.images.description,
            "weights_license": self.recipe.weights_license,
        }

    def _write_card(self) -> None:
        path = self.recipe.run_dir / CARD
        existing = path.read_text(encoding="utf-8") if path.is_file() else None
        try:
            repo_id = self.publisher.repo_id if self.publisher else None
            write_text(path, write_card(self.recipe.run_dir, repo_id, existing))
        except Exception as error:  # whatever people wrote there, it is no reason to end a run
            self._tell(f"{path} is left as it is: {error}")

    def _publish(self) -> None:
        with self.processes.at_own_pace():
            if self.publisher is not None:
                self.publisher.push(self.images_seen)

    def _averaged_generator(self) -> Generator:
        """Give the averaged generator as it is shown and saved, measuring it once where both happen."""
        if self._refreshed_at != self.images_seen:
            self.averaged.refresh(self.generator, self.recipe.seed, self.batches.images.labels)
            self._refreshed_at = self.images_seen
        return self.averaged.model

    def _finish(self) -> None:
        if self._evaluation[0] != self.images_seen and self._measure():
            self._log()
        if self._drawn_at != self.images_seen:
            self._show()
        else:  # the plots may lack the last line
            self._main_writes(self.report.draw_plots)
        self._main_writes(lambda: self.report.make_gif(self.recipe.gif_frames))
        self._save()
        self._tell(farewell(self.recipe, self.images_seen, self.seconds))
        self._publish()

    def _progress_bar(self) -> tqdm:
        return tqdm(
            initial=self.images_seen,
            total=self._expected_images(),
            unit="img",
            desc=self.recipe.name,
            disable=not self.is_main,
            smoothing=0.05,
            mininterval=1 if sys.stderr.isatty() else 20,  # a log file wants fewer lines
        )

    def _tell(self, message: str) -> None:
        if self.is_main:
            tqdm.write(message)

    def _note(self, event: str) -> None:
        """Tell something that the next line of `metrics.jsonl` shall tell as well."""
        self._tell(event)
        self.progress.events = [*self.progress.events, event]

    def _main_writes(self, write: Callable[[], Any]) -> None:
        self.processes.by_main(lambda: self._when_there_is_room(write))

    def _when_there_is_room(self, write: Callable[[], T]) -> T:
        return when_there_is_room(
            write, self.recipe.run_dir, tell=self._tell, is_stopped=lambda: self.stop_request.is_made
        )
